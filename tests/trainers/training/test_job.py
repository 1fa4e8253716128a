from types import SimpleNamespace

import keras
import pytest

from tests.trainers import events
from tfx_pipeline.config import load
from trainers.training import job as job_module
from trainers.training.config import Augmentation, Job
from trainers.training.job import export_folder, prepare, training_digest, training_folders


def digest(*overrides: str, job: dict | None = None, data: str = "f00d") -> str:
    own = {"preset": "test", "seed": 0, "image_size": 32, "checkpoints": "here", "logs": "there"}
    given = Job(augmentation=Augmentation(), **{**own, **(job or {})})
    return training_digest(given, load("digits", overrides).trained_stage1, data)


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
def test_training_digest_ignores_devices_intervals_and_folders(override):
    assert digest(override) == digest()
    assert digest(job={"checkpoints": "moved", "logs": "elsewhere"}) == digest()


@pytest.mark.parametrize(
    "override",
    [
        "stage1.train.steps=700",
        "stage1.train.precision=bfloat16",
        "stage1.loss.l2=2",
        "stage1.model.patch_size=4",
    ],
)
def test_training_digest_depends_on_what_affects_the_result(override):
    others = digest(job={"seed": 1}), digest(data="other"), digest(job={"code": "edited"})
    assert len({digest(override), digest(), *others}) == 5


def test_training_digest_does_not_depend_on_what_only_the_export_takes():
    assert digest(job={"max_image_pixels": 100}) == digest()


def test_training_folders_tell_day_changes_and_digest_and_are_found_again(tmp_path, monkeypatch):
    own = {"preset": "test", "image_size": 32, "checkpoints": f"{tmp_path}/here", "logs": f"{tmp_path}/logs"}
    job = Job(seed=0, augmentation=Augmentation(), label="dropout=0.3", **own)
    stage = load("digits").trained_stage1
    monkeypatch.setattr(job_module, "today", lambda: "2026-11-27")
    first = training_folders(job, stage, "data")
    name = f"2026-11-27_dropout=0.3_{training_digest(job, stage, 'data')}"
    assert first == (f"{tmp_path}/here/{name}", f"{tmp_path}/logs/{name}")
    (tmp_path / "here" / name).mkdir(parents=True)

    monkeypatch.setattr(job_module, "today", lambda: "2026-12-01")
    assert training_folders(job.model_copy(update={"label": ""}), stage, "data") == first
    assert training_folders(job, stage, "more data") != first
    texts = events.values(tmp_path / "logs" / name / "train")
    assert sorted(texts) == ["configuration/job", "configuration/stage"]
    assert '"patch_size"' in texts["configuration/stage"][0].decode()


def test_precision_is_float32_again_after_export(tmp_path):
    own = load("digits", ["stage1.train.precision=bfloat16"]).trained_stage1.train
    prepare(0, own)
    assert keras.mixed_precision.dtype_policy().name == "mixed_bfloat16"
    folders = SimpleNamespace(model_run_dir=str(tmp_path), serving_model_dir="model")
    with export_folder(folders, [], []) as directory:
        assert directory == "model"
        assert keras.mixed_precision.dtype_policy().name == "mixed_bfloat16"
    assert keras.mixed_precision.dtype_policy().name == "float32"
