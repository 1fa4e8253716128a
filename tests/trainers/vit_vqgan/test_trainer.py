import pytest

from components.model_validator.executor import validate
from tests.trainers.examples import write_images
from tests.trainers.training.replicas import TOWER, Arguments
from trainers.vit_vqgan import trainer
from trainers.vit_vqgan.config import Stage1

pytestmark = pytest.mark.slow

CONVOLUTIONS = {"channels": 8, "multipliers": [1, 2], "residual_blocks": 1}


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
