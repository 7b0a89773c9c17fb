# SPDX-License-Identifier: Apache-2.0
"""The comparisons of a case whose answer is text: a question, or another task in words."""

from __future__ import annotations

import torch

from alpamayo_rt.answers import read_answer
from alpamayo_rt.engine.sampling import Sampling, StopRule
from alpamayo_rt.inference import Model
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.prompt import Images, Prompt, task_of
from alpamayo_rt.tasks import META_ACTIONS, Task
from alpamayo_rt.verify.case import Case
from alpamayo_rt.verify.rows import Report


def check_text(model: Model, case: Case, images: Images, prompt: Prompt, report: Report) -> None:
    """An answer, token by token, from the recorded patches and from the frames."""
    engine, task = model.engine, task_of(case.sample(), model.config.family)
    rule, recorded = model.stop_rule(task), case["sequences"]
    length = len(prompt)
    report.equal("sequences (prompt)", "chained", prompt.ids.expand(len(recorded), -1), recorded[:, :length])
    if "rope_deltas" in case:
        report.equal(
            "rope_deltas", "fed", torch.full_like(case["rope_deltas"], prompt.rope_delta), case["rope_deltas"]
        )
    for row in recorded[:, length:].tolist():
        _check_said(model, case, task, row[: _end(row, rule)], "fed", report, " of recorded tokens")
    if not case.greedy or engine.precision != "fp32":
        return
    for source, patches in (("fed", case.images()), ("chained", images)):
        features: VisionFeatures = engine.encode_images(patches)
        cache, logits = engine.prefill(prompt, features, case.limit)
        rollout = engine.reason(
            cache, logits, Sampling(0, 1, None, case.limit), rule, torch.zeros(1, case.limit)
        )
        ours = rollout.tokens[0]
        for row in recorded[:, length:].tolist():
            report.equal("sequences (answer)", source, ours, row[: _end(row, rule)])
        _check_said(model, case, task, ours, source, report)


def _end(row: list[int], rule: StopRule) -> int:
    """Tokens of a recorded answer up to and including the one that ended it."""
    return min((row.index(t) + 1 for t in (rule.end, rule.closing) if t in row), default=len(row))


def _check_said(
    model: Model, case: Case, task: Task, ours: list[int], source: str, report: Report, of: str = ""
) -> None:
    text = model.text_of(ours, task)
    before = text
    if "meta_action" in case.meta:
        # The reference keeps meta-actions and the text before them apart, whatever was asked.
        before = read_answer(text, META_ACTIONS, (0,), (1, 1)).reasoning or ""
    behind = text.removeprefix(before).strip()
    for name, said in (("answer", before), ("cot", before), ("meta_action", behind)):
        for recorded in case.meta.get(name, []):
            # An older recording of a question has no text where the model gave none of its markers.
            if recorded or "meta_action" in case.meta:
                report.equal(name + of, source, said, recorded)
