# SPDX-License-Identifier: Apache-2.0
"""Which exported files the user means, and opening them as the parts of an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from alpamayo_rt.config import ModelConfig
from alpamayo_rt.engine.bindings import CONTRACTS, PARTS, expert_bindings
from alpamayo_rt.engine.expert_runner import ExpertRunner
from alpamayo_rt.engine.onnx_session import OnnxSession
from alpamayo_rt.engine.session import Session, check_bindings
from alpamayo_rt.engine.session_engine import Stages
from alpamayo_rt.engine.session_stages import LanguageStage, VisionStage
from alpamayo_rt.errors import EngineError

MODEL_FILE, ENGINE_SUFFIX = "model.onnx", ".engine"


@dataclass(frozen=True)
class EngineFiles:
    """What the three engine flags name: a folder that `export` wrote, a part's folder in it, or a file.

    Attributes:
        engine_dir: has the language model; vision and expert are taken from it too where they are in it.
        multimodal_engine_dir: has the vision tower.
        expert_engine: has the expert.
    """

    engine_dir: str | None = None
    multimodal_engine_dir: str | None = None
    expert_engine: str | None = None

    def __bool__(self) -> bool:
        return any((self.engine_dir, self.multimodal_engine_dir, self.expert_engine))

    def are_engines(self) -> bool:
        """Whether TensorRT's engines are meant: a file of that kind, or a folder that has one."""
        named = [
            Path(n).expanduser() for n in (self.engine_dir, self.multimodal_engine_dir, self.expert_engine) if n
        ]
        return any(
            path.suffix == ENGINE_SUFFIX
            or any(path.glob(f"*{ENGINE_SUFFIX}"))
            or any(path.glob(f"*/*{ENGINE_SUFFIX}"))
            for path in named
        )

    def flag_of(self, part: str) -> tuple[str, str | None, bool]:
        """The flag that names a part, its value, and whether the part has to be there."""
        named = {"vision": self.multimodal_engine_dir, "expert": self.expert_engine}.get(part)
        if named is not None:
            return ("--multimodal-engine-dir" if part == "vision" else "--expert-engine"), named, True
        return "--engine-dir", self.engine_dir, part == "language"


def find_onnx_files(files: EngineFiles, parts: tuple[str, ...] = PARTS) -> dict[str, Path]:
    """The ONNX file of each of the parts that has one.

    Raises:
        EngineError: a flag names something that is not there.
    """
    found = {}
    for part in parts:
        flag, named, needed = files.flag_of(part)
        if named is None:
            continue
        path = Path(named).expanduser()
        if not path.exists():
            raise EngineError(f"{flag}: {path} is missing, expected a folder that alpamayo-rt export wrote")
        # A file, or a part's own folder, counts only for the flag that names this part.
        places = [path / part / MODEL_FILE, *([path, path / MODEL_FILE] if needed else [])]
        place = next((p for p in places if p.is_file()), None)
        if place is not None:
            found[part] = place
        elif needed:
            raise EngineError(
                f"{flag}: {path} has no {part}/{MODEL_FILE}, expected a folder with it or the file"
            )
    return found


def open_onnx_stages(
    paths: Mapping[str, Path],
    config: ModelConfig,
    model_hash: str,
    device: torch.device,
    provider: str | None = None,
    contract: str | None = None,
) -> tuple[Stages, dict[str, Session]]:
    """Open exported files and check that they are what they are taken for.

    Args:
        paths: by part.
        config: of the model.
        model_hash: of the checkpoint that they have to come from.
        device: where the tensors are.
        provider: ONNX Runtime's execution provider; None: the device's.
        contract: that the expert has to have; None: any.

    Raises:
        EngineError: one line: which file, what is wrong, what was expected.
    """
    sessions: dict[str, Session] = {}
    for part, path in paths.items():
        session = OnnxSession(path, device, provider)
        check_origin(session, part, model_hash)
        sessions[part] = session
    vision, language, expert = (sessions.get(part) for part in PARTS)
    stages = Stages(
        None if vision is None else VisionStage(vision, config),
        None if language is None else LanguageStage(language, config),
        None if expert is None else ExpertRunner(expert, check_expert(expert, config, contract)),
    )
    return stages, sessions


def check_origin(session: Session, part: str, model_hash: str) -> None:
    """Refuse another part's file, or another model's.

    Raises:
        EngineError: names both sides.
    """
    metadata = session.metadata
    if metadata.get("part") != part:
        says = f"is the part {metadata['part']}" if metadata.get("part") else "does not say which part it is"
        raise EngineError(f"{session.path}: {says}, expected {part} as alpamayo-rt export writes it")
    if metadata.get("model_hash") != model_hash:
        raise EngineError(
            f"{session.path}: exported from {metadata.get('model_name')} ({metadata.get('model_hash')}), the "
            f"model is {model_hash}; run: alpamayo-rt export --parts {part} for this model"
        )


def check_expert(session: Session, config: ModelConfig, wanted: str | None) -> str:
    """The contract of an expert, whose inputs and outputs are those of that contract.

    Raises:
        EngineError: it has another one than is wanted, or one of its bindings differs.
    """
    contract = session.metadata.get("contract", "")
    if contract not in CONTRACTS:
        raise EngineError(f"{session.path}: contract {contract!r}, expected {', '.join(CONTRACTS)}")
    if wanted not in (None, contract):
        raise EngineError(f"--contract: {wanted}, but {session.path} has the contract {contract}")
    cache = next((b for b in session.inputs if b.name in ("kv_prefix", "kv_cache")), None)
    dtype = torch.float32 if cache is None else cache.dtype
    check_bindings(session, *expert_bindings(config, contract, dtype))
    return contract
