# SPDX-License-Identifier: Apache-2.0
"""Regularized least squares with a smoothness term.

All problems here are: minimize Σ‖A x − b‖² + weight·‖D x‖² + ridge·‖x‖², D a plain difference of some order.
"""

from __future__ import annotations

import torch


def difference_gram(n: int, order: int, like: torch.Tensor) -> torch.Tensor:
    """DᵀD (n, n) for differences of `order` over n values."""
    d = torch.eye(n, dtype=like.dtype, device=like.device)
    for _ in range(order):
        d = d[1:] - d[:-1]
    return d.T @ d


def solve(gram: torch.Tensor, rhs: torch.Tensor, ridge: float, raise_ridge: bool = False) -> torch.Tensor:
    """Solve (gram + ridge·I) x = rhs for symmetric gram (…, n, n) and rhs (…, n).

    Args:
        gram: AᵀA + weight·DᵀD.
        rhs: Aᵀb.
        ridge: added to the diagonal.
        raise_ridge: raise it tenfold while the system is singular in its precision.

    Returns:
        x (…, n); NaN where gram is not finite.
    """
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    finite = gram.isfinite().all(-1).all(-1)
    factor, info = torch.linalg.cholesky_ex(gram + ridge * identity)
    while bool((info.bool() & finite).any()):
        if not raise_ridge:
            raise torch.linalg.LinAlgError("the smoothing system is singular")
        ridge *= 10
        factor, info = torch.linalg.cholesky_ex(gram + ridge * identity)
    x = torch.cholesky_solve(rhs[..., None], factor)[..., 0]
    return x.where(finite[..., None], torch.nan)


def fix_first(gram: torch.Tensor, rhs: torch.Tensor, first: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The system of the remaining unknowns when x₀ = first (…) is given."""
    return gram[..., 1:, 1:], rhs[..., 1:] - gram[..., 1:, 0] * first[..., None]
