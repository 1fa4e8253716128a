"""The notebooks of examples/ run from top to bottom."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import stand_ins

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples" / "tokens.ipynb"


def code_cells():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder with the stand-in models as its run runs/digits."""
    serving = tmp_path / "runs" / "digits" / "serving"
    stand_ins.write_tokenizer(str(serving / "vit_vqgan" / "1"))
    stand_ins.write_generator(str(serving / "vim" / "1"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_tokens_are_looked_at_mixed_completed_and_scored(run, capsys):
    scope = {}
    for cell in code_cells():
        exec(compile(cell, NOTEBOOK.name, "exec"), scope)
    assert scope["mixtures"].shape == (3, stand_ins.TOKENS)
    np.testing.assert_array_equal(scope["mixtures"][1], [*scope["tokens"][0, :2], *scope["tokens"][1, 2:]])
    assert len(np.unique(scope["walked"], axis=0)) == 5
    np.testing.assert_array_equal(scope["completed"][:, :4], np.stack([scope["first"]] * 5)[:, :4])
    assert isinstance(scope["beside"](scope["first"]), Image.Image)
    said = capsys.readouterr().out
    assert "2 x 2 tokens of 16 codes" in said
    # The stand-in knows nothing.
    assert "mixture: 4.00 bits a token, of 4.00" in said


def test_its_outputs_are_stored_and_hold_no_path():
    text = NOTEBOOK.read_text()
    outputs = [out for cell in json.loads(text)["cells"] for out in cell.get("outputs", ())]
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 4
    assert not [out for out in outputs if out["output_type"] == "error" or out.get("name") == "stderr"]
    assert "site-packages" not in text
