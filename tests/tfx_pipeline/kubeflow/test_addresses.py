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
    assert addresses.local_path(address) == path


@pytest.mark.parametrize(
    "folder", ["gs://bucket/a-b/c.d", "minio://mlpipeline/x", "s3://my.bucket/y", "/mnt/volume/run=1"]
)
def test_folders_of_runs_are_addresses_or_absolute_paths(folder):
    assert addresses.folder_problem(folder) == ""


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
    problem = addresses.folder_problem(folder)
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


@pytest.mark.parametrize(
    "root", ["gs://bucket", "minio://mlpipeline/v2/a/", "s3://b-b/x?region=eu-west-1&endpoint=host:9000"]
)
def test_roots_of_artifacts_are_in_object_stores_and_may_name_their_server(root):
    assert addresses.root_problem(root) == ""


@pytest.mark.parametrize("root", ["gs://BUCKET", "/mnt/runs", "hdfs://bucket/a", ""])
def test_roots_that_the_launcher_does_not_know_are_refused(root):
    assert addresses.root_problem(root).startswith("must be gs://BUCKET, minio://BUCKET, s3://BUCKET")


def test_a_folder_holds_itself_and_what_is_below_it_but_not_its_siblings():
    below = ["s3://b/run", "s3://b/run/a"]
    assert addresses.inside("s3://b/run", [*below, "s3://b/run-2/a", "s3://b"]) == below
