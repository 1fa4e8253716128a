"""Compile graphs for Kubeflow Pipelines and check the file."""

import re
from pathlib import Path

import kfp.components
import pytest
import yaml

from tests.tfx_pipeline.small_graph import small_graph
from tfx_pipeline import config
from tfx_pipeline.config import ConfigError
from tfx_pipeline.kubeflow import compiler
from tfx_pipeline.kubeflow.parameters import DATASET_VERSION, RUN_FOLDER, SEED, SERVING_FOLDER, STAND_INS
from tfx_pipeline.kubeflow.task import Task
from tfx_pipeline.pipeline import create_pipeline
from tfx_pipeline.versions import Versions

IMAGE = "registry.example/tfx-vim:1"
DEFAULTS = {RUN_FOLDER: "", SERVING_FOLDER: "", DATASET_VERSION: "7", SEED: 3}
GOLDEN = Path(__file__).with_name("small_graph.yaml")


def compile_pipeline(pipeline, output, **options):
    compiler.compile_pipeline(pipeline, IMAGE, str(output), **{"defaults": DEFAULTS, **options})


def whole_graph(*overrides, preset="digits"):
    return create_pipeline(
        config.load(preset, overrides).with_seed(STAND_INS[SEED]),
        run_dir=STAND_INS[RUN_FOLDER],
        serving_dir=STAND_INS[SERVING_FOLDER],
        versions=Versions(STAND_INS[DATASET_VERSION]),
    )


def three_tasks():
    return small_graph(STAND_INS[SERVING_FOLDER])


def imported_graph():
    return whole_graph("stage1={savedmodel: theirs}")


def pretrained_graph():
    return whole_graph("classifier={network: ResNet101}")


# The graphs that must compile.
GRAPHS = [three_tasks, whole_graph, imported_graph, pretrained_graph]


def described(executor):
    """The task that a container is told."""
    arguments = executor["container"]["args"]
    assert arguments[0] == "--task"
    return Task.from_json(arguments[1])


@pytest.mark.parametrize("graph", GRAPHS)
def test_kfp_loads_the_file_with_every_component(tmp_path, graph):
    pipeline = graph()
    compile_pipeline(pipeline, tmp_path / "pipeline.yaml")
    loaded = kfp.components.load_component_from_file(str(tmp_path / "pipeline.yaml"))
    ids = {component.id for component in pipeline.components}
    assert loaded.name == pipeline.pipeline_info.pipeline_name
    assert loaded.pipeline_spec.schema_version == "2.1.0"
    assert set(loaded.pipeline_spec.root.dag.tasks) == ids
    assert set(loaded.pipeline_spec.components) == {f"comp-{name}" for name in ids}


@pytest.mark.parametrize("preset", config.presets())
def test_every_preset_compiles_with_names_that_argo_accepts(tmp_path, preset):
    compile_pipeline(whole_graph(preset=preset), tmp_path / "pipeline.yaml")
    specification = yaml.safe_load((tmp_path / "pipeline.yaml").read_text())
    kfp.components.load_component_from_file(str(tmp_path / "pipeline.yaml"))
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,127}", specification["pipelineInfo"]["name"])
    for name in specification["root"]["dag"]["tasks"]:
        assert re.fullmatch(r"[a-zA-Z0-9][-a-zA-Z0-9]*", name)


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_executor_runs_the_given_image_with_our_entry_point(tmp_path, graph):
    compile_pipeline(graph(), tmp_path / "pipeline.yaml")
    spec = yaml.safe_load((tmp_path / "pipeline.yaml").read_text())
    executors = spec["deploymentSpec"]["executors"]
    assert len(executors) == len(spec["components"])
    for name, executor in executors.items():
        container = executor["container"]
        assert container["image"] == IMAGE
        assert container["command"] == ["python", "-m", "tfx_pipeline.kubeflow.entrypoint"]
        assert container["args"][2:4] == ["--executor-input", "{{$}}"]
        assert f"exec-{described(executor).name}" == name


def test_the_compiled_file_is_the_golden_one(tmp_path):
    """Read what changed before you write it anew: `cp` the file that the assertion names."""
    compile_pipeline(three_tasks(), tmp_path / "pipeline.yaml", pipeline_root="gs://bucket/runs")
    text = (tmp_path / "pipeline.yaml").read_text()
    specification = yaml.safe_load(text)
    for executor in specification["deploymentSpec"]["executors"].values():
        text = text.replace(described(executor).code, "CODE")
    text = text.replace(specification["sdkVersion"], "SDK")
    (tmp_path / "golden.yaml").write_text(text)
    assert text == GOLDEN.read_text(), tmp_path / "golden.yaml"


def test_parameters_are_inputs_of_the_tasks_that_depend_on_them(tmp_path):
    compile_pipeline(whole_graph(), tmp_path / "pipeline.yaml")
    spec = yaml.safe_load((tmp_path / "pipeline.yaml").read_text())
    declared = spec["root"]["inputDefinitions"]["parameters"]
    assert {key: one["defaultValue"] for key, one in declared.items()} == DEFAULTS
    used = {
        name: sorted(
            source["componentInputParameter"]
            for source in task["inputs"]["parameters"].values()
            if "componentInputParameter" in source
        )
        for name, task in spec["root"]["dag"]["tasks"].items()
    }
    assert used["ImageExampleGen"] == [DATASET_VERSION]
    assert used["TokenTransform"] == [SEED]
    assert used["ImageSampler"] == used["Trainer-vim"] == used["RunReport"] == [RUN_FOLDER, SEED]
    assert used["Pusher-vim"] == [RUN_FOLDER, SERVING_FOLDER]
    assert used["StatisticsGen"] == used["ReconstructionEvaluator"] == used["GenerationEvaluator"] == []
    folders = {
        name.removeprefix("exec-"): described(executor).folders
        for name, executor in spec["deploymentSpec"]["executors"].items()
    }
    assert folders["Trainer-vim"] == ("checkpoints/vim", "logs/vim")
    assert folders["ImageSampler"] == ("checkpoints/samples",)
    assert folders["Pusher-tokenizer"] == ("vit_vqgan",)
    assert folders["RunReport"] == folders["TokenTransform"] == ()


def test_what_compares_with_or_begins_from_the_pushed_model_reads_it_and_stays_in_the_cache(tmp_path):
    compile_pipeline(
        whole_graph(
            "stage2.train.warm_start=pushed",
            "evaluation.reconstruction.thresholds={psnr: {worse_by: 0.1}}",
            "evaluation.generation.thresholds={fid: {worse_by: 0.1}}",
        ),
        tmp_path / "pipeline.yaml",
    )
    spec = yaml.safe_load((tmp_path / "pipeline.yaml").read_text())
    tasks = {
        name.removeprefix("exec-"): described(executor)
        for name, executor in spec["deploymentSpec"]["executors"].items()
    }
    reading = {name: task.reads for name, task in tasks.items() if task.reads}
    assert reading == {
        "ReconstructionEvaluator": ("vit_vqgan",),
        "ImageSampler": ("vim",),
        "Trainer-vim": ("vim",),
    }
    assert tasks["ImageSampler"].folders == ("checkpoints/samples",)
    assert tasks["Trainer-vim"].folders == ("checkpoints/vim", "logs/vim")
    for name in reading:
        assert spec["root"]["dag"]["tasks"][name]["cachingOptions"]["enableCache"], name


def test_what_is_written_to_the_runs_folder_is_not_taken_from_the_cache(tmp_path):
    compile_pipeline(whole_graph(), tmp_path / "pipeline.yaml")
    tasks = yaml.safe_load((tmp_path / "pipeline.yaml").read_text())["root"]["dag"]["tasks"]
    anew = {name for name, task in tasks.items() if not task["cachingOptions"].get("enableCache")}
    assert anew == {"Pusher-tokenizer", "Pusher-classifier", "Pusher-vim", "RunReport"}


def test_the_code_of_a_task_is_in_its_command_line_and_so_in_the_caches_key(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler.code, "run_by", lambda component: Code(f"code of {component.id}"))
    compile_pipeline(three_tasks(), tmp_path / "pipeline.yaml")
    executors = yaml.safe_load((tmp_path / "pipeline.yaml").read_text())["deploymentSpec"]["executors"]
    assert described(executors["exec-Pusher"]).code == "code of Pusher"


class Code:
    def __init__(self, fingerprint):
        self.fingerprint = fingerprint


def test_scores_and_report_are_outputs_that_the_ui_draws(tmp_path):
    compile_pipeline(whole_graph(), tmp_path / "pipeline.yaml")
    components = yaml.safe_load((tmp_path / "pipeline.yaml").read_text())["components"]
    titles = {
        (name.removeprefix("comp-"), key): output["artifactType"]["schemaTitle"]
        for name, component in components.items()
        for key, output in component["outputDefinitions"]["artifacts"].items()
    }
    for evaluator in ("ReconstructionEvaluator", "GenerationEvaluator", "LinearProbeEvaluator"):
        assert titles[evaluator, "metrics"] == "system.Metrics"
    assert titles["RunReport", "page"] == "system.HTML"
    assert titles["Trainer-vim", "model"] == "system.Model"
    assert titles["TokenTransform", "examples"] == "system.Dataset"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The compiled small graph, in a folder that did not exist before."""
    root = tmp_path_factory.mktemp("compiled")
    output = root / "new folder" / "pipeline.yaml"
    compile_pipeline(three_tasks(), output, pipeline_root="gs://bucket/runs")
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
    compile_pipeline(three_tasks(), tmp_path / "bare.yml")
    assert "defaultPipelineRoot" not in yaml.safe_load((tmp_path / "bare.yml").read_text())


def test_compile_leaves_no_temporary_files(compiled):
    assert [path.name for path in compiled.parent.iterdir()] == ["pipeline.yaml"]


def test_failed_compile_keeps_the_previous_file(tmp_path, monkeypatch):
    output = tmp_path / "pipeline.yaml"
    output.write_text("old")
    monkeypatch.setattr(yaml, "safe_dump_all", lambda documents: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compile_pipeline(three_tasks(), output)
    assert output.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline.yaml"]


@pytest.mark.parametrize(
    ("name", "image", "file", "message"),
    [
        ("small_graph", IMAGE, "pipeline.yaml", "name must be 1 to 128 of a-z, 0-9 and -"),
        ("small-graph", IMAGE, "pipeline.json", "output must be a file ending in .yaml or .yml"),
        ("small-graph", "REPOSITORY:TAG", "pipeline.yaml", "image must be repository:tag"),
    ],
)
def test_what_kubeflow_would_refuse_is_not_written(tmp_path, name, image, file, message):
    with pytest.raises(ConfigError) as error:
        compiler.compile_pipeline(small_graph("/run", name), image, str(tmp_path / file), defaults=DEFAULTS)
    assert message in str(error.value)
    assert not (tmp_path / file).exists()
