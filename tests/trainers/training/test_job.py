from types import SimpleNamespace

import keras
import pytest

from tfx_pipeline.config import load
from trainers.training.config import Augmentation, Job
from trainers.training.job import export_folder, prepare, training_name


def name(*overrides: str, job: dict | None = None, data: str = "f00d") -> str:
    own = {"preset": "test", "seed": 0, "image_size": 32, "checkpoints": "here", "logs": "there"}
    given = Job(augmentation=Augmentation(), **{**own, **(job or {})})
    return training_name(given, load("digits", overrides).trained_stage1, data)


@pytest.mark.parametrize(
    "override",
    [
        "stage1.train.strategy=mirrored",
        "stage1.train.tpu.name=another",
        "stage1.train.steps_per_call=20",
        "stage1.train.log_every=40",
        "stage1.train.checkpoint_every=200",
        "stage1.train.keep_checkpoints=5",
        "stage1.usage_alarm=0.5",
    ],
)
def test_training_name_ignores_devices_intervals_and_folders(override):
    assert name(override) == name()
    assert name(job={"checkpoints": "moved", "logs": "elsewhere"}) == name()


@pytest.mark.parametrize(
    "override",
    [
        "stage1.train.steps=700",
        "stage1.train.precision=bfloat16",
        "stage1.loss.l2=2",
        "stage1.model.patch_size=4",
    ],
)
def test_training_name_depends_on_what_affects_the_result(override):
    assert len({name(override), name(), name(job={"seed": 1}), name(data="other")}) == 4


def test_precision_is_float32_again_after_export(tmp_path):
    own = load("digits", ["stage1.train.precision=bfloat16"]).trained_stage1.train
    prepare(0, own)
    assert keras.mixed_precision.dtype_policy().name == "mixed_bfloat16"
    folders = SimpleNamespace(model_run_dir=str(tmp_path), serving_model_dir="model")
    with export_folder(folders, [], []) as directory:
        assert directory == "model"
        assert keras.mixed_precision.dtype_policy().name == "mixed_bfloat16"
    assert keras.mixed_precision.dtype_policy().name == "float32"
