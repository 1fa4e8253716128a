"""The requests that docs/serving.md shows are answered."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from serving.export.signatures import read_signature_defs
from tests.components.image_example_gen import pictures

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text()

pytestmark = pytest.mark.slow


def block(heading, language):
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.search(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "cat.png").write_bytes(pictures.encoded())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(base):
    """Every signature of the models."""
    found = set()
    for version in ("vit_vqgan/3", "vim/17", "classifier/5"):
        found |= read_signature_defs(str(base / version)).keys()
    return found - {"serving_default"}


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_every_signature_is_shown_with_curl_and_answers(server, base, folder):
    shown = block("Every signature over REST", "sh").replace("localhost:8501", server.http)
    asked = re.findall(r'signature_name\\?": \\?"(\w+)', shown)
    assert set(asked) == names(base)
    # Each answer in a line of its own.
    shown = re.sub(r"^(.*\bcurl -sS.*)$", r"\1\necho", shown, flags=re.MULTILINE)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shown], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(text) for text in re.split(r"(?<=\})\s*\n", done.stdout) if text.strip()]
    # `decode_pixels` goes to a file alone.
    assert len(answers) == len(asked) - 1
    assert all("outputs" in answer for answer in answers)


def test_every_call_in_python_answers(server, folder, capsys):
    shown = block("From Python", "python").replace("grpc://localhost:8500", server.grpc)
    scope = {}
    exec(shown, scope)
    assert scope["images"].shape == (2, 8, 8, 3)
    assert scope["same"].shape == scope["tokens"].shape
    assert set(scope["scores"]) == {"log_likelihood", "bits_per_token", "error"}
    assert scope["features"].ndim == 3
    assert scope["near"].shape == (1, 15)
    assert scope["probabilities"].shape == (1, 3)
    shown = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]
    exec(shown.replace("grpc://localhost:8500", server.grpc), scope)
    assert capsys.readouterr().out.splitlines() == ["4 more"] * 4 + ["2 more"] * 4
    scope["client"].close()
