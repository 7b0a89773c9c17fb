# SPDX-License-Identifier: Apache-2.0
"""Which comparisons a case gets: chosen by the arrays that it holds."""

from __future__ import annotations

import torch

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.sampling import Sampling
from alpamayo_rt.inference import Model
from alpamayo_rt.model.vision import VisionFeatures
from alpamayo_rt.prompt.history import history_bins
from alpamayo_rt.prompt.prompt import Images, Prompt, build_prompt, prepare_images
from alpamayo_rt.verify.case import Case
from alpamayo_rt.verify.driving import check_driving
from alpamayo_rt.verify.rows import BOUNDS, LOOSE, PIXEL_LEVEL, PIXEL_MEAN, Report, Row


@torch.inference_mode()
def check_case(model: Model, case: Case) -> list[Row]:
    """All rows of one case.

    Raises:
        InputError: the case lacks an array that its kind needs.
    """
    report = Report(case.name, BOUNDS[model.engine.precision])
    if "frames" not in case and "pixel_values" not in case:
        _check_action(model, case, report)
    else:
        config = case.with_limits(model.config)
        images, prompt = _check_inputs(model, case, config, report)
        if not _lines_up(case, images, prompt):
            return report.rows  # they say what differs; nothing behind it has a counterpart
        if case.question is not None:
            _check_question(model, case, images, prompt, report)
        elif "sequences" in case:
            check_driving(model, case, images, prompt, report)
    for name in case.unused():
        report.add(name, "fed", "not known", float("inf"), 0.0)
    return report.rows


def _check_inputs(model: Model, case: Case, config: ModelConfig, report: Report) -> tuple[Images, Prompt]:
    """Image processor, tokenizer, history tokens; what they give is where the chained checks start."""
    sample = case.sample()
    images = prepare_images(sample, config, model.engine.device)
    recorded = case["pixel_values"].float()
    report.absolute("pixel_values", "chained", images.pixel_values, recorded, PIXEL_LEVEL * (1 + 1e-3))
    if images.pixel_values.shape == recorded.shape:
        difference = (images.pixel_values.cpu() - recorded).abs()
        report.add("pixel_values", "chained", "mean abs", float(difference.mean()), PIXEL_MEAN)
        if float(difference.max()) > PIXEL_LEVEL / 2:
            report.chained_factor = LOOSE
    report.equal("image_grid_thw", "chained", images.grid, case["image_grid_thw"])
    prompt = build_prompt(sample, images, config, model.tokenizer)
    report.equal("prompt", "chained", prompt.text, case.prompt)
    report.equal("input_ids", "chained", prompt.text_ids[None], case["input_ids"])
    if "fused_input_ids" in case:
        report.equal("fused_input_ids", "chained", prompt.ids[None], case["fused_input_ids"])
    return images, prompt


def _lines_up(case: Case, images: Images, prompt: Prompt) -> bool:
    """Whether patches and tokens are as many as were recorded, so that later stages can be compared."""
    return (
        images.pixel_values.shape == case["pixel_values"].shape
        and torch.equal(images.grid, case["image_grid_thw"])
        and len(prompt) == case["input_ids"].shape[1]
    )


def _check_question(model: Model, case: Case, images: Images, prompt: Prompt, report: Report) -> None:
    """A question's answer, token by token, from the recorded patches and from the frames."""
    engine, rule = model.engine, model.stop_rule(question=True)
    recorded = case["sequences"]
    length = len(prompt)
    report.equal("sequences (prompt)", "chained", prompt.ids.expand(len(recorded), -1), recorded[:, :length])
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
            end = row.index(rule.end) + 1 if rule.end in row else len(row)
            report.equal("sequences (answer)", source, ours, row[:end])
        for answer in case.meta.get("answer", []):
            if answer:
                report.equal("answer", source, model.text_of(ours, question=True), answer)


def _check_action(model: Model, case: Case, report: Report) -> None:
    """The action space alone: forward, inverse, initial speed, history tokens."""
    unicycle, bound = model.unicycle, report.bounds.trajectory
    xyz, rot = case["ego_history_xyz"], case["ego_history_rot"]
    ours_xyz, ours_rot = unicycle.integrate(case["action"], xyz, rot)
    report.relative("traj_xyz", "fed", ours_xyz, case["traj_xyz"], bound)
    report.relative("traj_rot", "fed", ours_rot, case["traj_rot"], bound)
    report.absolute("v0", "fed", unicycle.initial_speed(xyz, rot), case["v0"], report.bounds.inverse)
    inverse = unicycle.inverse(xyz, rot, case["traj_xyz"], case["traj_rot"])
    report.absolute("action_from_traj", "fed", inverse, case["action_from_traj"], report.bounds.inverse)
    bins = history_bins(xyz, model.config.history)
    report.equal("history_tokens", "fed", bins, case["history_tokens"])
