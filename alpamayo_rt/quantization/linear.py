# SPDX-License-Identifier: Apache-2.0
"""Linear layers whose weights have eight or four bits."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from alpamayo_rt.errors import ModelError
from alpamayo_rt.quantization.formats import (
    E4M3_MAX,
    E4m3,
    Int4,
    from_int4,
    groups_of,
    to_e4m3,
    to_int4,
    weight_to_e4m3,
)


def has_fp8(device: torch.device) -> bool:
    """Whether a device multiplies e4m3 itself (Ada, Hopper and later)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


class QuantizedLinear(nn.Module):
    """What both kinds share: sizes, a bias in the surrounding type, tensors of exact types."""

    exact: ClassVar[dict[str, torch.dtype]]
    """Tensor → the one type that it has in memory and in files."""
    weight: nn.Parameter
    weight_scale: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.register_parameter("bias", None)

    def _set(self, **tensors: torch.Tensor | None) -> None:
        for name, tensor in tensors.items():
            self.register_parameter(name, None if tensor is None else nn.Parameter(tensor, requires_grad=False))

    def check(self, name: str) -> None:
        """Refuse scales that no weights give.

        Raises:
            ModelError: names the tensor.
        """
        for leaf in ("weight_scale", "input_scale"):
            scale = getattr(self, leaf, None)
            if scale is not None and not bool((torch.isfinite(scale) & (scale > 0)).all()):
                raise ModelError(f"{name}.{leaf}: holds a value that is no scale, expected finite ones above 0")

    def extra_repr(self) -> str:
        """Sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Fp8Linear(QuantizedLinear):
    """e4m3 weights, one scale an output channel; e4m3 inputs, with one scale a token or one for all."""

    exact: ClassVar[dict[str, torch.dtype]] = {
        "weight": torch.float8_e4m3fn,
        "weight_scale": torch.float32,
        "input_scale": torch.float32,
    }
    input_scale: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int, static: bool = False):
        super().__init__(inputs, outputs)
        self._set(
            weight=torch.empty(outputs, inputs, dtype=torch.float8_e4m3fn),
            weight_scale=torch.empty(outputs, 1),
            input_scale=torch.empty(()) if static else None,
        )

    def fill(self, weight: torch.Tensor, input_amax: float | None) -> None:
        """Take (out, in) weights of any floating type, and the largest input of a calibration or None."""
        values, scale = weight_to_e4m3(weight)
        # A layer that read only zeros still needs a scale that can be divided by.
        static = None if input_amax is None else torch.tensor(max(input_amax / E4M3_MAX, 2.0**-100))
        self._set(
            weight=values, weight_scale=scale, input_scale=None if static is None else static.to(weight.device)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out) in the type of x."""
        rounded = to_e4m3(x.reshape(-1, self.in_features), self.input_scale)
        # The library's rowwise product gives bfloat16 only, and wants multiples of 16.
        fits = x.dtype == torch.bfloat16 and self.in_features % 16 == 0 and self.out_features % 16 == 0
        if fits and x.numel() > 0 and has_fp8(x.device):
            y = torch._scaled_mm(
                rounded.values,
                self.weight.t(),
                scale_a=rounded.scale.contiguous(),
                scale_b=self.weight_scale.t(),
                out_dtype=torch.bfloat16,
            )
        else:
            y = product_reference(rounded, E4m3(self.weight, self.weight_scale)).to(x.dtype)
        y = y.view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias


def product_reference(x: E4m3, weight: E4m3) -> torch.Tensor:
    """(N, in) times (out, in) → (N, out) float32, in plain torch: sums in float32, scales afterwards."""
    return F.linear(x.values.float(), weight.values.float()) * x.scale * weight.scale.t()


class Int4Linear(QuantizedLinear):
    """Four-bit weights in groups of 128 inputs; restored for each product, in the type of the input."""

    exact: ClassVar[dict[str, torch.dtype]] = {
        "weight": torch.uint8,
        "weight_scale": torch.float32,
        "weight_zero": torch.uint8,
    }
    weight_zero: nn.Parameter

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs)
        groups = groups_of(inputs)
        self._set(
            weight=torch.empty(outputs, -(-inputs // 2), dtype=torch.uint8),
            weight_scale=torch.empty(outputs, groups),
            weight_zero=torch.empty(outputs, groups, dtype=torch.uint8),
        )

    def fill(self, weight: torch.Tensor) -> None:
        """Take (out, in) weights of any floating type."""
        packed, scale, zero = to_int4(weight)
        self._set(weight=packed, weight_scale=scale, weight_zero=zero)

    def check(self, name: str) -> None:
        """See `QuantizedLinear`."""
        super().check(name)
        if bool((self.weight_zero > 15).any()):
            raise ModelError(f"{name}.weight_zero: holds a value above 15, expected four bits")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out) in the type of x."""
        weight = from_int4(Int4(self.weight, self.weight_scale, self.weight_zero), self.in_features)
        return F.linear(x, weight.to(x.dtype), self.bias)
