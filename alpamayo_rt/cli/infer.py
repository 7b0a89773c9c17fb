# SPDX-License-Identifier: Apache-2.0
"""`alpamayo-rt infer`: answers a request file, a dataset clip or prepared input."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from alpamayo_rt.atomic import check_writable, write_atomically
from alpamayo_rt.cli.common import (
    add_model_arguments,
    emit,
    internal_error,
    load_model,
    one_line,
    result_file,
    run_header,
    say,
)
from alpamayo_rt.cli.infer_arguments import (
    DEFAULT_T0_US,
    IGNORED,
    add_arguments,
    check_arguments,
    is_live,
    setting_overrides,
)
from alpamayo_rt.dump import dump_path, write_dump
from alpamayo_rt.errors import AlpamayoError, InputError
from alpamayo_rt.evaluation.metrics import min_ade
from alpamayo_rt.inference import Model
from alpamayo_rt.result import Result
from alpamayo_rt.sample.arrays import PreparedFile, read_npy
from alpamayo_rt.sample.request import Request, argument_name, in_file_names, read_request_file
from alpamayo_rt.sample.sample import Sample
from alpamayo_rt.settings import Settings
from alpamayo_rt.tasks import AUTO_LABELING


class Prepared(NamedTuple):
    """What a job is made of; `future_xyz` (64, 3) metres where the clip goes on long enough."""

    sample: Sample
    settings: Settings
    future_xyz: torch.Tensor | None = None


@dataclass(frozen=True)
class Job:
    """One thing to answer.

    Attributes:
        id: its name in the output.
        prepare: gives sample, settings and what is known of the future; may raise InputError.
        describe: the sentence for such an error.
        extra: further fields of its response.
    """

    id: str
    prepare: Callable[[Model], Prepared]
    describe: Callable[[InputError], str]
    extra: dict[str, Any] = field(default_factory=dict)


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    command = commands.add_parser(
        "infer",
        help="reason and propose trajectories, or answer a question",
        description="Answers a request file, a clip of the dataset or prepared input.",
        allow_abbrev=False,
    )
    add_model_arguments(command, required=False)
    add_arguments(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    check_arguments(args)
    for flag in IGNORED:
        if getattr(args, flag) is not None:
            say(f"--{IGNORED[flag]} is ignored: milliseconds per stage are always in the output")
    dump_folder = _dump_folder(args)
    for path in (args.output_file, args.plot):
        if path is not None:
            check_writable(path)
    _check_not_input(args)
    jobs = _jobs(args)
    model = load_model(args)
    if dump_folder is not None:
        _make_folder(dump_folder)
    responses = []
    for n, job in enumerate(jobs):
        responses.append(_answer(model, job, args, dump_folder, len(jobs)))
        say(_summary(n + 1, len(jobs), responses[-1]))
    out = result_file(run_header(model), responses)
    if args.output_file is None:
        emit(out)
    else:
        write_atomically(args.output_file, (out + "\n").encode())
        say(f"wrote {args.output_file}")
    return 0 if all(response["status"] == "ok" for response in responses) else 1


def _dump_folder(args: argparse.Namespace) -> Path | None:
    if args.dump_kv_cache is None:
        return None
    named = args.dump_kv_cache or args.kv_cache_output_dir
    if named is None:
        beside = args.output_file.parent if args.output_file is not None else Path()
        named = beside / "kv_cache"
    return Path(named)


def _make_folder(folder: Path) -> None:
    # Only once everything else is known to be there: a run that cannot start leaves nothing behind.
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--dump-kv-cache: {folder} cannot be made ({error.strerror})") from None
    check_writable(folder / "dump.safetensors")


def _check_not_input(args: argparse.Namespace) -> None:
    for flag in ("input_file", "prepared"):
        source = getattr(args, flag)
        if (
            source is not None
            and args.output_file is not None
            and args.output_file.resolve() == source.resolve()
        ):
            raise InputError(f"--output-file: {args.output_file} is the --{flag.replace('_', '-')} itself")


def _jobs(args: argparse.Namespace) -> list[Job]:
    overrides = setting_overrides(args)
    Settings(**overrides)
    history = {
        name: read_npy(path, f"--{name.replace('_', '-')}-npy")
        for name in ("ego_history_xyz", "ego_history_rot", "ego_future_xyz", "ego_future_rot")
        if (path := getattr(args, f"{name}_npy")) is not None
    }
    if args.clip is not None:
        return [_clip_job(args, overrides)]
    prepared = None if args.prepared is None else PreparedFile(args.prepared)
    if args.input_file is None:
        assert prepared is not None
        return [_prepared_job(args, prepared, history, overrides)]
    file = read_request_file(args.input_file)
    for warning in file.warnings:
        say(f"warning: {warning}")
    return [_request_job(request, history, prepared, overrides) for request in file.requests]


def _request_job(
    request: Request, history: dict[str, Any], prepared: PreparedFile | None, overrides: dict[str, Any]
) -> Job:
    def prepare(model: Model) -> Prepared:
        return Prepared(request.sample(model.config.family, history, prepared), request.settings(overrides))

    return Job(request.id, prepare, request.located)


def _clip_job(args: argparse.Namespace, overrides: dict[str, Any]) -> Job:
    if is_live(args.clip):
        return _live_job(args, overrides)
    from alpamayo_rt.sample.clips import ClipDataset

    dataset = ClipDataset(args.dataset_root)
    t0_us = DEFAULT_T0_US if args.t0_us is None else args.t0_us

    def prepare(model: Model) -> Prepared:
        cameras = model.config.family.default_cameras(args.task, args.question)
        clip = dataset.read(args.clip, t0_us, cameras, with_future="if available")
        asked: dict[str, Any] = {"navigation": args.nav_text, "question": args.question, "task": args.task}
        if args.task == AUTO_LABELING:
            asked |= {"ego_future_xyz": clip.future_xyz, "ego_future_rot": clip.future_rot}
        return Prepared(clip.sample.replaced(**asked), Settings(**overrides), clip.future_xyz)

    return Job(args.clip, prepare, _describe, {"t0_us": t0_us})


def _live_job(args: argparse.Namespace, overrides: dict[str, Any]) -> Job:
    """A clip of the demo world, drawn in memory on the engine's device, without video or kit."""
    from alpamayo_rt.demo.live import live_clip

    clip = live_clip(args.clip, args.t0_us)

    def prepare(model: Model) -> Prepared:
        sample, future = clip.read(model.engine.device, args.nav_text, args.question, args.task)
        return Prepared(sample, Settings(**overrides), future)

    return Job(args.clip, prepare, _describe, {"t0_us": clip.t0_us})


def _prepared_job(
    args: argparse.Namespace, prepared: PreparedFile, history: dict[str, Any], overrides: dict[str, Any]
) -> Job:
    def prepare(model: Model) -> Prepared:
        given = {argument_name(name): array for name, array in history.items()}
        sample = prepared.sample(args.nav_text, args.question, args.task).replaced(**given)
        return Prepared(sample, Settings(**overrides))

    return Job(args.prepared.stem, prepare, _describe)


def _describe(error: InputError) -> str:
    return in_file_names(str(error))


def _answer(
    model: Model, job: Job, args: argparse.Namespace, dump_folder: Path | None, jobs: int
) -> dict[str, Any]:
    """One response; whatever is wrong with this job is said in it and does not touch the others."""
    try:
        sample, settings, future = job.prepare(model)
        path = dump_path(dump_folder, job.id) if dump_folder is not None else None
        result = model.infer(sample, **asdict(settings), keep_trace=path is not None)
        if path is not None and result.trace is not None:
            write_dump(path, model, sample, result)
        if args.plot is not None:
            _plot(_plot_path(args.plot, job.id, jobs), sample, result, future)
        return {"id": job.id, "status": "ok", **job.extra, **result.to_json(), **_metrics(result, future)}
    except InputError as error:
        message = job.describe(error)
    except AlpamayoError as error:
        message = str(error)
    except torch.OutOfMemoryError:
        message = f"{model.engine.device}: out of memory; fewer candidates or images need less"
    except Exception as error:  # nobody foresaw it, and the other requests are still to be answered
        message = internal_error(error)
    return {"id": job.id, "status": "error", **job.extra, "error": one_line(message)}


def _plot_path(path: Path, job_id: str, jobs: int) -> Path:
    if jobs == 1:
        return path
    return dump_path(path.parent, f"{path.stem}-{job_id}").with_suffix(path.suffix or ".png")


def _plot(path: Path, sample: Sample, result: Result, future: torch.Tensor | None) -> None:
    from alpamayo_rt.plot import draw, save

    save(draw(sample, result, future), path)


def _metrics(result: Result, future: torch.Tensor | None) -> dict[str, Any]:
    """How near the candidates come, where the true future is known."""
    if future is None or result.trajectories is None:
        return {}
    candidates = result.trajectories.numpy()
    named = {f"min_ade_{k}": min_ade(candidates, future, k) for k in (len(candidates), 1)}
    return {"metrics": {name: round(value, 3) for name, value in named.items()}}


def _summary(n: int, of: int, response: dict[str, Any]) -> str:
    start = f"[{n}/{of}] {response['id']}: "
    if response["status"] != "ok":
        return start + response["error"]
    said = response.get("answer") or next(iter(response["reasoning"]), "")
    stops = ", ".join(sorted(set(response["stop_reasons"])))
    errors = ", ".join(f"{name} {value:.2f} m" for name, value in response.get("metrics", {}).items())
    near = f", {errors}" if errors else ""
    return f"{start}{stops}, {response['milliseconds']['total']:.0f} ms{near}: {said}"
