# SPDX-License-Identifier: Apache-2.0
"""An export folder: config, tokenizer, one ONNX model a part; and what it says about where it came from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpamayo_rt.atomic import write_atomically
from alpamayo_rt.checkpoint import Checkpoint
from alpamayo_rt.config import parse_model_config, read_json
from alpamayo_rt.errors import EngineError, InputError, ModelError
from alpamayo_rt.model.network import ActionStatistics

if TYPE_CHECKING:
    import onnx_ir as ir

MODEL_FILE, DATA_FILE = "model.onnx", "model.onnx.data"
EXTERNAL_FROM = 1 << 30
"""Bytes of weights from which they get a file of their own; one file can hold twice that at most."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "preprocessor_config.json",
)  # fmt: skip
_ORIGIN = "alpamayo_rt_export"


@dataclass(frozen=True)
class ExportFolder(Checkpoint):
    """A folder that `export` wrote, opened: no tensors, and the name and hash of the checkpoint behind it."""

    origin: Mapping[str, str]

    @property
    def name(self) -> str:
        """The checkpoint's name."""
        return self.origin["model_name"]

    def fingerprint(self) -> str:
        """The checkpoint's hash."""
        return self.origin["model_hash"]


def origin_of(checkpoint: Checkpoint) -> dict[str, str]:
    """What every file of an export says about the checkpoint behind it."""
    return {
        "model_name": checkpoint.name,
        "model_hash": checkpoint.fingerprint(),
        "family": checkpoint.config.family.model_type,
    }


def is_export_folder(folder: Path) -> bool:
    """Whether a folder has a config and tokenizer of an export, so that no checkpoint is needed for them."""
    path = folder / "config.json"
    return path.is_file() and (folder / "tokenizer.json").is_file() and _ORIGIN in read_json(path)


def open_export(folder: Path) -> ExportFolder:
    """Read the config of an export.

    Raises:
        ModelError: it is not one.
    """
    raw = read_json(folder / "config.json")
    origin = raw.get(_ORIGIN)
    if not isinstance(origin, dict) or not all(
        isinstance(origin.get(k), str) for k in ("model_name", "model_hash")
    ):
        raise ModelError(f"{folder / 'config.json'}: {_ORIGIN} {origin!r}, expected a folder that export wrote")
    return ExportFolder(folder, folder, parse_model_config(folder, raw, raw), {}, None, origin)


def write_config(out: Path, checkpoint: Checkpoint, statistics: ActionStatistics) -> None:
    """`config.json`, of checkpoint and backbone in one, and the tokenizer's files.

    The action statistics are those that the network uses, which a checkpoint may keep among its tensors.
    """
    raw: dict[str, Any] = read_json(checkpoint.folder / "config.json")
    spaces = [raw]
    if checkpoint.config.family.nested_config:
        spaces = [raw["expert_config"], raw["future_traj_tokenizer_cfg"]]
    else:
        backbone = read_json(checkpoint.backbone / "config.json")
        raw |= {name: backbone[name] for name in ("text_config", "vision_config")}
        raw["vlm_name_or_path"] = "."
    used = {name: float(value) for name, value in statistics.named_buffers()}
    for holder in spaces:
        if "action_space_cfg" in holder:
            holder["action_space_cfg"] = holder["action_space_cfg"] | used
    raw[_ORIGIN] = origin_of(checkpoint)
    for name in TOKENIZER_FILES:
        if (checkpoint.backbone / name).is_file():
            write_atomically(out / name, (checkpoint.backbone / name).read_bytes())
    write_atomically(out / "config.json", (json.dumps(raw, indent=1) + "\n").encode())


def make_folder(out: Path) -> None:
    """Create an output folder.

    Raises:
        InputError: it cannot be.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: {out} cannot be made ({error.strerror or error})") from None


def write_model(folder: Path, model: ir.Model, metadata: Mapping[str, str]) -> int:
    """Write one part: whole or not at all, checked before it takes the old one's place.

    Args:
        folder: `D/<part>`, made if need be.
        model: its weights are read one after the other, and never all held a second time.
        metadata: goes into the file.

    Returns:
        Bytes written.
    """
    import onnx
    import onnx_ir as ir

    model.metadata_props.update(metadata)
    make_folder(folder)
    beside = folder / f".export.{os.getpid()}.tmp"
    weights = sum(w.const_value.nbytes for w in model.graph.initializers.values() if w.const_value)
    external = weights > EXTERNAL_FROM
    try:
        beside.mkdir()
        ir.save(model, beside / MODEL_FILE, external_data=DATA_FILE if external else None)
        try:
            onnx.checker.check_model(beside / MODEL_FILE, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise EngineError(f"export: the ONNX checker refuses {metadata['part']} ({error})") from None
        size = sum(path.stat().st_size for path in beside.iterdir())
        if not external:
            (folder / DATA_FILE).unlink(missing_ok=True)
        for name in (DATA_FILE, MODEL_FILE):
            if (beside / name).exists():
                os.replace(beside / name, folder / name)
        return size
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


Progress = Callable[[str], None]
