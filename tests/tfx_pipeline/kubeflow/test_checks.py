"""What Kubeflow would refuse is one line before anything is compiled."""

import pytest

from tfx_pipeline.config import ConfigError
from tfx_pipeline.kubeflow import checks

IMAGE = "registry.example:5000/team/tfx-vim:1"
DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize("image", [IMAGE, "tfx-vim:1.0_rc-2", f"a/b__c@{DIGEST}", "localhost/a.b:x"])
def test_images_with_a_tag_or_a_digest_are_accepted(image):
    checks.check_arguments(image, "p.yaml", run=None, pipeline_root="gs://bucket/a")


@pytest.mark.parametrize(
    ("image", "output", "run", "root", "message"),
    [
        ("REPOSITORY:TAG", "p.yaml", None, None, "image must be repository:tag"),
        ("tfx-vim", "p.yaml", None, None, "image must be repository:tag"),
        ("a b:1", "p.yaml", None, None, "image must be repository:tag"),
        (IMAGE, "p.json", None, None, "output must be a file ending in .yaml or .yml, got 'p.json'"),
        (IMAGE, "p.yml", "gs://BUCKET/x", None, "run must be gs://BUCKET/FOLDER"),
        (IMAGE, "p.yml", None, "/mnt/runs", "pipeline-root must be gs://BUCKET, minio://BUCKET, s3://BUCKET"),
    ],
)
def test_what_kubeflow_does_not_take_is_one_line(image, output, run, root, message):
    with pytest.raises(ConfigError) as error:
        checks.check_arguments(image, output, run=run, pipeline_root=root)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_beam_may_use_the_pods_processes_and_no_other_machine():
    checks.check_beam(["--runner=FnApiRunner", "--direct_running_mode=multi_processing"])
    for flag in ("--runner=DataflowRunner", "--run=DataflowRunner", "--runner"):
        with pytest.raises(ConfigError, match=r"beam must be one of FnApiRunner, DirectRunner .*, got"):
            checks.check_beam([flag])


@pytest.mark.parametrize(
    ("pipeline", "tasks", "message"),
    [
        ("small_graph", ["Writer"], "name must be 1 to 128 of a-z, 0-9 and -"),
        (
            "small-graph",
            ["Trainer.vim"],
            "a component's id must be of letters, digits and -, got 'Trainer.vim'",
        ),
    ],
)
def test_names_that_kubernetes_or_argo_refuse_are_one_line(pipeline, tasks, message):
    with pytest.raises(ConfigError) as error:
        checks.check_names(pipeline, tasks)
    assert str(error.value).startswith(message)
