# SPDX-License-Identifier: Apache-2.0
"""The documents keep their word: links lead somewhere, examples run, commands exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from alpamayo_rt.cli.main import parser

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
MODEL = ROOT / "tests" / "data" / "alpamayo1_5" / "model" / "checkpoint"
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_SHELL = ("bash", "sh", "shell", "console")


def _blocks(document: Path, *languages: str) -> list[str]:
    return [body for language, body in _FENCE.findall(document.read_text("utf-8")) if language in languages]


def _prose(document: Path) -> str:
    return re.sub(r"`[^`\n]*`", "code", _FENCE.sub("", document.read_text("utf-8")))


def _anchors(document: Path) -> set[str]:
    """What a heading is called in a link: lower case, blanks to hyphens, other signs gone."""
    headings = re.findall(r"^#+ +(.+?)\s*$", _FENCE.sub("", document.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _commands(document: Path) -> Iterator[list[str]]:
    for block in _blocks(document, *_SHELL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words and words[0] == "alpamayo-rt":
                ends = [i for i, word in enumerate(words) if word in ("|", ">", "2>", "&&", ";")]
                yield words[1 : min(ends, default=len(words))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    broken = []
    for link in _LINK.findall(_prose(document)):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in _anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_parse(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for words in _commands(document):
        try:
            parser().parse_args(words)
        except SystemExit as stop:
            if stop.code != 0:  # --help and --version exit with 0
                wrong.append(f"alpamayo-rt {shlex.join(words)}: {capsys.readouterr().err}")
    assert not wrong


def test_python_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    if not MODEL.is_dir():
        pytest.skip(f"the tiny checkpoint is not at {MODEL.relative_to(ROOT)}")
    monkeypatch.chdir(ROOT)
    torch.manual_seed(0)
    blocks = _blocks(ROOT / "docs" / "python.md", "python")
    assert blocks
    names: dict[str, object] = {}
    for n, block in enumerate(blocks):
        exec(compile(block, f"docs/python.md, block {n + 1}", "exec"), names)
