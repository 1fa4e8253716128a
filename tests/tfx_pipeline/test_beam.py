"""Flags of the steps that run with Beam, and that images and tokens do not depend on where they run."""

import json
import sys

import pydantic
import pytest

from tests import portable_beam, whole_run
from tfx_pipeline import config, lineage
from tfx_pipeline.beam import IN_PROCESS, RUNNER, Beam
from tfx_pipeline.config import ConfigError
from tfx_pipeline.pipeline import create_pipeline
from tfx_pipeline.versions import Versions

STEPS = (
    "ImageExampleGen",
    "StatisticsGen",
    "TokenTransform",
    "ReconstructionEvaluator",
    "ReferenceStatistics",
    "ImageSampler",
    "GenerationEvaluator",
)


def graph(folder, *overrides, given=()):
    return create_pipeline(
        config.load("digits", overrides, small=True),
        run_dir=str(folder),
        versions=Versions("1"),
        beam_pipeline_args=given,
        metadata_connection_config=lineage.connection(folder / "metadata.db"),
    )


def flags_of(pipeline):
    found = {one.id: getattr(one.executor_spec, "beam_pipeline_args", None) for one in pipeline.components}
    return {name: flags for name, flags in found.items() if flags is not None}


def test_every_step_runs_in_process_by_default(tmp_path):
    assert flags_of(graph(tmp_path)) == {name: [RUNNER, IN_PROCESS] for name in STEPS}


def test_a_steps_own_flags_come_after_those_of_every_step_and_given_ones_last(tmp_path):
    found = flags_of(
        graph(
            tmp_path,
            "beam={every: [--direct_num_workers=2], steps: {TokenTransform: [--runner=FlinkRunner]}}",
            given=("--direct_num_workers=3",),
        )
    )
    assert found["ImageExampleGen"] == [
        RUNNER,
        IN_PROCESS,
        "--direct_num_workers=2",
        "--direct_num_workers=3",
    ]
    # Another runner's workers are not this process.
    assert found["TokenTransform"] == [
        "--direct_num_workers=2",
        "--runner=FlinkRunner",
        "--direct_num_workers=3",
    ]


def test_a_step_that_is_none_of_beams_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(
        ConfigError, match=r"beam\.steps must be of .*, got TokenTransfrom; did you mean TokenTransform"
    ):
        graph(tmp_path, "beam.steps={TokenTransfrom: [--runner=FlinkRunner]}")
    with pytest.raises(ConfigError, match=r"beam\.steps must be of .*, got Trainer-vim"):
        graph(tmp_path, "beam.steps={Trainer-vim: [--runner=FlinkRunner]}")


def test_what_is_no_flag_is_refused():
    with pytest.raises(pydantic.ValidationError):
        Beam(every=["runner=FlinkRunner"])


def made(folder):
    """The files of images and tokens of a run, and its scores."""
    files = {}
    for component in ("ImageExampleGen", "TokenTransform", "ImageSampler"):
        (examples,) = (folder / "pipeline_root" / component / "examples").iterdir()
        files |= {
            (component, path.relative_to(examples).as_posix()): path.read_bytes()
            for path in examples.rglob("*")
            if path.is_file()
        }
    metrics = json.loads((folder / "metrics.json").read_text())
    # Statistics of three shards merge in the order in which workers end: the last bits of a sum differ.
    scores = {
        name: {
            key: float(f"{value:.9g}") if isinstance(value, float) else value
            for key, value in metrics[name].items()
            if "seconds" not in key
        }
        for name in ("reconstruction", "generation")
    }
    samples = (folder / "samples.png").read_bytes()
    return files, scores, samples


@pytest.mark.slow
@pytest.mark.skipif(" " in sys.executable, reason="Beam's multi_processing needs a path without spaces")
def test_images_tokens_samples_and_scores_are_the_same_wherever_they_are_made(tmp_path, tmp_path_factory):
    """The portable runner with workers of its own, and the in-process runner with two worker processes."""
    here = made(whole_run.shared(tmp_path_factory))
    processes = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    with portable_beam.serve(tmp_path) as portable:
        steps = {
            "ImageExampleGen": processes,
            "TokenTransform": portable,
            "ReferenceStatistics": processes,
            "ImageSampler": portable,
            "GenerationEvaluator": portable,
        }
        whole_run.run(tmp_path / "there", "--set", f"beam.steps={json.dumps(steps)}")
    there = made(tmp_path / "there")
    for one, other in zip(here, there, strict=True):
        assert one == other
