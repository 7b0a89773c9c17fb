# SPDX-License-Identifier: Apache-2.0
"""Linear layers of many rows, with what a product can do on its way out: bias, tanh GELU, residual."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from alpamayo_rt.kernels.products.choice import Products
from alpamayo_rt.kernels.products.product import Product, Scales
from alpamayo_rt.kernels.products.scaled import scaled_twin
from alpamayo_rt.quantization.formats import E4m3

_PRODUCTS = Products()


@torch.no_grad()
def linear_into(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
    gelu: bool = False,
    add: bool = False,
    base: torch.Tensor | None = None,
) -> None:
    """A linear layer: out = x · Wᵀ (+ bias), GELU of that, or that added to something. One rounding, last.

    On a GPU in 16 bits the algorithm is chosen by time when a product of these sizes is first met outside of
    a capture; `choice.VARIABLE` names other ways.

    Args:
        x: (M, K), rows contiguous, their distance free; as are weight and out, all of one type.
        weight: (N, K).
        out: (M, N), none of the others.
        bias: (N,) or None.
        gelu: apply the tanh approximation of GELU.
        add: add to what is in out, or to `base`. Not with gelu.
        base: (M, N) with the strides and the type of out; with add alone.

    Raises:
        ValueError: both gelu and add; a base that nothing is added to, or that lies otherwise than out.
    """
    _check(gelu, add)
    if base is not None and not (add and _lies_as(base, out)):
        raise ValueError("base: expected shape, strides and type of out, and add")
    if out.is_cuda:
        _PRODUCTS(Product(x, weight, out, bias, gelu, add, base))
    else:
        linear_into_twin(x, weight, out, bias, gelu, add, base)


def _check(gelu: bool, add: bool) -> None:
    if gelu and add:
        raise ValueError("gelu and add: both, expected one at most")


def _lies_as(base: torch.Tensor, out: torch.Tensor) -> bool:
    return (base.shape, base.stride(), base.dtype) == (out.shape, out.stride(), out.dtype)


def linear_into_twin(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
    gelu: bool = False,
    add: bool = False,
    base: torch.Tensor | None = None,
) -> None:
    """See `linear_into`. Float32 inside, or float64 when it is fed float64."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    made = F.linear(x.to(wide), weight.to(wide), None if bias is None else bias.to(wide))
    if gelu:
        made = F.gelu(made, approximate="tanh")
    out.copy_((out if base is None else base) + made if add else made)


@torch.no_grad()
def scaled_linear_into(
    x: E4m3,
    weight: E4m3,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
    gelu: bool = False,
    add: bool = False,
) -> None:
    """`linear_into` of e4m3 matrices: each number of the product times the scales of its row and its column.

    One rounding at the end, where the library does all of it; where it proposes nothing for what follows the
    product, that is torch's, and rounds once more for each operation. In bfloat16, with sizes that are
    multiples of 16, a GPU multiplies e4m3 itself; otherwise plain torch does, in float32.

    Args:
        x: (M, K), one scale a row.
        weight: (N, K), one scale a row.
        out: (M, N), as is the bias of a floating type.
        bias: (N,) or None.
        gelu: see `linear_into`.
        add: see `linear_into`.

    Raises:
        ValueError: both gelu and add.
    """
    _check(gelu, add)
    if out.is_cuda:
        scales = Scales(x.scale, weight.scale)
        _PRODUCTS(Product(x.values, weight.values, out, bias, gelu, add, scales=scales))
    else:
        scaled_linear_into_twin(x, weight, out, bias, gelu, add)


scaled_linear_into_twin = scaled_twin


@torch.no_grad()
def is_one_launch(
    x: E4m3,
    weight: E4m3,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
    gelu: bool = False,
    add: bool = False,
) -> bool:
    """Whether `scaled_linear_into` of the same is one launch; else the next kernel may do the rest cheaper."""
    if not out.is_cuda:
        return True
    scales = Scales(x.scale, weight.scale)
    return _PRODUCTS.is_one_launch(Product(x.values, weight.values, out, bias, gelu, add, scales=scales))
