"""Parameters of a compiled pipeline: where they are used, and what is put in their places."""

import json

import pytest

from tfx_pipeline import config
from tfx_pipeline.kubeflow import parameters
from tfx_pipeline.kubeflow.parameters import (
    DATASET_VERSION,
    RUN_FOLDER,
    SEED,
    SERVING_FOLDER,
    STAND_INS,
    fill,
    used_in,
)


def test_each_parameter_is_found_and_filled_alone_and_inside_json():
    properties = {
        "dataset_version": STAND_INS[DATASET_VERSION],
        "seed": STAND_INS[SEED],
        "job": json.dumps(
            {"seed": STAND_INS[SEED], "checkpoints": f"{STAND_INS[RUN_FOLDER]}/checkpoints/vim"}
        ),
        "steps": 100,
    }
    assert sorted(used_in(properties)) == [DATASET_VERSION, RUN_FOLDER, SEED]
    filled = fill(properties, {DATASET_VERSION: 'any "text"', RUN_FOLDER: "/s3/b/run", SEED: 7})
    assert filled["dataset_version"] == 'any "text"'
    assert filled["seed"] == 7
    assert json.loads(filled["job"]) == {"seed": 7, "checkpoints": "/s3/b/run/checkpoints/vim"}
    assert filled["steps"] == 100
    assert used_in(filled) == []


def test_a_missing_parameter_is_an_error_and_no_path_called_after_its_stand_in():
    with pytest.raises(ValueError, match="parameters must hold seed, got run_folder"):
        fill({"seed": STAND_INS[SEED]}, {RUN_FOLDER: "/run"})


def test_a_folder_for_a_server_is_in_the_runs_unless_it_is_given_so_a_task_needs_both():
    assert used_in({"to": f"{STAND_INS[SERVING_FOLDER]}/vim"}) == [RUN_FOLDER, SERVING_FOLDER]


def test_every_parameter_has_a_stand_in_and_a_type():
    assert set(STAND_INS) == set(parameters.TYPES)


def test_a_seed_reaches_the_samples_unless_they_have_their_own():
    run = config.load("digits", ["seed=3"]).with_seed(8)
    assert (run.seed, run.evaluation.generation.sampling.seed) == (8, 8)
    assert config.load("digits", ["seed=3"]).with_seed(8).label("seed") == "seed=8"
    own = config.load("digits", ["seed=3", "evaluation.generation.sampling.seed=5"]).with_seed(8)
    assert (own.seed, own.evaluation.generation.sampling.seed) == (8, 5)
