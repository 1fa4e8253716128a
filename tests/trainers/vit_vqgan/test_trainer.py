import json

import numpy as np
import pytest

from components.model_validator.executor import validate
from tests.trainers import events
from tests.trainers.examples import write_images
from tests.trainers.training.replicas import TOWER, Arguments
from trainers.vit_vqgan import trainer
from trainers.vit_vqgan.config import Stage1

pytestmark = pytest.mark.slow

CONVOLUTIONS = {"channels": 8, "multipliers": [1, 2], "residual_blocks": 1}


# The validator's server optimizes graphs, by which bfloat16 rounds otherwise.
@pytest.mark.optimized
@pytest.mark.parametrize(
    ("tower", "precision"),
    [(TOWER, "bfloat16"), (CONVOLUTIONS, "float32")],
    ids=["transformer", "convolutions"],
)
def test_tokenizer_is_trained_and_exported_and_low_usage_reported(tmp_path, capsys, tower, precision):
    write_images(tmp_path / "images", records=8)
    stage = Stage1.model_validate(
        {
            "model": {
                "patch_size": 2,
                "encoder": tower,
                "decoder": tower,
                "codebook": {"size": 512, "dim": 4},
            },
            "loss": {"perceptual": 0.0, "adversarial": 0.0},
            "usage_alarm": 1.0,
            "train": {
                "steps": 4,
                "batch_size": 4,
                "precision": precision,
                "steps_per_call": 2,
                "log_every": 2,
                "checkpoint_every": 2,
                "optimizer": {"learning_rate": 1e-3},
            },
        }
    )
    trainer.run_fn(Arguments(tmp_path, tmp_path / "images", stage, image_size=8))
    # 4 images have 64 tokens, so that at most 64 of the 512 codes are used.
    assert "is below 1 at step 2" in capsys.readouterr().err
    assert not [check for check in validate(str(tmp_path / "model")) if check.reason]
    (logs,) = (tmp_path / "logs").iterdir()
    # Eight images of 8 pixels, each left of its reconstruction, in three rows.
    pictures = events.picture(logs / "held_out", "reconstructions", 4)
    assert pictures.shape == (24, 48, 3)
    originals = np.concatenate([pictures[:8, at : at + 8] for at in (0, 16, 32)])
    assert len(np.unique(originals)) == 3  # grey images
    assert {"gradient_norm", "learning_rate", "codebook_usage"} <= events.values(logs / "train").keys()


def test_warm_start_goes_on_from_a_run_and_from_its_exported_model(tmp_path, capsys):
    write_images(tmp_path / "images", records=8)

    def train(folder, **options) -> list[dict[str, float]]:
        stage = Stage1.model_validate(
            {
                "model": {
                    "patch_size": 4,
                    "encoder": TOWER,
                    "decoder": TOWER,
                    "codebook": {"size": 16, "dim": 4},
                },
                "loss": {"perceptual": 0.0},
                "adversary": {"discriminator": {"network": "stylegan2", "channel_multiplier": 0.01}},
                "train": {
                    "steps": 40,
                    "batch_size": 4,
                    "log_every": 10,
                    "checkpoint_every": 10,
                    "optimizer": {"learning_rate": 3e-3},
                    **options,
                },
            }
        )
        trainer.run_fn(Arguments(folder, tmp_path / "images", stage, image_size=16))
        lines = (folder / "run" / "history.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    first = train(tmp_path / "first")
    capsys.readouterr()
    # In a run, checkpoints lie in a folder for each trainer.
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "first" / "checkpoints").rename(tmp_path / "run" / "checkpoints" / "tokenizer")
    from_run = train(tmp_path / "second", warm_start=str(tmp_path / "run"))
    assert "tokenizer: starts with the tokenizer and adversary of" in capsys.readouterr().err
    from_model = train(tmp_path / "third", warm_start=str(tmp_path / "first" / "model"))
    assert "; adversary anew" in capsys.readouterr().err
    for history in (from_run, from_model):
        assert history[0]["loss"] < 0.7 * first[0]["loss"]
