"""What a linter does not know of how this project is written."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
SOURCES = sorted(path for folder in ("jobqueue", "handlers") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_every_test_names_its_behaviour(path: Path) -> None:
    """A test's docstring says what holds, in words."""
    tree = ast.parse(path.read_text("utf-8"))
    tests = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    assert [node.name for node in tests if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_stand_at_the_top(path: Path) -> None:
    """No function imports: a hidden import hides an arrow of the architecture."""
    tree = ast.parse(path.read_text("utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    hidden = [
        f"{function.name}:{node.lineno}"
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert hidden == []


def test_only_settings_reads_the_environment() -> None:
    """Whoever reads the environment elsewhere is configured by nobody knows what."""
    readers = []
    for path in SOURCES:
        tree = ast.parse(path.read_text("utf-8"))
        reads = any(
            isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"} and ast.unparse(node.value) == "os"
            for node in ast.walk(tree)
        )
        if reads:
            readers.append(str(path.relative_to(ROOT)))
    assert readers == ["jobqueue/settings.py"]
