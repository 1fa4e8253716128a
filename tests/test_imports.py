"""Imports point one way (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "tfx_pipeline": {"tfx_pipeline", "components", "trainers", "serving"},
    "components": {"components", "serving"},
    "trainers": {"trainers", "serving"},
    "serving": {"serving"},
}
MODULES = [path for package in ALLOWED for path in (ROOT / package).rglob("*.py")]


def imported_packages(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    package = path.relative_to(ROOT).parts[0]
    assert imported_packages(path) & ALLOWED.keys() <= ALLOWED[package]
