"""Addresses of object stores: which are accepted, and where they lie on a pod's disk."""

import pytest

from tfx_pipeline.kubeflow import addresses


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("gs://bucket/a/b", "/gcs/bucket/a/b"),
        ("minio://mlpipeline/v2/a", "/minio/mlpipeline/v2/a"),
        ("s3://bucket/a", "/s3/bucket/a"),
        ("/mnt/runs/a", "/mnt/runs/a"),
    ],
)
def test_an_address_lies_where_the_launcher_mirrors_it(address, path):
    assert addresses.on_disk(address) == path


@pytest.mark.parametrize(
    "folder", ["gs://bucket/a-b/c.d", "minio://mlpipeline/x", "s3://my.bucket", "/mnt/volume/run=1"]
)
def test_folders_of_runs_are_addresses_or_absolute_paths(folder):
    assert addresses.problem(folder) == ""


@pytest.mark.parametrize(
    "folder",
    [
        "gs://BUCKET/tfx-vim",
        "hdfs://bucket/a",
        "runs/digits",
        "gs://",
        "s3://a",
        "gs://b u/c",
        '/mnt/"/x',
        "",
    ],
)
def test_placeholders_and_what_no_pod_could_reach_are_refused(folder):
    problem = addresses.problem(folder)
    assert problem.startswith("must be gs://BUCKET/FOLDER, minio://BUCKET/FOLDER, s3://BUCKET/FOLDER")
    assert problem.endswith(f"got {folder!r}")


@pytest.mark.parametrize("random", ["", "/8d7b4b3c"])
def test_a_run_without_a_folder_has_one_beside_its_artifacts(random):
    output = f"minio://mlpipeline/v2/artifacts/tfx-vim-digits/run-1/Pusher-vim{random}/pushed_model"
    assert addresses.beside_artifacts(output, "Pusher-vim") == (
        "minio://mlpipeline/v2/artifacts/tfx-vim-digits/run-1/run"
    )


def test_an_output_outside_of_its_tasks_folder_is_an_error():
    with pytest.raises(
        ValueError, match=r"an output of Pusher-vim must be in a folder of that name, got s3://b/x"
    ):
        addresses.beside_artifacts("s3://b/x", "Pusher-vim")
