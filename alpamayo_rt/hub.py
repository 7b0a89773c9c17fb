# SPDX-License-Identifier: Apache-2.0
"""Turns what a user calls a model (folder or hub id) into files on disk."""

from __future__ import annotations

import re
from pathlib import Path

from alpamayo_rt.errors import ModelError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LOG_IN = "{0} is gated: accept its terms at https://huggingface.co/{0}, then run `hf auth login`"
BACKBONE_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt")


NANO = "nano"


def nano_folder() -> Path:
    """Where the demo model lies in the package."""
    return Path(__file__).parent / "demo" / NANO


def find_checkpoint(model: str) -> Path:
    """The folder of a checkpoint: `model` itself, the demo model's for nano, or downloaded for a hub id.

    Raises:
        ModelError: neither a folder nor a hub id, or the hub did not give it; says what to do.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model == NANO and (nano_folder() / "config.json").is_file():
        return nano_folder()
    if folder.exists():
        raise ModelError(f"model: {model} is a file, expected a checkpoint folder, a hub id or {NANO}")
    if not _HUB_ID.fullmatch(model):
        raise ModelError(
            f"model: {model!r} is neither a folder nor a hub id such as nvidia/Alpamayo-1.5-10B, nor {NANO}"
        )
    return _download(model, CHECKPOINT_FILES)


def find_backbone(name: str, checkpoint: Path) -> Path:
    """The folder with the backbone's config and tokenizer.

    Args:
        name: `vlm_name_or_path`: a path, relative to the checkpoint folder or absolute, or a hub id.
        checkpoint: the checkpoint folder.
    """
    for folder in (checkpoint / name, Path(name).expanduser()):
        if folder.is_dir():
            return folder
    if not _HUB_ID.fullmatch(name) or name.startswith("."):
        raise ModelError(
            f"{checkpoint / 'config.json'}: vlm_name_or_path {name!r} is neither a folder nor a hub id"
        )
    return _download(name, BACKBONE_FILES)


def _download(hub_id: str, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(patterns)))
    except errors.HFValidationError:
        raise ModelError(f"{hub_id!r} is neither a folder nor a valid hub id") from None
    except errors.GatedRepoError:
        raise ModelError(_LOG_IN.format(hub_id)) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"{hub_id}: the hub does not show it; check the name, or visit https://huggingface.co/{hub_id} "
            "and run `hf auth login` if it is gated or private"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError) as error:
        if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
            raise ModelError(_LOG_IN.format(hub_id)) from None
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{hub_id}: no such folder, not in the local cache, and the hub could not be reached ({reason}); "
            f"run `hf download {hub_id}` where there is a network, or give a folder"
        ) from None
