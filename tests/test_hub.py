# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from checkpoint_files import copied, edit_json
from huggingface_hub import errors
from situations import SHIPPED

from alpamayo_rt import ModelError
from alpamayo_rt.checkpoint import open_checkpoint
from alpamayo_rt.hub import find_backbone, find_checkpoint

HUB_ID = "nvidia/Alpamayo-1.5-10B"
Asked = list[tuple[str, list[str]]]


def http_error(kind: type[Exception]) -> Exception:
    """As the library raises it, without a response: how one is made differs by the library's version."""
    error = kind.__new__(kind)
    Exception.__init__(error, "Client Error.\nLong text of the library.")
    return error


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path | Exception], Asked]:
    """Makes the hub give a folder or raise; returns what is asked of it."""

    def answer(given: Path | Exception) -> Asked:
        asked: Asked = []

        def snapshot_download(repo_id: str, allow_patterns: list[str]) -> str:
            asked.append((repo_id, allow_patterns))
            if isinstance(given, Exception):
                raise given
            return str(given)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return asked

    return answer


Hub = Callable[[Path | Exception], Asked]


def test_gated_model_names_page_and_command(hub: Hub) -> None:
    hub(http_error(errors.GatedRepoError))
    with pytest.raises(ModelError) as caught:
        find_checkpoint(HUB_ID)
    assert str(caught.value) == (
        f"{HUB_ID} is gated: accept its terms at https://huggingface.co/{HUB_ID}, then run `hf auth login`"
    )


def test_unknown_model_may_be_private(hub: Hub) -> None:
    hub(http_error(errors.RepositoryNotFoundError))
    with pytest.raises(ModelError, match=f"https://huggingface.co/{HUB_ID} and run `hf auth login`"):
        find_checkpoint(HUB_ID)


@pytest.mark.parametrize(
    "error",
    [
        errors.LocalEntryNotFoundError("Cannot find the files on the disk.\nMore."),
        http_error(errors.HfHubHTTPError),
        ConnectionError("no route"),
        TimeoutError(),
    ],
    ids=["offline", "unavailable", "no route", "timeout"],
)
def test_hub_out_of_reach_says_how_to_go_on_in_one_line(error: Exception, hub: Hub) -> None:
    hub(error)
    with pytest.raises(ModelError, match=f"run `hf download {HUB_ID}`") as caught:
        find_checkpoint(HUB_ID)
    assert "\n" not in str(caught.value)
    assert "()" not in str(caught.value)


def test_folder_is_never_looked_up(hub: Hub) -> None:
    asked = hub(AssertionError("asked"))
    assert find_checkpoint(str(SHIPPED)) == SHIPPED
    assert asked == []


def test_hub_id_is_downloaded_without_other_formats(hub: Hub, tmp_path: Path) -> None:
    asked = hub(tmp_path)
    assert find_checkpoint(HUB_ID) == tmp_path
    ((hub_id, patterns),) = asked
    assert hub_id == HUB_ID
    assert "*.safetensors" in patterns
    assert "*.json" in patterns
    assert not any(p.endswith((".bin", ".pt")) or p == "*" for p in patterns)


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "a/b/c", "nvidia/", "/absent/folder"])
def test_neither_folder_nor_hub_id(
    name: str, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = hub(AssertionError("asked"))
    with pytest.raises(ModelError, match="neither a folder nor a hub id"):
        find_checkpoint(name)
    assert asked == []


def test_file_is_no_checkpoint() -> None:
    with pytest.raises(ModelError, match="is a file, expected a checkpoint folder"):
        find_checkpoint(str(SHIPPED / "model" / "checkpoint" / "config.json"))


def test_backbone_beside_the_checkpoint_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, elsewhere = tmp_path / "checkpoint" / "Qwen" / "Base", tmp_path / "here" / "Qwen" / "Base"
    for folder in (beside, elsewhere):
        folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert find_backbone("Qwen/Base", tmp_path / "checkpoint").samefile(beside)
    assert find_backbone("Qwen/Base", tmp_path / "other").samefile(elsewhere)
    assert find_backbone(str(elsewhere), tmp_path / "other") == elsewhere


def test_backbone_on_the_hub_is_config_and_tokenizer_only(hub: Hub, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    asked = hub(folder.parent / "backbone")
    edit_json(folder / "config.json", lambda c: c.update(vlm_name_or_path="Qwen/Qwen3-VL-8B-Instruct"))
    opened = open_checkpoint(str(folder))
    assert opened.backbone == folder.parent / "backbone"
    assert asked == [("Qwen/Qwen3-VL-8B-Instruct", ["config.json", "tokenizer.json", "tokenizer_config.json"])]


def test_gated_backbone_is_named_itself(hub: Hub, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    hub(http_error(errors.GatedRepoError))
    edit_json(folder / "config.json", lambda c: c.update(vlm_name_or_path="some/backbone"))
    with pytest.raises(ModelError, match="some/backbone is gated"):
        open_checkpoint(str(folder))
