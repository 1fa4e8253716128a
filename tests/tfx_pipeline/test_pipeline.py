import json

import pytest
import tensorflow as tf

from components.evaluators.network_names import ProtocolError
from tfx_pipeline import versions
from tfx_pipeline.config import ConfigError, load
from tfx_pipeline.pipeline import create_pipeline
from tfx_pipeline.versions import Versions


def graph(*overrides):
    config = load("digits", overrides, small=True)
    pipeline = create_pipeline(config, run_dir="run", versions=Versions("1"), beam_pipeline_args=[])
    return {component.id: component for component in pipeline.components}


def source_of(component, channel: str) -> str:
    return component.inputs[channel].producer_component_id


@pytest.mark.parametrize(
    ("tokens", "source"), [("cached", "TokenTransform"), ("on_the_fly", "ImageExampleGen")]
)
def test_vim_trainer_reads_cached_tokens_or_images(tokens, source):
    components = graph(f"stage2.tokens={tokens}")
    assert source_of(components["Trainer-vim"], "examples") == source
    assert source_of(components["Trainer-vim"], "base_model") == "Trainer-tokenizer"
    assert ("TokenTransform" in components) is (tokens == "cached")


def test_imported_tokenizer_replaces_the_trained_one():
    components = graph("stage1={savedmodel: models/theirs}")
    assert "Trainer-tokenizer" not in components
    assert len(components) == len(graph())
    for consumer, channel in (
        ("TokenTransform", "model"),
        ("Trainer-vim", "base_model"),
        ("ReconstructionEvaluator", "model"),
        ("ModelValidator-tokenizer", "model"),
        ("Pusher-tokenizer", "model"),
    ):
        assert source_of(components[consumer], channel) == "TokenizerImporter", consumer
    assert "tokenizer_run" not in components["RunReport"].inputs


def test_pretrained_classifier_replaces_the_trained_one():
    components = graph("classifier={network: ResNet101}")
    assert "Trainer-classifier" not in components
    assert len(components) == len(graph())
    for consumer, channel in (
        ("ReconstructionEvaluator", "classifier"),
        ("GenerationEvaluator", "classifier"),
        ("ModelValidator-classifier", "model"),
        ("Pusher-classifier", "model"),
    ):
        assert source_of(components[consumer], channel) == "ClassifierImporter", consumer
    assert source_of(components["ClassifierImporter"], "examples") == "ImageExampleGen"
    assert "classifier_run" not in components["RunReport"].inputs


def test_the_files_of_a_pretrained_classifier_are_in_the_caches_key(tmp_path):
    weights = tmp_path / "net.weights.h5"
    weights.write_bytes(b"weights")
    made = load("digits", [f"classifier={{network: ResNet50, weights: {weights}}}"])
    first = versions.classifier(made)
    made_of = create_pipeline(made, run_dir="run", versions=Versions("v", classifier=first)).components
    (importer,) = (one for one in made_of if one.id == "ClassifierImporter")
    assert importer.exec_properties["version"] == first
    weights.write_bytes(b"others")
    assert versions.classifier(made) != first
    assert versions.classifier(load("digits")) == ""


def test_warm_start_is_settled_when_the_pipeline_is_made(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "vim" / "7"))
    trainer = graph(f"stage2.train.warm_start={tmp_path / 'vim'}")["Trainer-vim"]
    sent = json.loads(trainer.exec_properties["custom_config"])
    job, stage = json.loads(sent["job"]), json.loads(sent["stage"])
    assert stage["train"]["warm_start"] == str(tmp_path / "vim" / "7")
    assert len(job["start"]) == 16


def test_the_pushed_model_is_named_and_not_looked_for_when_the_pipeline_is_made():
    for name, section, served in (
        ("vim", "stage2", "vim"),
        ("tokenizer", "stage1", "vit_vqgan"),
        ("classifier", "classifier", "classifier"),
    ):
        trainer = graph(f"{section}.train.warm_start=pushed")[f"Trainer-{name}"]
        sent = json.loads(trainer.exec_properties["custom_config"])
        folder = json.loads(sent["stage"])["train"]["warm_start"]
        assert folder.endswith(f"/serving/{served}")
        assert json.loads(sent["job"])["start"] == "pushed"


def test_the_feature_network_and_its_weights_are_in_the_caches_key(tmp_path):
    place = tmp_path / "graph.pb"
    place.write_bytes(b"weights")
    made = load("digits", [f"evaluation.features=inception_2015:{place}"])
    first = versions.features(made)
    components = {
        one.id: one
        for one in create_pipeline(made, run_dir="run", versions=Versions("v", features=first)).components
    }
    for name in ("ReconstructionEvaluator", "GenerationEvaluator"):
        properties = components[name].exec_properties
        assert (properties["features"], properties["features_version"]) == (f"inception_2015:{place}", first)
    place.write_bytes(b"other weights")
    assert versions.features(made) != first
    assert versions.features(load("digits")) == ""
    with pytest.raises(ConfigError, match=r"evaluation\.features must be one of|features must be one of"):
        load("digits", ["evaluation.features=inception"])
    place.unlink()
    with pytest.raises(ProtocolError, match="must be the file of the frozen graph"):
        versions.features(made)


def test_the_limit_of_pixels_reaches_every_exported_model():
    components = graph("export.max_image_pixels=1000")
    for name in ("tokenizer", "classifier", "vim"):
        sent = json.loads(components[f"Trainer-{name}"].exec_properties["custom_config"])
        assert json.loads(sent["job"])["max_image_pixels"] == 1000
    with pytest.raises(ConfigError, match=r"export\.max_image_pixels"):
        graph("export.max_image_pixels=67108865")


def test_only_a_gate_that_compares_has_the_pushed_model_measured():
    components = graph()
    assert components["ImageSampler"].exec_properties["pushed"] == ""
    assert components["ReconstructionEvaluator"].exec_properties["pushed"] == ""
    components = graph(
        "evaluation.reconstruction.thresholds={psnr: {worse_by: 0.1}}",
        "evaluation.generation.thresholds={fid: {worse_by: 0.1}}",
    )
    assert components["ImageSampler"].exec_properties["pushed"].endswith("/serving/vim")
    assert components["ReconstructionEvaluator"].exec_properties["pushed"].endswith("/serving/vit_vqgan")


@pytest.mark.parametrize(
    ("folder", "complaint"),
    [
        (
            "run/serving/vim",
            r"stage2\.train\.warm_start must be outside of the run's own folder, got '/.*vim'",
        ),
        (
            "tests",
            r"stage2\.train\.warm_start must be a SavedModel, a folder of its versions, or a run's folder",
        ),
    ],
)
def test_warm_start_without_weights_or_from_the_run_itself_is_refused(folder, complaint):
    with pytest.raises(ConfigError, match=complaint):
        graph(f"stage2.train.warm_start={folder}")
