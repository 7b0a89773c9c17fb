# SPDX-License-Identifier: Apache-2.0
"""The rules of the house that can be read off the source: imports point one way, files stay short."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "alpamayo_rt"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_FILES = sorted(
    p for folder in ("alpamayo_rt", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py")
)

# Folder or module → what it must not import.
FORBIDDEN = {
    "model": [
        "engine",
        "prompt",
        "sample",
        "action",
        "verify",
        "cli",
        "inference",
        "loading",
        "checkpoint",
        "hub",
    ],
    "action": ["engine", "prompt", "sample", "model", "verify", "cli", "inference", "loading", "checkpoint"],
    "prompt": ["engine", "model", "verify", "cli", "inference", "loading", "checkpoint", "hub"],
    "sample": ["engine", "model", "prompt", "verify", "cli", "inference", "loading", "checkpoint"],
    "engine": [
        "bench",
        "cli",
        "export",
        "tensorrt",
        "engine_files",
        "sample",
        "verify",
        "inference",
        "loading",
        "checkpoint",
        "hub",
        "serving",
        "evaluation",
    ],
    "export": ["cli", "verify", "inference", "loading", "session_loading", "serving", "evaluation"],
    "tensorrt": [
        "cli",
        "export",
        "sample",
        "verify",
        "inference",
        "loading",
        "session_loading",
        "checkpoint",
        "hub",
        "serving",
        "evaluation",
    ],
    "kernels": ["engine", "model", "prompt", "sample", "action", "verify", "cli", "inference", "loading"],
    # What is measured is numbers: no files, no models, no clips.
    "evaluation": ["cli", "harness", "demo", "sample", "engine", "inference", "loading", "checkpoint"],
    "harness": ["cli", "serving", "verify", "training"],
    "demo": ["cli", "harness", "serving", "verify", "training"],
    "provenance": ["cli", "harness", "serving"],
    "serving": [
        "cli",
        "bench",
        "checkpoint",
        "export",
        "hub",
        "loading",
        "quantization",
        "tensorrt",
        "training",
        "verify",
    ],
    "bench": ["cli", "demo", "training", "export", "tensorrt", "serving", "evaluation"],
    "sizes": ["config", "engine", "prompt", "sample", "model", "action", "verify", "cli"],
    "verify": ["bench", "cli", "serving", "evaluation", "loading"],
    "config": ["engine", "prompt", "sample", "model", "action", "verify", "cli", "checkpoint"],
    "families": ["config", "engine", "prompt", "sample", "model", "action", "verify", "cli"],
    "errors": ["config", "families", "engine", "prompt", "sample", "model", "action", "verify", "cli"],
    "settings": ["prompt", "sample", "model", "action", "verify", "cli", "inference"],
    "inference": ["bench", "cli", "verify", "loading", "serving", "evaluation"],
    "quantization": ["demo", "verify", "cli", "serving", "evaluation"],
    "checkpoint": ["engine", "prompt", "sample", "verify", "cli", "inference", "loading"],
}


def imported(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, wherever in it the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative to the file's own package
                package = path.relative_to(ROOT).parent.parts[: -node.level + 1 or None]
                base = ".".join([*package, *([base] if base else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def breaches(path: Path, forbidden: list[str]) -> list[str]:
    banned = [f"alpamayo_rt.{name}" for name in forbidden]
    return sorted(n for n in imported(path) if any(n == b or n.startswith(f"{b}.") for b in banned))


@pytest.mark.parametrize("part", sorted(FORBIDDEN))
def test_imports_point_one_way(part: str) -> None:
    files = [path for path in SOURCES if part_of(path) == part]
    assert files, f"{part} is gone: bring this table up to date"
    found = {str(p.relative_to(ROOT)): breaches(p, FORBIDDEN[part]) for p in files}
    assert {name: names for name, names in found.items() if names} == {}


def test_the_check_of_imports_sees_every_spelling(tmp_path: Path) -> None:
    lines = {
        "import alpamayo_rt.cli.main": True,
        "from alpamayo_rt.cli import main": True,
        "from alpamayo_rt import cli": True,
        "def f():\n    from alpamayo_rt.cli.main import run": True,
        "from alpamayo_rt.client import x": False,
        "# import alpamayo_rt.cli": False,
        "text = 'import alpamayo_rt.cli'": False,
    }
    for source, expected in lines.items():
        path = tmp_path / "file.py"
        path.write_text(source)
        assert bool(breaches(path, ["cli"])) == expected, source


def test_the_network_knows_no_files() -> None:
    for path in SOURCES:
        if part_of(path) == "model":
            assert not imported(path) & {"json", "pathlib", "safetensors", "os", "tokenizers"}, path


def test_libraries_that_are_not_python_s_are_bound_in_files_of_their_own() -> None:
    bound = {str(path.relative_to(PACKAGE)) for path in SOURCES if "ctypes" in imported(path)}
    assert bound == {
        "kernels/hopper/compiler.py",
        "kernels/hopper/driver.py",
        "kernels/products/library.py",
        "tensorrt/library.py",
    }


def docstrings(tree: ast.AST) -> set[int]:
    """Ids of the nodes that are docstrings, which may speak of families."""
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_family_table_asks_for_a_family_by_name(path: Path) -> None:
    if path == PACKAGE / "families.py":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            assert "alpamayo_r1" not in node.value, node.lineno
            assert "alpamayo1_5" not in node.value, node.lineno
            assert "alpamayo2_super" not in node.value, node.lineno
        if isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            assert name not in ("ALPAMAYO_R1", "ALPAMAYO_1_5", "ALPAMAYO_2_SUPER"), node.lineno


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_starts_with_its_license_and_is_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"
    assert len(lines) <= 400
