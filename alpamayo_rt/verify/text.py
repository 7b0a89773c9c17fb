# SPDX-License-Identifier: Apache-2.0
"""The comparisons of a case whose answer is text: a question, or another task in words."""

from __future__ import annotations

import torch

from alpamayo_rt.answers import read_answer
from alpamayo_rt.engine.sampling import Sampling
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
            ends = [row.index(token) + 1 for token in (rule.end, rule.closing) if token in row]
            report.equal("sequences (answer)", source, ours, row[: min(ends, default=len(row))])
        _check_said(model, case, task, ours, source, report)


def _check_said(model: Model, case: Case, task: Task, ours: list[int], source: str, report: Report) -> None:
    text = model.text_of(ours, task)
    if task.reads != META_ACTIONS:
        for answer in case.meta.get("answer", []):
            if answer:
                report.equal("answer", source, text, answer)
        return
    # The reference keeps the text before the meta-actions and the meta-actions apart.
    before = read_answer(text, task.reads, (0,), (1, 1)).reasoning or ""
    for name, said in (("cot", before), ("meta_action", text.removeprefix(before).strip())):
        for recorded in case.meta.get(name, []):
            report.equal(name, source, said, recorded)
