"""README and docs point at what exists."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from components.metrics import registry
from tfx_pipeline.cli import cli
from tfx_pipeline.config import load

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    path.name: path.read_text()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
}
ALL = "\n".join(PAGES.values())


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_exist(page):
    folder = ROOT if page in ("README.md", "CONTRIBUTING.md") else ROOT / "docs"
    prose = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", prose)
    assert [link for link in links if not (folder / link).exists()] == []


@pytest.mark.parametrize("command", sorted(set(re.findall(r"bin/tfx-vim ([a-z-]+)", ALL))))
def test_shown_commands_exist(command):
    assert CliRunner().invoke(cli, [command, "--help"]).exit_code == 0


@pytest.mark.parametrize("line", sorted(set(re.findall(r"bin/tfx-vim ([a-z-]+ [^#\n]*--[^#\n]*)", ALL))))
def test_shown_options_exist(line):
    command, *_ = line.split()
    known = {option for parameter in cli.commands[command].params for option in parameter.opts}
    assert set(re.findall(r"(?<!\S)--[a-z_-]+", line)) <= known


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:`|^)make ([a-z-]+)", ALL, re.MULTILINE))))
def test_shown_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_shown_settings_are_keys():
    tree = load("digits").model_dump()
    for key in set(re.findall(r"--set ([a-z0-9_.]+)=", ALL)) - {"stage1.savedmodel"}:
        section = tree
        for part in key.split("."):
            assert part in section, key
            section = section[part]


@pytest.mark.parametrize(
    "path",
    sorted(
        set(
            re.findall(
                r"`((?:components|trainers|serving|tfx_pipeline|tests|configs|benchmarks)/[\w./]+)`", ALL
            )
        )
    ),
)
def test_named_files_exist(path):
    assert (ROOT / path).exists()


def test_metric_is_documented():
    """docs/evaluation.md lists the metrics of the registry, and no others, for each evaluator in order."""
    rows = re.findall(r"^\| ([a-z_]*) ?\| (`[^|]+`) \|", PAGES["evaluation.md"], re.MULTILINE)
    listed: dict[str, list[str]] = {}
    for evaluator, metrics in rows:
        if evaluator in registry.EVALUATORS:
            own = listed.setdefault(evaluator, [])
        own += re.findall(r"`(\w+)`", metrics)
    declared = {name: set(registry.names(metrics)) for name, metrics in registry.EVALUATORS.items()}
    assert {name: set(metrics) for name, metrics in listed.items()} == declared


def test_no_placeholder_is_left():
    assert not re.search(r"@[A-Z]+@", ALL)
