"""Check that imports between packages point one way (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Each package, and the other packages that its modules may import.
ARROWS = {
    "tfx_pipeline": {
        "components",
        "trainers",
        "serving.demo",
        "serving.cli",
        "serving.client",
        "serving.server",
        "serving.export",
        "serving.wire",
    },
    "components": {"serving.cli", "serving.client", "serving.export", "serving.wire"},
    "trainers": {"serving.export", "serving.wire"},
    "serving.demo": {"serving.cli", "serving.client", "serving.server", "serving.export", "serving.wire"},
    "serving.cli": {"serving.client", "serving.server", "serving.export", "serving.wire"},
    "serving.client": {"serving.server", "serving.export", "serving.wire"},
    "serving.server": {"serving.export", "serving.wire"},
    "serving.export": {"serving.wire"},
    "serving.wire": set(),
}
MODULES = sorted(
    path
    for package in ("tfx_pipeline", "components", "trainers", "serving")
    for path in (ROOT / package).rglob("*.py")
)


def room_of(module: str) -> str | None:
    """Return the package in `ARROWS` that a dotted module name belongs to; None for any other module."""
    return next((room for room in ARROWS if f"{module}.".startswith(f"{room}.")), None)


def imported_modules(source: str) -> set[str]:
    """Return every module that a source imports, with `import module` or `from package import module`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def wrong_arrows(module: str, source: str) -> list[str]:
    """Return the imports of a module that `ARROWS` does not allow."""
    room = room_of(module)
    if room is None:
        return []
    targets = {name: room_of(name) for name in imported_modules(source)}
    return sorted(name for name, target in targets.items() if target and target not in {room, *ARROWS[room]})


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_imports_only_allowed_packages(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert wrong_arrows(module, path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("serving.wire.errors", "from serving.export import images"),
        ("serving.export.images", "import serving.server.models"),
        ("serving.server.rest", "from serving.client.client import Client"),
        ("serving.client.queries", "from serving.cli import files"),
        ("trainers.vim.trainer", "from components.metrics import registry"),
        ("trainers.vim.trainer", "def f():\n    from serving.client import queries"),
        ("components.dataset", "from trainers.accounting import Cost"),
        ("serving.cli.commands", "import tfx_pipeline.cli"),
    ],
)
def test_forbidden_import_is_detected(module, source):
    assert len(wrong_arrows(module, source)) == 1


def test_no_two_packages_import_each_other():
    for room, targets in ARROWS.items():
        assert all(room not in ARROWS[target] for target in targets)


def test_every_package_of_serving_is_listed():
    wings = {path.parent.name for path in (ROOT / "serving").glob("*/__init__.py")}
    assert {f"serving.{wing}" for wing in wings} == {room for room in ARROWS if room.startswith("serving.")}
