# SPDX-License-Identifier: Apache-2.0
"""Which comparisons a case gets: chosen by the arrays that it holds."""

from __future__ import annotations

from dataclasses import replace

import torch

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.inference import Model
from alpamayo_rt.prompt.future import future_bins
from alpamayo_rt.prompt.history import history_bins
from alpamayo_rt.prompt.prompt import Images, Prompt, prepare_images
from alpamayo_rt.verify.case import Case
from alpamayo_rt.verify.driving import check_driving
from alpamayo_rt.verify.rows import LOOSE, PIXEL_FLOAT, PIXEL_LEVEL, PIXEL_MEAN, Report, Row, bounds_of
from alpamayo_rt.verify.text import check_text


@torch.inference_mode()
def check_case(model: Model, case: Case) -> list[Row]:
    """All rows of one case.

    Raises:
        InputError: the case lacks an array that its kind needs.
    """
    bounds = bounds_of(model.engine.precision)
    assert bounds is not None
    report = Report(case.name, bounds)
    if "frames" not in case and "pixel_values" not in case:
        _check_action(model, case, report)
    else:
        config = case.with_limits(model.config)
        images, prompt = _check_inputs(model, case, config, report)
        if not _lines_up(case, images, prompt):
            return report.rows  # they say what differs; nothing behind it has a counterpart
        if case.says:
            check_text(model, case, images, prompt, report)
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
    exact = config.family.resizes_in_float
    most = PIXEL_FLOAT if exact else PIXEL_LEVEL * (1 + 1e-3)
    report.absolute("pixel_values", "chained", images.pixel_values, recorded, most)
    if images.pixel_values.shape == recorded.shape:
        difference = (images.pixel_values.cpu() - recorded).abs()
        report.add("pixel_values", "chained", "mean abs", float(difference.mean()), PIXEL_MEAN)
        if float(difference.max()) > PIXEL_LEVEL / 2:
            report.chained_factor = LOOSE
    report.equal("image_grid_thw", "chained", images.grid, case["image_grid_thw"])
    prompt = model.prompt_of(sample, images, config)
    report.equal("prompt", "chained", prompt.text, case.prompt)
    report.equal("input_ids", "chained", prompt.text_ids[None], case["input_ids"])
    if "fused_input_ids" in case:
        prompt = _with_recorded_future(prompt, case["fused_input_ids"][0], config, report)
    return images, prompt


def _with_recorded_future(
    prompt: Prompt, recorded: torch.Tensor, config: ModelConfig, report: Report
) -> Prompt:
    """The prompt; tokens of a future that lie a bin aside, where rounding is at a close call, as recorded."""
    ours = prompt.ids
    if ours.shape == recorded.shape:
        first, last = config.future.first_id, config.future.first_id + config.future.num_bins
        future = (recorded >= first) & (recorded < last)
        bounds = report.bounds
        aside = future & ((ours - recorded).abs() <= bounds.future_bins) & (ours != recorded)
        if bool(future.any()):
            # Among so few tokens one percent is one, and two may be moved.
            most = max(2.0, bounds.future_share * float(future.sum()))
            report.add("fused_input_ids (moved)", "chained", "differing", float(aside.sum()), most)
        ours = torch.where(aside, recorded, ours)
    report.equal("fused_input_ids", "chained", ours[None], recorded[None])
    return replace(prompt, ids=ours)


def _lines_up(case: Case, images: Images, prompt: Prompt) -> bool:
    """Whether patches and tokens are as many as were recorded, so that later stages can be compared."""
    return (
        images.pixel_values.shape == case["pixel_values"].shape
        and torch.equal(images.grid, case["image_grid_thw"])
        and len(prompt) == case["input_ids"].shape[1]
    )


def _check_action(model: Model, case: Case, report: Report) -> None:
    """The action space alone: forward, inverse, initial speed, history tokens."""
    unicycle, bound = model.unicycle, report.bounds.trajectory
    xyz, rot = case["ego_history_xyz"], case["ego_history_rot"]
    ours_xyz, ours_rot = unicycle.integrate(case["action"], xyz, rot)
    report.relative("traj_xyz", "fed", ours_xyz, case["traj_xyz"], bound)
    report.relative("traj_rot", "fed", ours_rot, case["traj_rot"], bound)
    report.absolute("v0", "fed", unicycle.initial_speed(xyz, rot), case["v0"], report.bounds.inverse)
    inverse = unicycle.inverse(xyz, rot, case["traj_xyz"], case["traj_rot"])
    recorded = case["action_from_traj"]
    edge = _at_an_edge(recorded, model)
    report.absolute("action_from_traj", "fed", inverse[~edge], recorded[~edge], report.bounds.inverse)
    if bool(edge.any()):
        # Rounding moves what is clamped and what is too slow; these rows' systems are the least certain.
        report.absolute(
            "action_from_traj (edges)", "fed", inverse[edge], recorded[edge], report.bounds.inverse_edge
        )
    bins = history_bins(xyz, model.config.history)
    report.equal("history_tokens", "fed", bins, case["history_tokens"])
    if "future_tokens" in case:
        tokens = case["future_tokens"]
        report.equal("future_tokens", "fed", future_bins(recorded, model.config.future), tokens)
        ours = future_bins(inverse, model.config.future)
        share = float((ours != tokens).float().mean())
        report.add("future_tokens", "chained", "share", share, report.bounds.future_share)
        most = report.bounds.future_bins
        report.absolute("future_tokens (bins)", "chained", ours.float(), tokens.float(), most)


def _at_an_edge(actions: torch.Tensor, model: Model) -> torch.Tensor:
    """(N,) whether a normalized curvature (N, W, 2) is zeroed or clamped, where the family does that."""
    c = model.config.action_space
    if c.still_below is None:
        return torch.zeros(len(actions), dtype=torch.bool)
    curvature = model.unicycle.denormalize(actions)[..., 1]
    low, high = c.curvature_bounds
    near = torch.stack([(curvature - edge).abs() < 1e-6 for edge in (low, 0.0, high)])
    return near.any(0).any(-1)
