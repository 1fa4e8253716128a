"""The code that a component runs, as a part of its cache key: edited code gives new results.

Code is followed from a module through its imports within this project, in functions too. A text that names a
module, or all modules of a package, counts as an import, since sources are imported by name; a text that
names a file beside the module, as a template, counts that file. Comments and docstrings change nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata as distributions
from pathlib import Path
from typing import NamedTuple

from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.executor_spec import ExecutorClassSpec

from serving.export.atomic import write_atomic

PACKAGES = ("components", "serving", "tfx_pipeline", "trainers")
# Libraries that decide on every result, and those that decide where they are imported: name -> distribution.
EVERYWHERE = {"tensorflow": "tensorflow", "keras": "keras", "tfx": "tfx"}
WHERE_IMPORTED = {
    "PIL": "pillow",
    "apache_beam": "apache-beam",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "pyarrow": "pyarrow",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
}
LONGEST_NAME = 255


@dataclass(frozen=True)
class Code:
    """What a component runs.

    Attributes:
      files: path within the project -> digest of its content.
      versions: of Python and of the libraries that decide on results.
    """

    files: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the code."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def training(self) -> str:
        """The fingerprint for checkpoints, which outlive an update of what only reads or scores images."""
        versions = {name: self.versions[name] for name in ("python", *EVERYWHERE)}
        return Code(self.files, versions).fingerprint

    def import_modules(self) -> None:
        """Import everything now, so that what runs later is what was read, also if files are edited."""
        for name in self.files:
            if name.endswith(".py"):
                importlib.import_module(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))

    def changes_since(self, before: Code) -> str:
        """What has changed, in a few words; "" if nothing has."""
        files = [
            name for name in sorted({*self.files, *before.files}) if _differ(self.files, before.files, name)
        ]
        versions = [name for name in sorted(self.versions) if _differ(self.versions, before.versions, name)]
        found = [*files, *(f"{name} {self.versions[name]}" for name in versions)]
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return f"code changed: {', '.join(found[:3])}{more}" if found else ""


def read(path: Path) -> dict[str, Code]:
    """The code of each component that `write` has kept; empty if there is none."""
    try:
        return {name: Code(**kept) for name, kept in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write(path: Path, codes: Mapping[str, Code]) -> None:
    """Keep the code of each component."""
    write_atomic(path, json.dumps({name: asdict(code) for name, code in codes.items()}, indent=1))


def run_by(*components: BaseComponent) -> Code:
    """The code that components of the pipeline run; TFX's own is known by its version."""
    functions = [component.exec_properties.get("run_fn") for component in components]
    specs = [component.executor_spec for component in components]
    functions += [spec.class_path for spec in specs if isinstance(spec, ExecutorClassSpec)]
    return reached_from(*(function.rpartition(".")[0] for function in functions if function))


def mark(component: BaseComponent) -> BaseComponent:
    """Make the code of a component a part of its cache key; executors take no notice of the flag."""
    spec = component.executor_spec
    if isinstance(spec, ExecutorClassSpec):
        spec.add_extra_flags([f"--code={run_by(component).fingerprint}"])
    return component


def reached_from(*modules: str) -> Code:
    """The files of this project that modules need, and the versions that belong to them."""
    waiting = [name for name in modules if name.partition(".")[0] in PACKAGES]
    found: dict[str, str] = {}
    libraries = set(EVERYWHERE)
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            module = _read(name)
            found |= module.files
            libraries |= module.libraries
            waiting += module.needed
    known = {**EVERYWHERE, **WHERE_IMPORTED}
    versions = {name: distributions.version(known[name]) for name in sorted(libraries)}
    python = ".".join(platform.python_version_tuple()[:2])
    return Code(dict(sorted(found.items())), {"python": python, **versions})


class _Module(NamedTuple):
    files: Mapping[str, str]  # path -> digest
    needed: tuple[str, ...]  # modules of this project
    libraries: frozenset[str]  # of `WHERE_IMPORTED`


def _differ(these: Mapping[str, str], those: Mapping[str, str], name: str) -> bool:
    return these.get(name) != those.get(name)


@functools.cache
def _read(module: str) -> _Module:
    """What a module consists of and needs."""
    path = _path(module)
    if path is None:
        return _Module({}, (), frozenset())
    tree = ast.parse(path.read_bytes())
    _remove_docstrings(tree)
    own = module.replace(".", "/") + ("/__init__.py" if path.name == "__init__.py" else ".py")
    files = {own: _digest(ast.dump(tree).encode())}
    parents = module.split(".")[:-1]
    libraries: set[str] = set()
    needed = {".".join(parents[: depth + 1]) for depth in range(len(parents))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            needed |= set(_named(node.value))
            text = node.value
            is_name = "." in text and "/" not in text and len(text.encode()) <= LONGEST_NAME
            beside = path.parent / text
            if is_name and beside.suffix != ".py" and beside.is_file():
                for file in _included(beside):
                    files[f"{own.rpartition('/')[0]}/{file.name}"] = _digest(file.read_bytes())
        else:
            roots = {name: name.partition(".")[0] for name in _imported(node)}
            needed |= {name for name, root in roots.items() if root in PACKAGES}
            libraries |= WHERE_IMPORTED.keys() & set(roots.values())
    return _Module(files, tuple(sorted(name for name in needed if _path(name))), frozenset(libraries))


def _included(template: Path) -> set[Path]:
    """A template, and those beside it that it names."""
    found, waiting = set(), [template]
    while waiting:
        path = waiting.pop()
        found.add(path)
        text = path.read_text()
        neighbours = {other for other in path.parent.iterdir() if other.is_file() and other.suffix != ".py"}
        waiting += [other for other in neighbours - found if other.name in text]
    return found


def _imported(node: ast.AST) -> Iterator[str]:
    """Names that may be modules."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _named(text: str) -> Iterator[str]:
    """The module that a text names (`package.module` or `package.module:Name`), or a package's modules."""
    name = text.partition(":")[0]
    if name.partition(".")[0] not in PACKAGES or "." not in name or not name.replace(".", "").isidentifier():
        return
    path = _path(name)
    if path:
        yield name
    if path and path.name == "__init__.py":
        yield from (f"{name}.{file.stem}" for file in path.parent.glob("*.py") if file != path)


@functools.cache
def _path(module: str) -> Path | None:
    """The file of a module of this project; None if there is none."""
    package, *parts = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    base = Path(spec.submodule_search_locations[0], *parts)
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


def _remove_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [line for line in node.body if not _is_text(line)]


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
