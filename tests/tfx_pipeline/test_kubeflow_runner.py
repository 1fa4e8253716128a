"""Compile graphs for Kubeflow Pipelines and check the file."""

import kfp.components
import pytest
import yaml

from tests.tfx_pipeline.small_graph import small_graph
from tfx_pipeline import config
from tfx_pipeline.config import ConfigError
from tfx_pipeline.kubeflow_runner import compile_pipeline
from tfx_pipeline.pipeline import create_pipeline

IMAGE = "registry.example/tfx-vim:1"


def whole_graph(folder, *overrides):
    return create_pipeline(
        config.load("digits", overrides),
        run_dir=str(folder),
        dataset_version="1",
        beam_pipeline_args=["--runner=FnApiRunner"],
    )


def imported_graph(folder):
    return whole_graph(folder, "stage1={savedmodel: theirs}")


# The graphs that must compile, as functions of the folder to run in.
GRAPHS = [small_graph, whole_graph, imported_graph]


@pytest.mark.parametrize("graph", GRAPHS)
def test_kfp_loads_the_file_with_every_component(tmp_path, graph):
    pipeline = graph(tmp_path)
    compile_pipeline(pipeline, IMAGE, str(tmp_path / "pipeline.yaml"))
    loaded = kfp.components.load_component_from_file(str(tmp_path / "pipeline.yaml"))
    ids = {component.id for component in pipeline.components}
    assert loaded.name == pipeline.pipeline_info.pipeline_name
    assert loaded.pipeline_spec.schema_version == "2.1.0"
    assert set(loaded.pipeline_spec.components) == set(loaded.pipeline_spec.root.dag.tasks) == ids


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_executor_runs_the_given_image_with_our_entry_point(tmp_path, graph):
    compile_pipeline(graph(tmp_path), IMAGE, str(tmp_path / "pipeline.yaml"))
    spec = yaml.safe_load((tmp_path / "pipeline.yaml").read_text())
    executors = spec["deploymentSpec"]["executors"]
    assert len(executors) == len(spec["components"])
    for executor in executors.values():
        container = executor["container"]
        assert container["image"] == IMAGE
        assert container["command"] == ["python", "-m", "tfx_pipeline.kubeflow_entrypoint"]
        assert container["args"][0] == "--executor_class_path"
        assert container["args"][2:5] == [
            "--json_serialized_invocation_args",
            "{{$}}",
            "--json_serialized_inputs_spec_args",
        ]
        assert "--runner=FnApiRunner" in container["args"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The compiled small graph, in a folder that did not exist before."""
    root = tmp_path_factory.mktemp("compiled")
    output = root / "new folder" / "pipeline.yaml"
    compile_pipeline(small_graph(root), IMAGE, str(output), "gs://bucket/runs")
    return output


def test_tasks_depend_on_each_other_as_in_the_graph(compiled):
    tasks = yaml.safe_load(compiled.read_text())["root"]["dag"]["tasks"]
    assert tasks["ModelValidator"]["dependentTasks"] == ["Writer"]
    assert tasks["Pusher"]["dependentTasks"] == ["ModelValidator", "Writer"]
    assert tasks["Pusher"]["inputs"]["artifacts"]["infra_blessing"]["taskOutputArtifact"] == {
        "producerTask": "ModelValidator",
        "outputArtifactKey": "blessing",
    }


def test_pipeline_root_is_written_only_if_given(compiled, tmp_path):
    assert yaml.safe_load(compiled.read_text())["defaultPipelineRoot"] == "gs://bucket/runs"
    compile_pipeline(small_graph(tmp_path), IMAGE, str(tmp_path / "bare.yml"))
    assert "defaultPipelineRoot" not in yaml.safe_load((tmp_path / "bare.yml").read_text())


def test_compile_leaves_no_temporary_files(compiled):
    assert [path.name for path in compiled.parent.iterdir()] == ["pipeline.yaml"]


def test_failed_compile_keeps_the_previous_file(tmp_path, monkeypatch):
    output = tmp_path / "pipeline.yaml"
    output.write_text("old")
    monkeypatch.setattr(yaml, "safe_dump", lambda specification: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compile_pipeline(small_graph(tmp_path), IMAGE, str(output))
    assert output.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline.yaml"]


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        (
            "small_graph",
            "pipeline.yaml",
            "name must be 1 to 128 of a-z, 0-9 and -",
        ),
        ("small-graph", "pipeline.json", "output must be a file ending in .yaml or .yml"),
    ],
)
def test_invalid_name_or_suffix_is_one_line_error(tmp_path, name, file, message):
    with pytest.raises(ConfigError) as error:
        compile_pipeline(small_graph(tmp_path, name), IMAGE, str(tmp_path / file))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / file).exists()
