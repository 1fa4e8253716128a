"""Run the whole graph once with the preset's small models, and check the result."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import sys
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from tfx.orchestration.portable import cache_utils

from components.evaluators.generation import executor as generation
from components.evaluators.network_names import ProtocolError
from components.image_example_gen.sources import SourceError
from components.image_sampler import executor as image_sampler
from components.reference_statistics import executor as reference_statistics
from components.tokenizer_importer.saved_tokenizer import TokenizerError
from serving.export import versions as serving_versions
from serving.export.atomic import atomic_folder
from serving.server.server import background_server
from tests import stand_ins
from tests.components.evaluators.test_protocols import saved_model
from tests.components.image_example_gen import pictures
from tfx_pipeline import code, config, lineage, local_runner, run_lock
from tfx_pipeline.cli import cli
from tfx_pipeline.lineage import LineageError
from tfx_pipeline.run_lock import RunningError
from trainers.training.preemption import Preempted

pytestmark = pytest.mark.slow

RUNNING = metadata_store_pb2.Execution.RUNNING
COMPONENTS = {
    "ImageExampleGen", "StatisticsGen", "SchemaGen", "ExampleValidator",
    "Trainer-tokenizer", "Trainer-classifier", "Trainer-vim", "TokenTransform",
    "ReconstructionEvaluator", "ReferenceStatistics", "ImageSampler", "GenerationEvaluator",
    "LinearProbeEvaluator",
    "ModelValidator-tokenizer", "ModelValidator-classifier", "ModelValidator-vim",
    "Pusher-tokenizer", "Pusher-classifier", "Pusher-vim", "RunReport",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> local_runner.Run:
    # As paths of people are, but for what TFX reads as a pattern.
    name = 'it\'s a "run", 50% é猫 #1 & x:y'
    return local_runner.run(config.load("digits", small=True), str(tmp_path_factory.mktemp("runs") / name))


@pytest.fixture(scope="module")
def store(finished) -> metadata_store.MetadataStore:
    connection = metadata_store_pb2.ConnectionConfig()
    connection.sqlite.filename_uri = str(finished.directory / "metadata.db")
    return metadata_store.MetadataStore(connection)


def states(metrics) -> dict[str, str]:
    return {component["name"]: component["state"] for component in metrics["components"]}


@pytest.mark.optimized
def test_every_component_runs_once_and_completes(finished, store):
    assert states(finished.metrics) == dict.fromkeys(COMPONENTS, "ran")
    executions = store.get_executions()
    assert len(executions) == len(COMPONENTS)
    assert {execution.last_known_state for execution in executions} == {metadata_store_pb2.Execution.COMPLETE}


def test_a_served_model_can_be_traced_to_its_images(store):
    produced_by = {
        e.artifact_id: e.execution_id for e in store_events(store, metadata_store_pb2.Event.OUTPUT)
    }
    consumed: dict[int, list[int]] = {}
    for event in store_events(store, metadata_store_pb2.Event.INPUT):
        consumed.setdefault(event.execution_id, []).append(event.artifact_id)
    names = {execution.id: execution.type.rpartition(".")[2] for execution in store.get_executions()}

    seen, queue = set(), [artifact.id for artifact in store.get_artifacts_by_type("PushedModel")]
    while queue:
        execution = produced_by[queue.pop()]
        seen.add(names[execution])
        queue += consumed.get(execution, [])
    assert {
        "ImageExampleGen",
        "Trainer",
        "TokenTransform",
        "ImageSampler",
        "GenerationEvaluator",
        "ModelValidator",
    } <= seen


def store_events(store, kind) -> list[metadata_store_pb2.Event]:
    ids = [artifact.id for artifact in store.get_artifacts()]
    return [event for event in store.get_events_by_artifact_ids(ids) if event.type == kind]


def test_run_writes_report_samples_logs_and_metrics(finished):
    for name in (
        "report/index.html",
        "samples.png",
        "reconstructions.png",
        "logs/tokenizer",
        "checkpoints/vim",
    ):
        assert (finished.directory / name).exists(), name
    metrics = json.loads((finished.directory / "metrics.json").read_text())
    for name in ("psnr", "l1", "l2", "logit_laplace", "codebook_usage", "codebook_perplexity", "fid"):
        assert np.isfinite(metrics["reconstruction"][name]), name
    assert {"fid", "is", "class_accuracy"} <= metrics["generation"].keys()
    assert len(metrics["linear_probe"]["by_block"]) == 2


def test_the_scored_samples_of_a_run_are_exported(finished, tmp_path):
    output = tmp_path / "samples.npz"
    result = CliRunner().invoke(
        cli, ["export-samples", "--run", str(finished.directory), "--output", str(output)]
    )
    assert result.exit_code == 0, result.output
    with np.load(output) as archive, np.load(finished.directory / "report" / "samples.npz") as shown:
        assert archive["arr_0"].shape == (20, 32, 32, 3)
        first = archive["arr_0"][archive["arr_1"] == 0]
        np.testing.assert_array_equal(first, shown["images"][shown["classes"] == 0])


@pytest.mark.optimized
def test_variants_of_sampling_are_scored_as_the_run_was(finished, tmp_path, monkeypatch):
    output = tmp_path / "sweep.json"

    def sweep(*options):
        command = ["evaluate", "--run", str(finished.directory), "--output", str(output), *options]
        return CliRunner().invoke(cli, command)

    done = sweep("--sweep", "temperature=1,0", "--sweep", "acceptance=1")
    assert done.exit_code == 0, done.output
    own, greedy = json.loads(output.read_text())
    measured = finished.metrics["generation"]
    # Without graph optimization, as everywhere here but in the run itself, last bits may differ.
    assert own["metrics"] == pytest.approx({name: measured[name] for name in own["metrics"]}, rel=1e-3)
    assert own["protocol"] == measured["protocol"]
    assert (own["temperature"], greedy["temperature"], greedy["acceptance"]) == (1.0, 0.0, 1.0)
    assert greedy["metrics"]["fid"] != own["metrics"]["fid"]
    assert greedy["protocol"]["sampling"]["temperature"] == 0.0
    *lines, report = done.output.splitlines()[-4:]
    assert lines[0].split()[:3] == ["temperature", "acceptance", "fid"]
    assert [line.split()[0] for line in lines[1:]] == ["1.0", "0.0"]
    page = finished.directory / "report" / "index.html"
    assert report == f"report: {page}"
    assert "temperature 0.0, acceptance 1.0; 20 samples, classifier" in page.read_text()

    monkeypatch.setattr(image_sampler.Executor, "Do", lambda *_: pytest.fail("it was drawn again"))
    again = sweep("--sweep", "temperature=0,1.0")
    assert again.exit_code == 0, again.output
    assert [one["metrics"] for one in json.loads(output.read_text())] == [greedy["metrics"], own["metrics"]]
    kept = list((finished.directory / "sweep").glob("*/*"))
    assert [path.name for path in kept] == ["evaluation.json"] * 2


def test_variants_in_other_features_compute_the_real_images_once(finished, tmp_path, monkeypatch):
    network = f"savedmodel:{saved_model(tmp_path / 'network')}#mean"
    times = []
    compute = reference_statistics.Executor.Do
    monkeypatch.setattr(
        reference_statistics.Executor, "Do", lambda *given: times.append(1) or compute(*given)
    )
    output = tmp_path / "sweep.json"
    command = ["evaluate", "--run", str(finished.directory), "--features", network, "--count", "10"]
    done = CliRunner().invoke(cli, [*command, "--sweep", "seed=7,8", "--output", str(output)])
    assert done.exit_code == 0, done.output
    rows = json.loads(output.read_text())
    assert [row["protocol"]["features"] for row in rows] == ["savedmodel#mean"] * 2
    assert [row["protocol"]["dimensions"] for row in rows] == [3, 3]
    assert len(times) == 1
    # The same path with other weights: another network.
    saved_model(tmp_path / "network", scale=0.5)
    assert CliRunner().invoke(cli, [*command, "--sweep", "seed=7"]).exit_code == 0
    assert len(times) == 2


@pytest.mark.optimized
def test_a_runs_reference_serves_other_comparisons_in_the_same_features_alone(finished, tmp_path):
    (reference,) = (finished.directory / "pipeline_root/ReferenceStatistics/reference").glob("*/train.npz")
    (classifier, *_) = versions(finished, "classifier")
    pictures = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "samples.npz", pictures)
    command = ["evaluate", str(tmp_path / "samples.npz"), str(reference)]
    output = tmp_path / "scores.json"
    done = CliRunner().invoke(
        cli, [*command, "--features", f"classifier:{classifier}", "--output", str(output)]
    )
    assert done.exit_code == 0, done.output
    known = json.loads(output.read_text())["reference"]
    assert known["path"] == "train split"
    assert known["count"] == finished.metrics["generation"]["counts"]["train_images"]
    other = f"savedmodel:{saved_model(tmp_path / 'network')}#mean"
    refused = CliRunner().invoke(cli, [*command, "--features", other])
    assert refused.exit_code == 1
    assert "must have moments in savedmodel#mean" in refused.output


def test_a_sweep_that_was_killed_while_scoring_does_not_draw_again(finished, tmp_path, monkeypatch):
    command = ["evaluate", "--run", str(finished.directory), "--sweep", "seed=5", "--count", "10"]
    with monkeypatch.context() as patched:
        patched.setattr(generation.Executor, "Do", lambda *_: 1 / 0)
        failed = CliRunner().invoke(cli, command)
    assert (failed.exit_code, failed.output.splitlines()[-1]) == (1, "Error: division by zero")
    monkeypatch.setattr(image_sampler.Executor, "Do", lambda *_: pytest.fail("it was drawn again"))
    done = CliRunner().invoke(cli, [*command, "--output", str(tmp_path / "o.json")])
    assert done.exit_code == 0, done.output
    (row,) = json.loads((tmp_path / "o.json").read_text())
    assert (row["seed"], row["counts"]["samples"]) == (5, 10)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--sweep", "heat=1"], 1, "--sweep must be of temperature, top_k, "),
        (["--sweep", "temperature=1,"], 1, "--sweep must be KEY=VALUE,VALUE once a key"),
        (
            ["--sweep", "top_p=0.5,2"],
            1,
            "--sweep: evaluation.generation.sampling.top_p: Input should be less than or equal to 1",
        ),
        (
            ["--sweep", "acceptance=0"],
            1,
            "--sweep: evaluation.generation.acceptance: Input should be greater than 0",
        ),
        (["--features", "inception_2015:/nowhere.pb"], 1, "must be the file of the frozen graph"),
        (["a", "b"], 2, "must be given, got both"),
        (["--seed", "3"], 2, "--seed must be given with SAMPLES and REFERENCE"),
        (
            ["--sweep", "guidance_schedule=steep"],
            1,
            "guidance_schedule: Input should be 'constant' or 'linear'",
        ),
    ],
)
def test_a_wrong_sweep_is_one_line(finished, options, code, said):
    done = CliRunner().invoke(cli, ["evaluate", "--run", str(finished.directory), *options])
    assert done.exit_code == code
    assert said in done.output
    assert "Traceback" not in done.output


def test_a_feature_network_that_is_not_there_stops_the_run_before_it_starts(tmp_path):
    config_ = config.load("digits", ["evaluation.features=savedmodel:/nowhere#x"], small=True)
    with pytest.raises(ProtocolError, match="must be the folder of a SavedModel, got /nowhere"):
        local_runner.run(config_, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_grpc_and_rest_agree_for_both_models(finished):
    png = tf.io.encode_png(tf.fill([40, 30, 3], tf.constant(90, tf.uint8))).numpy()
    with background_server(str(finished.directory / "serving")) as endpoints:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "vit_vqgan"
        request.model_spec.signature_name = "encode"
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([png]))
        with grpc.insecure_channel(endpoints.grpc.removeprefix("grpc://")) as channel:
            predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
            by_grpc = tf.make_ndarray(predict(request, timeout=60).outputs["tokens"])

            request = predict_pb2.PredictRequest()
            request.model_spec.name = "vim"
            request.model_spec.signature_name = "generate"
            for name, values in draw_inputs().items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
            drawn = tf.make_ndarray(predict(request, timeout=60).outputs["tokens"])

        column = {
            "signature_name": "encode",
            "inputs": {"image_bytes": [{"b64": base64.b64encode(png).decode()}]},
        }
        by_rest = post(f"{endpoints.http}/v1/models/vit_vqgan:predict", column)["outputs"]["tokens"]
        rows = [{name: values[i].item() for name, values in draw_inputs().items()} for i in range(2)]
        redrawn = post(
            f"{endpoints.http}/v1/models/vim:predict", {"signature_name": "generate", "instances": rows}
        )["predictions"]
    np.testing.assert_array_equal(by_grpc, by_rest)
    assert by_grpc.shape == (1, 16)
    np.testing.assert_array_equal(drawn, [row["tokens"] for row in redrawn])
    assert base64.b64decode(redrawn[0]["image_bytes"]["b64"]).startswith(b"\x89PNG")


def draw_inputs() -> dict[str, np.ndarray]:
    return {
        "class_id": np.array([3, 8], np.int32),
        "seed": np.array([0, 1], np.int64),
        "temperature": np.ones(2, np.float32),
        "top_k": np.zeros(2, np.int32),
        "top_p": np.ones(2, np.float32),
        "guidance_scale": np.ones(2, np.float32),
    }


def post(url: str, body: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_second_run_is_cached_and_stricter_threshold_blocks_the_push(finished):
    """One test, because the runs build on each other."""
    folder = str(finished.directory)
    again = local_runner.run(config.load("digits", small=True), folder)
    assert states(again.metrics) == dict.fromkeys(COMPONENTS, "cached")
    seconds = {component["name"]: component["seconds"] for component in finished.metrics["components"]}
    assert {c["name"]: c["seconds"] for c in again.metrics["components"]} == seconds

    served = finished.directory / "serving"
    before = {
        model: sorted(p.name for p in (served / model).iterdir())
        for model in ("vit_vqgan", "classifier", "vim")
    }
    strict = config.load("digits", ["evaluation.reconstruction.thresholds.psnr.min=90"], small=True)
    refused = local_runner.run(strict, folder)
    ran = {name for name, state in states(refused.metrics).items() if state == "ran"}
    assert ran == {"ReconstructionEvaluator", "Pusher-tokenizer", "RunReport"}
    assert refused.metrics["reconstruction"]["blessed"] is False
    assert {m: sorted(p.name for p in (served / m).iterdir()) for m in before} == before


def test_unlabelled_images_complete_the_run_and_the_first_configuration_comes_back(finished, tmp_path):
    """One test, because the runs build on each other."""
    for index in range(40):
        pictures.write(tmp_path / "photos" / f"{index}.jpg", brightness=6 * index, encoding="JPEG")
    overrides = [
        f"data.source=folder:{tmp_path / 'photos'}",
        "evaluation.generation.thresholds={}",
        "stage1.loss.adversarial=0",  # half of a small tokenizer's time
    ]
    folder = str(finished.directory)
    other = local_runner.run(config.load("digits", overrides, small=True), folder)
    assert "class_accuracy" not in other.metrics["generation"]
    assert other.metrics["linear_probe"]["skipped"] == "no labels"
    assert other.metrics["reconstruction"]["psnr"] != finished.metrics["reconstruction"]["psnr"]

    back = local_runner.run(config.load("digits", small=True), folder)
    assert set(states(back.metrics).values()) == {"cached"}
    assert back.metrics["reconstruction"] == finished.metrics["reconstruction"]
    for model in ("vit_vqgan", "classifier", "vim"):
        first_weights, *_, other_weights, last_weights = (
            (version / "variables" / "variables.index").read_bytes() for version in versions(finished, model)
        )
        assert last_weights == first_weights != other_weights


def test_imported_tokenizer_scores_like_the_trained_one(finished):
    (pushed, *_) = versions(finished, "vit_vqgan")
    small = config.load("digits", [f"stage1={json.dumps({'savedmodel': str(pushed)})}"], small=True)
    metrics = local_runner.run(small, str(finished.directory)).metrics
    from_images = {
        "ImageExampleGen", "StatisticsGen", "SchemaGen", "ExampleValidator", "Trainer-classifier",
        "ModelValidator-classifier", "Pusher-classifier", "ReferenceStatistics",
    }  # fmt: skip
    assert states(metrics) == {
        **dict.fromkeys(COMPONENTS - {"Trainer-tokenizer"} | {"TokenizerImporter"}, "ran"),
        **dict.fromkeys(from_images, "cached"),
    }
    for name, scores in (("reconstruction", ("psnr", "fid")), ("generation", ("fid", "class_accuracy"))):
        for score in scores:
            assert metrics[name][score] == pytest.approx(finished.metrics[name][score], rel=1e-3), score
    (*_, served) = versions(finished, "vit_vqgan")
    assert served != pushed
    for part in ("saved_model.pb", "variables/variables.index"):
        assert (served / part).read_bytes() == (pushed / part).read_bytes()


def versions(run: local_runner.Run, model: str) -> list[Path]:
    """The pushed versions of a model, the oldest first."""
    return sorted((run.directory / "serving" / model).iterdir(), key=lambda path: int(path.name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "photos [v1]",
            r"output must not have \[ \] in its path, which .* pattern to TFX, got .*photos \[v1\]",
        ),
        ("a\\b", r"output must not have \\ in its path"),
        ("what?", r"output must not have \? in its path"),
        ("x" * 200 + "/" + "/".join(["y" * 250] * 14), r"output must be a path of at most 3500 bytes"),
        ("a_file", r"output must be a folder, got the file"),
    ],
)
def test_output_that_the_run_could_not_bear_is_refused(tmp_path, name, message):
    (tmp_path / "a_file").touch()
    with pytest.raises(local_runner.RunError, match=message) as caught:
        local_runner.run(config.load("digits", small=True), str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"]


def test_full_disk_is_refused(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=50 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(local_runner.RunError, match=r"output must have 100 MiB free, got 50 MiB in"):
        local_runner.run(config.load("digits", small=True), str(tmp_path / "run"))


def test_worker_processes_need_an_environment_that_a_shell_can_name(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/my home/.venv/bin/python")
    with pytest.raises(local_runner.RunError, match="without spaces or quotes in its path, got /my home/"):
        local_runner.run(
            config.load("digits", small=True),
            str(tmp_path / "run"),
            ("--direct_running_mode=multi_processing", "--direct_num_workers=2"),
        )


def test_missing_source_fails_before_the_run_starts(tmp_path):
    small = config.load("digits", [f"data.source=folder:{tmp_path / 'nowhere'}"], small=True)
    with pytest.raises(SourceError, match="nowhere"):
        local_runner.run(small, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_missing_perceptual_network_fails_before_the_run_starts(tmp_path):
    overrides = ["stage1.loss.perceptual=0.1", f"stage1.perceptual.network=savedmodel:{tmp_path / 'nowhere'}"]
    small = config.load("digits", overrides, small=True)
    with pytest.raises(local_runner.RunError, match="nowhere"):
        local_runner.run(small, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_imported_tokenizer_of_wrong_size_fails_before_the_run_starts(tmp_path):
    stand_ins.write_tokenizer(str(tmp_path / "theirs"))
    small = config.load("digits", [f"stage1={{savedmodel: {tmp_path / 'theirs'}}}"], small=True)
    with pytest.raises(TokenizerError, match=r"must be for images of 32 pixels \(data\.image_size\)"):
        local_runner.run(small, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_failing_trainer_is_reported_with_its_own_message(tmp_path):
    small = config.load("digits", ["classifier.train.strategy=multi_worker"], small=True)
    with pytest.raises(local_runner.RunError) as caught:
        local_runner.run(small, str(tmp_path / "run"))
    assert str(caught.value) == (
        "Trainer-classifier failed: strategy multi_worker: TF_CONFIG must name two workers or more, got 0"
    )


EXECUTORS = {
    "ImageExampleGen": "components.image_example_gen.executor.Executor",
    "StatisticsGen": "tfx.components.statistics_gen.executor.Executor",
    "SchemaGen": "tfx.components.schema_gen.executor.Executor",
    "ExampleValidator": "components.example_validator.executor.Executor",
    "Trainer": "tfx.components.trainer.executor.GenericExecutor",
    "TokenTransform": "components.token_transform.executor.Executor",
    "ReconstructionEvaluator": "components.evaluators.reconstruction.executor.Executor",
    "ReferenceStatistics": "components.reference_statistics.executor.Executor",
    "ImageSampler": "components.image_sampler.executor.Executor",
    "GenerationEvaluator": "components.evaluators.generation.executor.Executor",
    "LinearProbeEvaluator": "components.evaluators.linear_probe.executor.Executor",
    "ModelValidator": "components.model_validator.executor.Executor",
    "Pusher": "components.pusher.executor.Executor",
    "RunReport": "components.run_report.executor.Executor",
}


@pytest.mark.parametrize("name", sorted(COMPONENTS))
def test_failure_reaches_the_user_as_its_own_reason(finished, monkeypatch, name):
    asked = []
    context, cached = cache_utils.get_cache_context, cache_utils.get_cached_outputs

    def remember(*args, **options):
        asked.append(options["pipeline_node"].node_info.id)
        return context(*args, **options)

    monkeypatch.setattr(cache_utils, "get_cache_context", remember)
    monkeypatch.setattr(
        cache_utils,
        "get_cached_outputs",
        lambda *args, **options: None if asked[-1] == name else cached(*args, **options),
    )

    def fail(executor, input_dict, output_dict, exec_properties):
        for artifact in (artifact for artifacts in output_dict.values() for artifact in artifacts):
            Path(artifact.uri).mkdir(parents=True, exist_ok=True)
            Path(artifact.uri, "half").touch()
        with atomic_folder(next(iter(output_dict.values()))[0].uri):
            raise OSError(f"provoked in {name}")

    monkeypatch.setattr(f"{EXECUTORS[name.partition('-')[0]]}.Do", fail)
    with pytest.raises(local_runner.RunError) as caught:
        local_runner.run(config.load("digits", small=True), str(finished.directory))
    assert str(caught.value) == f"{name} failed: provoked in {name}"


def test_broken_images_fail_with_their_names(tmp_path):
    for index in range(20):
        pictures.write(tmp_path / "photos" / f"{index}.jpg", encoding="JPEG")
    # Its header is whole, so only decoding notices.
    half = pictures.encoded(9, "JPEG", (200, 200))[:-500]
    (tmp_path / "photos" / "half.jpg").write_bytes(half)
    small = config.load("digits", [f"data.source=folder:{tmp_path / 'photos'}"], small=True)
    message = (
        r"^ImageExampleGen failed: broken images must be at most 1\.0%, got 1 of 21 .*half\.jpg \(cannot be"
    )
    with pytest.raises(local_runner.RunError, match=message):
        local_runner.run(small, str(tmp_path / "run"))


def test_problem_in_the_data_stops_the_run_before_it_starts(tmp_path):
    for name in ("cat/1.png", "dog/1.png", "val/1.png"):
        pictures.write(tmp_path / "photos" / name)
    small = config.load("digits", [f"data.source=folder:{tmp_path / 'photos'}"], small=True)
    with pytest.raises(SourceError, match=r"classes must not be named like splits, got val"):
        local_runner.run(small, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_images_are_surveyed_once(finished, monkeypatch):
    monkeypatch.setattr(local_runner, "survey", lambda *_, **__: pytest.fail("surveyed again"))
    local_runner.run(config.load("digits", small=True), str(finished.directory))


def again(finished, **options) -> dict[str, str]:
    """Run the same configuration again; return the state of each component."""
    return states(
        local_runner.run(config.load("digits", small=True), str(finished.directory), **options).metrics
    )


def ran(found: dict[str, str]) -> set[str]:
    return {name for name, state in found.items() if state == "ran"}


def test_edited_code_runs_again_and_the_reason_is_said(finished, monkeypatch, tmp_path, capsys):
    again(finished)
    name = "components.evaluators.linear_probe.probe"
    edited = tmp_path / "probe.py"
    edited.write_text(code._path(name).read_text() + "\nEDITED = True\n")
    path = code._path
    monkeypatch.setattr(code, "_path", lambda module: edited if module == name else path(module))
    code._read.cache_clear()
    assert ran(again(finished)) == {"LinearProbeEvaluator", "RunReport"}
    said = capsys.readouterr().err
    assert "LinearProbeEvaluator       code changed: components/evaluators/linear_probe/probe.py" in said
    # The report carries the fingerprint of all code.
    assert "RunReport                  new results of LinearProbeEvaluator" in said
    assert set(again(finished).values()) == {"cached"}
    monkeypatch.undo()
    code._read.cache_clear()
    assert set(again(finished).values()) == {"cached"}  # the results of the code from before


def test_component_can_be_forced_and_its_result_is_kept(finished, monkeypatch):
    again(finished)
    before = versions(finished, "vim")
    monkeypatch.setattr(serving_versions.time, "time", lambda: 1.0)  # whatever the clock does
    assert ran(again(finished, no_cache={"Pusher-vim"})) == {"Pusher-vim"}
    assert ran(again(finished, no_cache={"Pusher-vim"})) == {"Pusher-vim"}
    assert set(again(finished).values()) == {"cached"}
    after = versions(finished, "vim")
    assert [int(path.name) for path in after[len(before) :]] == [
        int(before[-1].name) + 1,
        int(before[-1].name) + 2,
    ]
    with pytest.raises(
        local_runner.RunError,
        match=r"--no-cache must be one of ImageExampleGen, .*, got Trainer; did you mean",
    ):
        again(finished, no_cache={"Trainer"})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("saved_model.pb", cut),
        ("variables/variables.data-00000-of-00001", zero),
        ("saved_model.pb", Path.unlink),
    ],
)
def test_damaged_served_model_is_pushed_anew(finished, capsys, file, damage):
    again(finished)
    *_, served = versions(finished, "vim")
    whole = serving_versions.content_digest(str(served))
    capsys.readouterr()
    damage(served / file)
    assert set(again(finished).values()) == {"cached"}
    said = capsys.readouterr().err
    assert f"serving/vim/{served.name} must be what Pusher-vim pushed, got another or a damaged model" in said
    *_, newest = versions(finished, "vim")
    assert int(newest.name) > int(served.name)
    assert serving_versions.content_digest(str(newest)) == whole


def first(finished, pattern: str) -> Path:
    """A file of the run's own artifacts; other configurations have made later ones, of higher numbers."""
    root = finished.directory / "pipeline_root"
    return min(root.glob(pattern), key=lambda path: int(path.relative_to(root).parts[2]))


@pytest.mark.parametrize(
    ("component", "at_edge"),
    [
        ("TokenTransform", True),
        ("TokenTransform", False),
        ("ReconstructionEvaluator", True),
        ("ReconstructionEvaluator", False),
        ("ReferenceStatistics", True),
        ("GenerationEvaluator", True),
        ("LinearProbeEvaluator", True),
    ],
)
def test_cut_examples_are_named_by_every_reader(finished, component, at_edge):
    split = "eval" if component == "ReconstructionEvaluator" else "train"
    file = first(finished, f"ImageExampleGen/examples/*/Split-{split}/*")
    whole = file.read_bytes()
    # A record is 8 bytes of its length, 4 of that one's checksum, the content, and 4 of its checksum.
    kept = 16 + int.from_bytes(whole[:8], "little")
    file.write_bytes(whole[: kept if at_edge else kept - 3])
    with pytest.raises(local_runner.RunError) as caught:
        again(finished, no_cache={component})
    file.write_bytes(whole)
    records = {"train": 1518, "eval": 279}[split]
    reason = f"must have {records} records, got 1" if at_edge else "is damaged: truncated record at 0'"
    assert str(caught.value).startswith(f"{component} failed: {file} {reason}")


@pytest.mark.parametrize(
    ("file", "damage"), [("report/report.json", cut), ("report/samples.npz", Path.unlink)]
)
def test_damaged_report_is_one_line_and_can_be_written_anew(finished, store, file, damage):
    again(finished)
    result = lineage.last_result(store, "tfx-vim-digits", "RunReport")
    newest = result.outputs["report"].uri
    damage(Path(newest, file))
    with pytest.raises(local_runner.RunError) as caught:
        again(finished)
    assert f"{newest}/{file} must be a file of a report, got a damaged or missing one" in str(caught.value)
    assert "`run --no-cache RunReport` writes it anew" in str(caught.value)
    assert ran(again(finished, no_cache={"RunReport"})) == {"RunReport"}


def test_two_runs_in_one_folder_at_once_are_refused(finished):
    with run_lock.hold(finished.directory), pytest.raises(RunningError, match="one run at a time"):
        again(finished)


def test_stop_inside_a_worker_of_beam_is_a_stop(finished, monkeypatch):
    def stop(*arguments):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("components.token_transform.encode.EncodeFiles.process", stop)
    with pytest.raises(local_runner.Stopped) as caught:
        again(finished, no_cache={"TokenTransform"})
    expected = (
        "stopped by SIGTERM in TokenTransform, what finished before it is kept; the same command goes on"
    )
    assert str(caught.value) == expected


def test_stop_between_components_is_a_stop(finished, monkeypatch):
    monkeypatch.setattr(local_runner, "_finish", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(
        local_runner.Stopped, match=r"^stopped by SIGTERM, what has finished is kept; the same"
    ):
        again(finished)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_run_says_what_is_kept_and_leaves_nothing_running(finished, monkeypatch, number, store):
    def stop(executor, input_dict, output_dict, exec_properties):
        Path(output_dict["model"][0].uri, "half").touch()
        signal.raise_signal(number)

    monkeypatch.setattr("tfx.components.trainer.executor.GenericExecutor.Do", stop)
    with pytest.raises(local_runner.Stopped) as caught:
        again(finished, no_cache={"Trainer-vim"})
    assert str(caught.value) == (
        f"stopped by {number.name} in Trainer-vim, the checkpoint of step 4 is kept; the same command goes on"
    )
    assert caught.value.exit_code == 128 + number
    unfinished = [one.id for one in store.get_executions() if one.last_known_state == RUNNING]
    (half,) = finished.directory.glob(f"pipeline_root/*/*/{unfinished[0]}/half")
    monkeypatch.undo()
    again(finished)
    assert not half.exists()
    assert RUNNING not in {one.last_known_state for one in store.get_executions()}


def test_run_whose_trainer_saved_its_checkpoint_at_sigterm_has_an_exit_code_of_its_own(finished, monkeypatch):
    def preempted(*arguments):
        raise Preempted

    monkeypatch.setattr("tfx.components.trainer.executor.GenericExecutor.Do", preempted)
    with pytest.raises(local_runner.Stopped, match=r"stopped by SIGTERM in Trainer-vim, the") as caught:
        again(finished, no_cache={"Trainer-vim"})
    assert caught.value.exit_code == 75
    monkeypatch.undo()
    again(finished)


def test_run_after_a_killed_one_says_what_ran(finished, capsys):
    holder = {"host": "here", "process": 4711, "since": "yesterday", "component": "Trainer-vim"}
    (finished.directory / "run.lock").write_text(json.dumps(holder))
    again(finished)
    assert (
        "the run before (process 4711) was killed while Trainer-vim ran, by the system if memory ran out; "
        "the checkpoint of step 4 is kept, this run goes on from there"
    ) in capsys.readouterr().err


def test_every_finished_run_keeps_its_results_and_their_origin(finished):
    history = sorted((finished.directory / "history").iterdir())
    assert len(history) >= 2
    kept = [json.loads((path / "metrics.json").read_text())["run"] for path in history]
    assert kept[0]["preset"] == "digits"
    assert kept[0]["configuration"]["stage2"]["model"]["class_conditional"] is True
    assert len(kept[0]["code"]) == 16
    assert len({json.dumps(one["configuration"]) for one in kept}) > 1
    assert (history[0] / "report" / "index.html").exists()


def test_damaged_lineage_is_one_line(tmp_path):
    (tmp_path / "metadata.db").write_text("no database")
    with pytest.raises(LineageError, match=r"metadata\.db must be the run's lineage, got a damaged file"):
        local_runner.run(config.load("digits", small=True), str(tmp_path))


def test_damaged_checkpoint_and_examples_of_a_trainer_are_named(finished, capsys, monkeypatch):
    """The last test, because later runs would have new weights to evaluate."""
    for checkpoint in finished.directory.glob("checkpoints/vim/*/ckpt-4.data*"):
        zero(checkpoint)
    file = first(finished, "TokenTransform/examples/*/Split-eval/*")
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(local_runner.RunError) as caught:
        again(finished, no_cache={"Trainer-vim"})
    file.write_bytes(whole)
    assert str(caught.value).startswith(f"Trainer-vim failed: {file} is damaged: truncated record")

    def stop(*arguments):
        raise OSError("far enough")

    monkeypatch.setattr("components.image_sampler.executor.Executor.Do", stop)
    capsys.readouterr()
    with pytest.raises(local_runner.RunError, match="ImageSampler failed: far enough"):
        again(finished, no_cache={"Trainer-vim"})
    said = " ".join(capsys.readouterr().err.split())
    assert "is damaged and kept as damaged-ckpt-4" in said
    assert "vim: 4 steps" in said
