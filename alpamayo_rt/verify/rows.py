# SPDX-License-Identifier: Apache-2.0
"""Rows of the comparison: an error, its bound, and whether it holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch

from alpamayo_rt.quantization.parts import parts_of

PIXEL_LEVEL = 2 / 255
PIXEL_MEAN = 1e-3
PIXEL_FLOAT = 1e-3
"""Of images that are resized in float; what float16 storage of a recorded one rounds is half of it."""
LOOSE = 20.0
"""Factor on chained bounds where the image processor differs by an 8-bit level (another CPU's rounding)."""


@dataclass(frozen=True)
class Bounds:
    """Relative L2 bounds of one precision."""

    vision: float
    logits: float
    cache: float
    velocity: float
    action: float
    trajectory: float
    inverse: float
    """Largest absolute difference of normalized actions and of the initial speed."""

    future_share: float = 0.01
    """Which share of the tokens of a future rounding may move; 0.2 % in float32."""
    future_bins: float = 1.0
    """By how many bins."""

    @property
    def inverse_edge(self) -> float:
        """The same where a curvature was clamped or zeroed."""
        return max(2e-3, self.inverse)


_IN_BF16 = {"future_share": 0.4, "future_bins": 4.0}
"""Rounded action statistics move every action a little."""
BOUNDS = {
    "fp32": Bounds(1e-4, 1e-4, 1e-4, velocity=1e-3, action=1e-3, trajectory=1e-3, inverse=6e-4),
    # The worst on the CPU over the reference cases and 79 more, doubled and rounded up (docs/accuracy.md).
    "fp16": Bounds(
        2e-3, 4e-3, 3e-3, velocity=1.3e-1, action=2e-2, trajectory=2e-2, inverse=4e-3, future_share=0.1
    ),
    "bf16": Bounds(2e-2, 4e-2, 3e-2, velocity=7e-1, action=1e-1, trajectory=1.2e-1, inverse=5e-2, **_IN_BF16),
    # Over the reference cases, likewise; nowhere narrower than bf16, which the other layers run in on a GPU.
    "fp8": Bounds(2e-2, 3e-1, 2.5e-1, velocity=7e-1, action=1.2e-1, trajectory=2e-1, inverse=5e-2, **_IN_BF16),
    "int4": Bounds(2e-2, 7e-1, 7e-1, velocity=9e-1, action=6e-1, trajectory=1.2, inverse=5e-2, **_IN_BF16),
}

_NARROW_VISION = {"fp8": 1.2e-1, "int4": 3e-1}
"""The bound of vision features where the tower is narrowed too, likewise; the other bounds hold as they are."""


def bounds_of(precision: str) -> Bounds | None:
    """The bounds of a precision, with the parts that it narrows (`parts.label_of`); None of what is unknown."""
    kind, parts = parts_of(precision)
    bounds = BOUNDS.get(kind)
    return bounds if bounds is None or "vision" not in parts else replace(bounds, vision=_NARROW_VISION[kind])


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        case: its name.
        quantity: name of the array, or of a part of it.
        source: `fed` (with recorded inputs) or `chained` (from the frames).
        metric: what `error` is.
        error: inf where shapes differ or a value is not finite.
        bound: the largest error that passes.
    """

    case: str
    quantity: str
    source: str
    metric: str
    error: float
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the error is within its bound."""
        return self.error <= self.bound


@dataclass
class Report:
    """Collects the rows of one case."""

    case: str
    bounds: Bounds
    rows: list[Row] = field(default_factory=list)
    chained_factor: float = 1.0

    def add(self, quantity: str, source: str, metric: str, error: float, bound: float) -> None:
        """Add a row; chained float comparisons get their wider bound where one is due."""
        if source == "chained" and metric == RELATIVE:
            bound *= self.chained_factor
        self.rows.append(Row(self.case, quantity, source, metric, error, bound))

    def relative(
        self, quantity: str, source: str, ours: torch.Tensor, recorded: torch.Tensor, bound: float
    ) -> None:
        """Relative L2 distance."""
        self.add(quantity, source, RELATIVE, relative_l2(ours, recorded), bound)

    def velocity(
        self, quantity: str, source: str, ours: torch.Tensor, recorded: torch.Tensor, step: int
    ) -> None:
        """Relative L2 distance of one step of `recorded` (steps, K, W, 2).

        In float32 relative to that step; in lower precisions to the root mean square over the steps, because
        the last velocities nearly vanish and rounding is no longer small beside them.
        """
        error = relative_l2(ours, recorded[step])
        if self.bounds is not BOUNDS["fp32"]:
            error *= float(recorded[step].norm() / (recorded.norm() / len(recorded) ** 0.5))
        self.add(f"{quantity}[{step}]", source, RELATIVE, error, self.bounds.velocity)

    def absolute(
        self, quantity: str, source: str, ours: torch.Tensor, recorded: torch.Tensor, bound: float
    ) -> None:
        """Largest absolute difference."""
        self.add(quantity, source, "max abs", _max_abs(ours, recorded), bound)

    def equal(self, quantity: str, source: str, ours: object, recorded: object) -> None:
        """Number of differing elements."""
        if isinstance(ours, torch.Tensor) and isinstance(recorded, torch.Tensor):
            same_shape = ours.shape == recorded.shape
            error = float((ours.cpu() != recorded.cpu()).sum()) if same_shape else math.inf
        else:
            error = 0.0 if ours == recorded else 1.0
        self.add(quantity, source, "differing", error, 0.0)


RELATIVE = "relative L2"


def relative_l2(ours: torch.Tensor, recorded: torch.Tensor) -> float:
    """‖ours − recorded‖ / ‖recorded‖ in float64; inf where it makes no sense."""
    if ours.shape != recorded.shape:
        return math.inf
    a, b = ours.cpu().double(), recorded.cpu().double()
    difference, size = float((a - b).norm()), float(b.norm())
    if not math.isfinite(difference):
        return math.inf
    if size == 0:
        return 0.0 if difference == 0 else math.inf
    return difference / size


def _max_abs(ours: torch.Tensor, recorded: torch.Tensor) -> float:
    if ours.shape != recorded.shape:
        return math.inf
    error = float((ours.cpu().double() - recorded.cpu().double()).abs().max())
    return error if math.isfinite(error) else math.inf
