# SPDX-License-Identifier: Apache-2.0
"""What is to be computed for one request, free of the wire's names: samples, settings, and how it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from alpamayo_rt.engine.base import OnToken
from alpamayo_rt.inference import Model
from alpamayo_rt.result import Result
from alpamayo_rt.sample.sample import Sample
from alpamayo_rt.settings import Settings

OnPart = Callable[[str, int, int], None]
"""(driving or answer, sequence, token)"""


@dataclass(frozen=True)
class Order:
    """A checked request.

    Attributes:
        mode: trajectory, answer or both.
        settings: of both inferences.
        drive, answer: the samples; at least one is there.
        warnings: sentences about what was given and not used.
    """

    mode: str
    settings: Settings
    drive: Sample | None
    answer: Sample | None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What the model said; those that were not asked for are None."""

    drive: Result | None = None
    answer: Result | None = None


def carry_out(
    order: Order,
    model: Model,
    check: OnToken,
    on_part: OnPart | None = None,
    on_driven: Callable[[Result], None] | None = None,
) -> Outcome:
    """Run an order: drive, then answer.

    Args:
        order: what to do.
        model: runs it.
        check: raises where the order is to be given up; asked after every token.
        on_part: is told every token.
        on_driven: is told the trajectories before the answer is begun.
    """

    def listening(part: str) -> OnToken:
        def on_token(sequence: int, token: int) -> None:
            check(sequence, token)
            if on_part is not None:
                on_part(part, sequence, token)

        return on_token

    outcome = Outcome()
    if order.drive is not None:
        driven = model.infer(order.drive, **asdict(order.settings), on_token=listening("reasoning"))
        if on_driven is not None:
            on_driven(driven)
        check(0, 0)
        outcome = Outcome(driven)
    if order.answer is not None:
        settings = replace(order.settings, num_candidates=1, multi_seq=False, guidance_weight=None)
        answered = model.infer(order.answer, **asdict(settings), on_token=listening("answer"))
        check(0, 0)
        outcome = replace(outcome, answer=answered)
    return outcome
