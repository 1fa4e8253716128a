"""Check that files, commands and make targets named in the README exist."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tfx_pipeline.cli import cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http)[^)]+)\)", README))))
def test_every_linked_file_exists(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"tfx-vim ([a-z]+)", README))))
def test_every_command_exists(command):
    assert CliRunner().invoke(cli, [command, "--help"]).exit_code == 0


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`?make ([a-z]+)", README))))
def test_every_make_target_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_readme_has_no_unfilled_placeholders():
    assert not re.search(r"@[A-Z]+@", README)
