# SPDX-License-Identifier: Apache-2.0
"""Times the public PyTorch reference from a checkout of it: same sizes, same images, same random weights.

It is imported from the checkout and needs its own requirements (transformers 4.57 and others). Nothing of it is
part of this package; what is called here are its public names.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alpamayo_rt.bench.reference_backbone import checkpoint_config, write_backbone
from alpamayo_rt.bench.released import find_released, released_config, released_json
from alpamayo_rt.bench.timing import Say, clocked, peak_gib, percentile, reset_peak, rest
from alpamayo_rt.bench.weights import RandomWeights, Weights
from alpamayo_rt.bench.workloads import Request, Workload, released_request
from alpamayo_rt.errors import EngineError
from alpamayo_rt.families import Family

_ROLLOUT = "sample_trajectories_from_data_with_vlm_rollout"
RUNS = 3


@dataclass(frozen=True)
class Reference:
    """The reference's model and what it needs around it."""

    model: Any
    helper: Any
    sequences: int

    def inputs(self, request: Request) -> dict[str, Any]:
        """Raw frames on the host → what its rollout takes, on the device."""
        sample = request.sample
        assert sample.frames is not None
        frames = sample.frames.flatten(0, 1)
        options: dict[str, Any] = {}
        if "camera_indices" in inspect.signature(self.helper.create_message).parameters:
            options["camera_indices"] = torch.tensor(sample.camera_indices)
        messages = self.helper.create_message(frames, **options)
        tokens = self.helper.get_processor(self.model.tokenizer).apply_chat_template(
            messages, tokenize=True, add_generation_prompt=False, continue_final_message=True,
            return_dict=True, return_tensors="pt",
        )  # fmt: skip
        assert sample.history_xyz is not None
        assert sample.history_rot is not None
        data = {
            "tokenized_data": dict(tokens),
            "ego_history_xyz": sample.history_xyz[None, None],
            "ego_history_rot": sample.history_rot[None, None],
        }
        return self.helper.to_device(data, request.images.pixel_values.device)

    @torch.no_grad()
    def run(self, data: dict[str, Any], tokens: int) -> Any:
        """One rollout with all its samples."""
        torch.manual_seed(0)
        kind = data["ego_history_xyz"].device.type
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda"):
            return getattr(self.model, _ROLLOUT)(
                data=data, top_p=0.98, temperature=0.6, num_traj_samples=self.sequences,
                max_generation_length=tokens,
            )  # fmt: skip


def build_reference(
    checkout: Path,
    family: Family,
    raw: dict[str, Any],
    backbone: dict[str, Any],
    weights: Weights,
    device: torch.device,
    sequences: int,
) -> Reference:
    """Make the reference's model.

    Args:
        checkout: of its repository.
        family: whose reference it is; its package is called like the family.
        raw: the checkpoint's config.json.
        backbone: the config.json of its backbone.
        weights: filled in under the released names.
        device: where.
        sequences: samples of a rollout.

    Raises:
        EngineError: something is missing; says what.
    """
    package = family.model_type
    source = next((p for p in (checkout / "src", checkout) if (p / package).is_dir()), None)
    if source is None:
        raise EngineError(
            f"--reference: {checkout} has no src/{package}, expected a checkout with this package"
        )
    sys.path.insert(0, str(source))
    try:
        from transformers.modeling_utils import no_init_weights

        module: Any = importlib.import_module(f"{package}.models.{package}")
        helper: Any = importlib.import_module(f"{package}.helper")
    except ImportError as error:
        raise EngineError(f"--reference: its requirements are not all installed ({error})") from None
    finally:
        sys.path.remove(str(source))
    made: Any = next(
        kind for kind in vars(module).values() if isinstance(kind, type) and hasattr(kind, _ROLLOUT)
    )
    with tempfile.TemporaryDirectory() as folder:
        write_backbone(Path(folder), backbone)
        helper.BASE_PROCESSOR_NAME = folder
        config = made.config_class(**checkpoint_config(package, raw, folder))
        config.vocab_size = raw["vocab_size"]
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with device, no_init_weights():
                model = made(config)
        finally:
            torch.set_default_dtype(before)
        # Its processor is read anew for every request; here once, since the folder goes.
        processor = helper.get_processor(model.tokenizer)
    helper.get_processor = lambda tokenizer: processor
    _fill(model.to(device, dtype).eval(), family, weights)
    return Reference(model, helper, sequences)


@torch.no_grad()
def _fill(model: Any, family: Family, weights: Weights) -> None:
    for name, parameter in model.named_parameters():
        theirs, ours = next(pair for pair in family.tensor_prefixes if name.startswith(pair[0]))
        parameter.copy_(weights.read(ours + name.removeprefix(theirs), parameter.shape))
    for module in model.modules():
        # Casting the model cast these too; they are float32 in a model that was loaded.
        if hasattr(module, "inv_freq") and hasattr(module, "rope_init_fn"):
            module.inv_freq = module.rope_init_fn(module.config, module.inv_freq.device)[0]


@contextmanager
def _timed(owner: Any, name: str, device: torch.device, times: list[float]) -> Iterator[None]:
    """Let every call of a method be timed."""
    method = getattr(owner, name)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    # With its signature: the library asks for it, and computes all positions' logits if it cannot see one.
    @functools.wraps(method)
    def run(*args: Any, **options: Any) -> Any:
        wait()
        start = time.perf_counter()
        result = method(*args, **options)
        wait()
        times.append((time.perf_counter() - start) * 1e3)
        return result

    setattr(owner, name, run)
    try:
        yield
    finally:
        setattr(owner, name, method)


def measure_reference(
    reference: Reference,
    request: Request,
    family: Family,
    tokens: int,
    repetitions: int,
    say: Say,
    pause_s: float,
) -> dict[str, Any]:
    """Time it: whole runs by themselves, then runs with its parts timed."""
    device = request.images.pixel_values.device
    synchronize: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    say("warming up")
    data = reference.inputs(request)
    reference.run(data, tokens)
    reset_peak(device)
    say(f"patches to trajectories, {repetitions} runs")
    totals = [clocked(lambda: reference.run(data, tokens), synchronize, pause_s) for _ in range(repetitions)]
    peak = peak_gib(device)
    say(f"raw frames to trajectories, {repetitions} runs")
    end = [
        clocked(lambda: reference.run(reference.inputs(request), tokens), synchronize, pause_s)
        for _ in range(repetitions)
    ]
    say(f"stages, {repetitions} runs")
    stages: dict[str, list[float]] = {"vision": [], "prefill": [], "decode_step": [], "expert_step": []}
    model, passes = reference.model, 0
    for _ in range(repetitions):
        rest(synchronize, pause_s)
        vision: list[float] = []
        language: list[float] = []
        flow: list[float] = []
        with (
            _timed(model.vlm.model.visual, "forward", device, vision),
            _timed(model.vlm, "forward", device, language),
            _timed(model.diffusion, "sample", device, flow),
        ):
            reference.run(data, tokens)
        passes = len(language) - 1
        stages["vision"].append(vision[0])
        stages["prefill"].append(language[0] - vision[0])
        stages["decode_step"].append(statistics.mean(language[1:]))
        stages["expert_step"].append(flow[0] / request.workload.steps)
    return {
        "workload": request.workload.name,
        "family": family.model_type,
        "engine": "reference",
        "precision": "bf16" if device.type == "cuda" else "fp32",
        "total_ms": statistics.median(totals),
        "p90_ms": percentile(totals, 0.9),
        "p99_ms": percentile(totals, 0.99),
        "end_to_end_ms": statistics.median(end),
        "stages_ms": {name: statistics.median(values) for name, values in stages.items()},
        "peak_gib": round(peak, 3),
        "n": repetitions,
        "prompt_tokens": data["tokenized_data"]["input_ids"].shape[1],
        "settings": {
            "candidates": reference.sequences,
            "sequences": reference.sequences,
            "tokens": tokens,
            "decode_passes": passes,
            "pause_s": pause_s,
            "steps": request.workload.steps,
            "cached_images": False,
        },
        "model": None,
    }


def time_reference(
    checkout: Path,
    model_type: str,
    workload: Workload,
    device: torch.device,
    seed: int,
    say: Say,
    pause_s: float = 0.0,
) -> dict[str, Any]:
    """The reference at its released sizes; a result for the record.

    Raises:
        EngineError: it cannot be run here.
    """
    family, sizes = find_released(model_type)
    if sizes.nested:
        raise EngineError(f"--reference: that of {family.title} is not timed, only flat configurations are")
    config = released_config(family, sizes)
    raw, backbone = released_json(family, sizes)
    told: Say = lambda line: say(f"{workload.name} reference: {line}")  # noqa: E731
    told("building")
    weights = RandomWeights(config, device, seed)
    reference = build_reference(
        checkout, family, raw, json.loads(json.dumps(backbone)), weights, device, workload.candidates
    )
    request = released_request(config, workload, device)
    return measure_reference(reference, request, family, workload.tokens, RUNS, told, pause_s)
