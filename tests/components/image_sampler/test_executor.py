import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from components.image_sampler import shards as shards_module
from components.image_sampler.executor import Executor
from components.sampled_set import SampledSet
from serving.export.sampling_params import SamplingParams
from tests import stand_ins
from tests.components.evaluators import artifacts
from tests.components.evaluators.generation.two_schedules import write_two_schedules

FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/key": tf.io.FixedLenFeature([], tf.string),
    "image/label": tf.io.FixedLenFeature([], tf.int64, -1),
    "image/number": tf.io.FixedLenFeature([], tf.int64),
    "image/seed": tf.io.FixedLenFeature([], tf.int64),
    "tokens": tf.io.FixedLenFeature([stand_ins.TOKENS], tf.int64),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return artifacts.write_model(tmp_path_factory.mktemp("model"), stand_ins.write_generator)


def draw(folder: Path, model, *, beam_args=(), sampling=None, name="examples", **properties) -> Path:
    """Run the executor; the folder of its output."""
    output = artifacts.artifact(standard_artifacts.Examples, folder / name)
    Executor(artifacts.beam_context(*beam_args)).Do(
        artifacts.as_lists(model=model),
        artifacts.as_lists(examples=output),
        {
            "samples": 10,
            "acceptance": 1.0,
            "sampling": SamplingParams(**(sampling or {})).model_dump_json(),
            "shard_size": 4,
            "batch_size": 3,
            "drawn": str(folder / "drawn"),
            "pushed": "",
            **properties,
        },
    )
    return folder / name


def records(output: Path, split: str = "samples") -> list[dict[str, np.ndarray]]:
    files = sorted(map(str, (output / f"Split-{split}").iterdir()))
    return [
        {name: value.numpy() for name, value in tf.io.parse_single_example(record, FEATURES).items()}
        for record in tf.data.TFRecordDataset(files)
    ]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, model) -> Path:
    return draw(tmp_path_factory.mktemp("drawn"), model, sampling={"seed": 5})


def test_a_record_has_what_the_model_answers_for_its_number(drawn, model):
    numbers = np.arange(10)
    seeds = (5 << 32) + numbers
    inputs = SamplingParams().inputs(numbers % 3, seeds)
    answer = tf.saved_model.load(f"{model.uri}/Format-Serving").signatures["generate"](
        **{name: tf.constant(value) for name, value in inputs.items()}
    )
    found = records(drawn)
    assert [record["image/number"] for record in found] == numbers.tolist()
    assert [record["image/seed"] for record in found] == seeds.tolist()
    assert [record["image/label"] for record in found] == (numbers % 3).tolist()
    assert [record["image/key"] for record in found] == [f"{number:08d}".encode() for number in numbers]
    assert [record["image/encoded"] for record in found] == answer["image_bytes"].numpy().tolist()
    np.testing.assert_array_equal([record["tokens"] for record in found], answer["tokens"])


def test_the_sidecar_says_which_images_these_are(drawn):
    sampled = SampledSet.read(str(drawn))
    assert sampled.splits == {"samples": {"records": 10, "shards": [4, 4, 2]}}
    assert sampled.class_names == stand_ins.CLASSES
    assert (sampled.plan.samples, sampled.plan.params.seed, sampled.shard_size) == (10, 5, 4)
    assert (sampled.image_size, sampled.compiled) == (stand_ins.SIZE, False)


def test_shards_of_the_run_are_removed_when_the_set_is_whole(drawn):
    assert list((drawn.parent / "drawn").iterdir()) == []


def test_the_set_is_the_same_for_any_workers_batches_and_shards(drawn, model, tmp_path):
    workers = ("--direct_num_workers=2", "--direct_running_mode=multi_threading")
    other = draw(tmp_path, model, sampling={"seed": 5}, beam_args=workers, shard_size=3, batch_size=2)
    assert str(records(other)) == str(records(drawn))
    again = draw(tmp_path, model, sampling={"seed": 5}, batch_size=4, name="again")
    assert SampledSet.read(str(again)) == SampledSet.read(str(drawn))
    another = draw(tmp_path, model, sampling={"seed": 6}, name="another")
    assert SampledSet.read(str(another)).fingerprint != SampledSet.read(str(drawn)).fingerprint


def test_rejection_draws_the_candidates_of_every_class(model, tmp_path):
    output = draw(tmp_path, model, samples=4, acceptance=0.5)
    # 2, 1 and 1 samples from 4, 2 and 2 candidates.
    assert [record["image/number"] for record in records(output)] == [0, 1, 2, 3, 4, 5, 6, 9]


class Killed(Exception):
    pass


@pytest.fixture
def calls(monkeypatch):
    """Image numbers that are drawn, a list a call; drawing number 4 fails while `fails` is set."""

    class Counting(shards_module.Drawer):
        fails, made = False, []

        def __call__(self, numbers):
            if Counting.fails and 4 in numbers:
                raise Killed
            Counting.made.append(numbers.tolist())
            return super().__call__(numbers)

    monkeypatch.setattr(shards_module, "Drawer", Counting)
    return Counting


def test_a_killed_run_goes_on_at_the_next_shard(drawn, model, tmp_path, calls, capsys):
    calls.fails = True
    with pytest.raises(RuntimeError, match="Killed"):  # Beam's, of it
        draw(tmp_path, model, sampling={"seed": 5})
    assert not list(tmp_path.glob("examples/**/*tfrecord*"))
    (kept,) = (tmp_path / "drawn").glob("*/data_tfrecord-*")
    assert kept.name == "data_tfrecord-00000-of-00003"

    calls.fails, calls.made = False, []
    output = draw(tmp_path, model, sampling={"seed": 5}, name="second")
    assert sorted(chain.from_iterable(calls.made)) == [4, 5, 6, 7, 8, 9]
    assert "samples: resuming with 2 of 3 shards to draw" in capsys.readouterr().err
    assert SampledSet.read(str(output)) == SampledSet.read(str(drawn))
    assert str(records(output)) == str(records(drawn))


def test_a_damaged_shard_is_drawn_again_and_one_of_another_plan_is_not_taken(drawn, model, tmp_path, calls):
    calls.fails = True
    for seed in (5, 6):
        with pytest.raises(RuntimeError, match="Killed"):  # Beam's, of it
            draw(tmp_path, model, sampling={"seed": seed})
    assert len(calls.made) == 4  # two calls each: nothing of seed 5 was taken for 6
    for kept in (tmp_path / "drawn").glob("*/data_tfrecord-*"):
        kept.write_bytes(kept.read_bytes()[:-5])
    calls.fails, calls.made = False, []
    output = draw(tmp_path, model, sampling={"seed": 5}, name="second")
    assert sorted(chain.from_iterable(calls.made)) == list(range(10))
    assert str(records(output)) == str(records(drawn))


def test_the_last_pushed_model_draws_the_same_set_beside(drawn, tmp_path):
    # The new model draws bright classes as dark ones, the pushed one is that of the fixture `drawn`.
    def darker(request):
        return stand_ins.sample(request._replace(class_id=tf.zeros_like(request.class_id)))

    model = artifacts.write_model(tmp_path / "model", stand_ins.write_generator, sample=darker)
    stand_ins.write_generator(str(tmp_path / "served" / "4"))
    output = draw(tmp_path, model, sampling={"seed": 5}, pushed=str(tmp_path / "served"))
    sampled = SampledSet.read(str(output))
    assert sampled.splits == {split: {"records": 10, "shards": [4, 4, 2]} for split in ("samples", "pushed")}
    assert (sampled.pushed, sampled.pushed_problem) == ("4", "")
    assert str(records(output, "pushed")) == str(records(drawn))
    assert max(record["tokens"].max() for record in records(output)) <= 1


def test_a_pushed_model_of_other_classes_is_named_and_draws_nothing(tmp_path, model):
    stand_ins.write_generator(str(tmp_path / "served" / "4"), class_names=("a", "b"))
    sampled = SampledSet.read(str(draw(tmp_path, model, pushed=str(tmp_path / "served"))))
    assert list(sampled.splits) == ["samples"]
    assert (sampled.pushed, sampled.pushed_problem) == ("4", "whose classes are others")


@pytest.fixture
def nothing_runs(monkeypatch):
    def refuse(self):
        raise AssertionError("a Beam pipeline was made")

    monkeypatch.setattr(Executor, "_make_beam_pipeline", refuse)


@pytest.mark.usefixtures("nothing_runs")
def test_rejection_without_classes_is_refused_before_anything_is_drawn(tmp_path):
    model = artifacts.write_model(tmp_path / "model", stand_ins.write_generator, class_names=())
    with pytest.raises(
        ValueError, match=r"acceptance must be 1\.0 for a model which has no classes, got 0\.5$"
    ):
        draw(tmp_path, model, acceptance=0.5)


@pytest.mark.usefixtures("nothing_runs")
def test_a_model_without_the_guidance_schedule_is_refused_before_anything_is_drawn(tmp_path):
    def write_constant_only(directory):
        write_two_schedules(directory, stand_ins.CLASSES)
        loaded = tf.saved_model.load(directory)
        signatures = {name: loaded.signatures[name] for name in ("generate", "metadata")}
        tf.saved_model.save(loaded, directory, signatures=signatures)

    model = artifacts.write_model(tmp_path / "model", write_constant_only)
    with pytest.raises(
        ValueError,
        match=r"guidance_schedule must be constant .* no signature generate_linear, got linear",
    ):
        draw(tmp_path, model, sampling={"guidance_schedule": "linear"})


@pytest.mark.parametrize(("schedule", "level"), [("constant", 0), ("linear", 200)])
def test_the_guidance_schedule_selects_the_signature(tmp_path, schedule, level):
    model = artifacts.write_model(
        tmp_path / "model", lambda directory: write_two_schedules(directory, stand_ins.CLASSES)
    )
    output = draw(tmp_path, model, sampling={"guidance_scale": 200.0, "guidance_schedule": schedule})
    images = [tf.io.decode_png(record["image/encoded"]).numpy() for record in records(output)]
    assert np.min(images) == np.max(images) == level
    assert json.loads((output / "dataset.json").read_text())["sampling"]["guidance_schedule"] == schedule
