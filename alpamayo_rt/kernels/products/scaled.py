# SPDX-License-Identifier: Apache-2.0
"""Products of e4m3 by torch's own operations: what the library is measured against, and is replaced by."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from alpamayo_rt.kernels.products.product import Product
from alpamayo_rt.quantization.formats import E4m3
from alpamayo_rt.quantization.linear import has_fp8, product_reference


def fits(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> bool:
    """Whether a device's own product of e4m3 takes these: it wants multiples of 16, and gives bfloat16."""
    sixteens = not any(size % 16 for matrix in (x, weight) for size in (matrix.shape[1], matrix.stride(0)))
    return (
        x.dtype == weight.dtype == torch.float8_e4m3fn
        and out.dtype == torch.bfloat16
        and sixteens
        and weight.shape[0] % 16 == 0
        and out.numel() > 0
    )


def scaled_by_torch(product: Product) -> None:
    """See `operations.scaled_linear_into`; what follows the product are operations of their own."""
    x, weight, out, bias, gelu, add, _, scales = product
    assert scales is not None
    if not (has_fp8(out.device) and fits(x, weight, out)):
        scaled_twin(E4m3(x, scales.x), E4m3(weight, scales.weight), out, bias, gelu, add)
        return
    target = out if not (gelu or add) and out.is_contiguous() else torch.empty_like(out)
    torch._scaled_mm(
        x, weight.t(), scale_a=scales.x, scale_b=scales.weight.t(), bias=bias, out_dtype=out.dtype,
        use_fast_accum=True, out=target,
    )  # fmt: skip
    if add:
        out += target
    elif target is not out:
        out.copy_(F.gelu(target, approximate="tanh") if gelu else target)


def scaled_twin(
    x: E4m3,
    weight: E4m3,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
    gelu: bool = False,
    add: bool = False,
) -> None:
    """See `operations.scaled_linear_into`. Float32 inside."""
    made = product_reference(x, weight)
    if bias is not None:
        made = made + bias.float()
    if gelu:
        made = F.gelu(made, approximate="tanh")
    out.copy_(out + made if add else made)
