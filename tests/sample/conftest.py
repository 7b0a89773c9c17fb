# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the clip tests: a small dataset on disk, and a network that is not there."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
from clip_recordings import recording

from alpamayo_rt.sample.clip_writer import ClipRecording, DatasetWriter, EncodedClip, encode_recording


@pytest.fixture(scope="session")
def original() -> ClipRecording:
    return recording("clip-a")


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory, original: ClipRecording) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    writer = DatasetWriter(root)
    assert writer.write(original)
    assert writer.write(recording("clip-short", seconds=7.0, cameras=(1,)))
    return root


@pytest.fixture(scope="session")
def encoded() -> EncodedClip:
    return encode_recording(recording("clip-b", seconds=3.0, cameras=(1, 3)))


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("network access")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    # As on a user's machine: nobody told the hub library that it is offline.
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
