"""Which lane `make setup` takes: by glibc and the interpreters that are there."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "requirements" / "lane.sh"
# An interpreter of one version, as far as the script asks.
PYTHON = """#!/bin/sh
case "$2" in
  *"!= '{version}'"*) exit 0 ;;
  *sys.executable*) echo "$0" ;;
  *) exit 1 ;;
esac
"""


def lane(folder, glibc, interpreters, **environment):
    """Run the script on a machine with these; an interpreter is named by its file and its version."""
    tools = {"getconf": f"#!/bin/sh\necho glibc {glibc}\n"}
    tools |= {name: PYTHON.format(version=version) for name, version in interpreters.items()}
    for name, text in tools.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    # The system's own tools, without its interpreters.
    for name in ("bash", "cut", "sort", "head", "env"):
        (folder / name).symlink_to(f"/usr/bin/{name}")
    return subprocess.run(
        [folder / "bash", SCRIPT],
        env={"PATH": str(folder), "HOME": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("glibc", "interpreters", "chosen"),
    [
        ("2.41", {"python3": "3.13"}, "b {}/python3"),
        ("2.39", {"python3.12": "3.12", "python3.11": "3.11"}, "b {}/python3.12"),
        ("2.41", {"python3": "3.14", "python3.10": "3.10"}, "a {}/python3.10"),
        ("2.41", {"python3": "3.14"}, "b 3.13"),
        ("2.36", {"python3": "3.11", "python3.10": "3.10"}, "a {}/python3.10"),
        ("2.36", {"python3": "3.13"}, "a 3.10"),
        ("2.9", {}, "a 3.10"),
    ],
)
def test_lane_follows_glibc_and_interpreters(tmp_path, glibc, interpreters, chosen):
    done = lane(tmp_path, glibc, interpreters)
    assert (done.returncode, done.stdout.strip()) == (0, chosen.format(tmp_path)), done.stderr


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ({"LANE": "b", "PYTHON": "mine"}, "b {}/mine"),
        ({"PYTHON": "mine"}, "b {}/mine"),
        ({"PYTHON": "python3.10"}, "a {}/python3.10"),
        ({"LANE": "a"}, "a {}/python3.10"),
    ],
)
def test_lane_and_interpreter_can_be_chosen(tmp_path, asked, chosen):
    given = {"mine": "3.11", "python3.13": "3.13", "python3.10": "3.10"}
    if "PYTHON" in asked:
        asked = {**asked, "PYTHON": str(tmp_path / asked["PYTHON"])}
    done = lane(tmp_path, "2.41", given, **asked)
    assert done.stdout.strip() == chosen.format(tmp_path), done.stderr


def test_an_interpreter_that_fits_no_lane_is_one_line(tmp_path):
    done = lane(tmp_path, "2.41", {"mine": "3.14", "python3.13": "3.13"}, PYTHON=str(tmp_path / "mine"))
    said = f"make setup: PYTHON must be one of 3.13 3.12 3.11 with venv for lane B, got {tmp_path}/mine\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_unknown_lane_is_one_line(tmp_path):
    done = lane(tmp_path, "2.41", {}, LANE="c")
    assert (done.returncode, done.stderr) == (1, "make setup: LANE must be a or b, got c\n")
