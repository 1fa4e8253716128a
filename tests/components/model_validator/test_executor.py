"""Validate models: valid ones are blessed, broken ones are not, and the reason is recorded."""

import functools
import json

import numpy as np
import pytest
import tensorflow as tf
from tfx.components.util import model_utils
from tfx.types import standard_artifacts

from components.model_validator import executor
from serving.export.tokenizer import export_tokenizer
from serving.export.warmup import write_warmup
from tests import stand_ins

pytestmark = pytest.mark.slow


def _model(directory, write):
    artifact = standard_artifacts.Model()
    artifact.uri = str(directory)
    write(str(directory / "Format-Serving"))
    return artifact


def _validated(tmp_path, write):
    """Validate the model that `write` writes; return the blessing and the content of checks.json."""
    blessing = standard_artifacts.InfraBlessing()
    blessing.uri = str(tmp_path / "blessing")
    executor.Executor().Do({"model": [_model(tmp_path / "model", write)]}, {"blessing": [blessing]}, {})
    return blessing, json.loads((tmp_path / "blessing" / "checks.json").read_text())


def _tokenizer(encode=stand_ins.encode, decode=stand_ins.decode, metadata=None):
    def write(directory):
        export_tokenizer(
            directory,
            tf.Module(),
            metadata or stand_ins.metadata("tokenizer"),
            encode=encode,
            decode=decode,
        )

    return write


def _generator(sample):
    return functools.partial(stand_ins.write_generator, sample=sample)


def _bare(metadata, **signatures):
    """Return a function that writes a SavedModel with this metadata text and these signatures."""

    @tf.function(input_signature=[])
    def describe():
        return {"metadata": tf.constant(metadata)}

    return lambda directory: tf.saved_model.save(
        tf.Module(), directory, signatures={**signatures, "metadata": describe}
    )


@pytest.mark.parametrize(
    ("write", "signatures"),
    [
        (
            stand_ins.write_tokenizer,
            [
                "decode",
                "decode_pixels",
                "encode",
                "encode_pixels",
                "neighbors",
                "reconstruct",
                "serving_default",
            ],
        ),
        (
            stand_ins.write_generator,
            ["complete", "features", "generate", "generate_linear", "score", "serving_default"],
        ),
        (stand_ins.write_classifier, ["classify", "classify_pixels", "serving_default"]),
    ],
)
def test_valid_model_is_blessed_after_every_signature_is_queried(tmp_path, write, signatures):
    blessing, checked = _validated(tmp_path, write)
    assert model_utils.is_infra_validated(blessing)
    assert (tmp_path / "blessing" / "INFRA_BLESSED").exists()
    assert checked["blessed"]
    asked = [f"{name} over {protocol}" for protocol in ("grpc", "http") for name in signatures]
    names = [check["name"] for check in checked["checks"]]
    assert names == ["load", "metadata", *signatures, "server", *asked]
    assert all(check["milliseconds"] > 0 and check["reason"] is None for check in checked["checks"])


def test_a_model_whose_warm_up_a_server_refuses_is_not_blessed(tmp_path):
    def write(directory):
        stand_ins.write_generator(directory)
        wrong = {"image_bytes": np.array([b""], object), "class_id": np.array([99], np.int32)}
        write_warmup(directory, {"score": wrong})

    blessing, checked = _validated(tmp_path, write)
    assert not model_utils.is_infra_validated(blessing)
    reasons = {check["name"]: check["reason"] for check in checked["checks"] if check["reason"]}
    assert list(reasons) == ["server"]
    assert (
        "version 1 of model does not load: class_id must be in [0, 3), got another in row 0"
        in reasons["server"]
    )


def test_unconditional_generator_is_blessed(tmp_path):
    blessing, _ = _validated(tmp_path, lambda path: stand_ins.write_generator(path, class_names=()))
    assert model_utils.is_infra_validated(blessing)


def _nan_pixels(tokens):
    pixels, mu, log_scale = stand_ins.decode(tokens)
    return pixels * float("nan"), mu, log_scale


def _half_a_picture(tokens):
    pixels, mu, log_scale = stand_ins.decode(tokens)
    return pixels[:, :4], mu, log_scale[:, :4]


def _sample_by_position(request):
    """Sample with each row's seed plus its position in the batch."""
    place = tf.range(tf.size(request.seed, tf.int64), dtype=tf.int64)
    return stand_ins.sample(request._replace(seed=request.seed + place))


def _sample_beyond_the_codebook(request):
    return stand_ins.sample(request) + stand_ins.CODES


@pytest.mark.parametrize(
    ("write", "failing", "reason"),
    [
        (_tokenizer(decode=_nan_pixels), "decode_pixels", "pixels must be finite, got NaN or infinity"),
        (_tokenizer(decode=_half_a_picture), "decode", "image_bytes must decode to (8, 8, 3), got (4, 8, 3)"),
        (
            _tokenizer(decode=_half_a_picture),
            "decode_pixels",
            "log_scale must be float32 [3, 8, 8, 3], got float32 (3, 4, 8, 3)",
        ),
        (
            _tokenizer(encode=lambda pixels: stand_ins.encode(pixels) - stand_ins.CODES),
            "encode",
            "tokens must be in [0, 15], got -1",
        ),
        (
            _tokenizer(encode=lambda pixels: stand_ins.encode(pixels)[:, :2]),
            "encode_pixels",
            "tokens must be int32 [3, 4], got int32 (3, 2)",
        ),
        (
            _tokenizer(encode=lambda pixels: tf.cast(stand_ins.encode(pixels), tf.int64)),
            "encode",
            "tokens must be int32 [3, 4], got int64 (3, 4)",
        ),
        (
            _generator(_sample_by_position),
            "generate",
            "a row's tokens depend on the other rows of its batch, with the same seed",
        ),
        (_generator(_sample_beyond_the_codebook), "generate", "tokens must be in [0, 15], got 16"),
        (
            _tokenizer(metadata=stand_ins.metadata("generator")),
            "generate",
            "a generator must have this signature, got none",
        ),
        (
            _tokenizer(metadata=stand_ins.metadata("painter")),
            "metadata",
            "kind must be one of ['classifier', 'generator', 'tokenizer'], got 'painter'",
        ),
        (_bare("no JSON"), "metadata", "Expecting value"),
        (lambda directory: None, "load", "SavedModel file does not exist"),
    ],
)
def test_broken_model_is_not_blessed_and_the_reason_is_recorded(tmp_path, write, failing, reason):
    blessing, checked = _validated(tmp_path, write)
    assert not model_utils.is_infra_validated(blessing)
    assert (tmp_path / "blessing" / "INFRA_NOT_BLESSED").exists()
    assert not (tmp_path / "blessing" / "INFRA_BLESSED").exists()
    assert not checked["blessed"]
    reasons = {check["name"]: check["reason"] for check in checked["checks"]}
    assert reason in reasons[failing]
    first = next(name for name, reason in reasons.items() if reason)
    assert blessing.get_string_custom_property("reason") == f"{first}: {reasons[first]}"


def test_unknown_signature_input_is_reported(tmp_path):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "zoom")])
    def encode(zoom):
        return {"tokens": zoom}

    metadata = stand_ins.metadata("tokenizer").to_json()
    _, checked = _validated(tmp_path, _bare(metadata, encode=encode))
    reasons = {check["name"]: check["reason"] for check in checked["checks"]}
    assert reasons["encode"].endswith("got ['zoom']")
    assert reasons["decode"] == "a tokenizer must have this signature, got none"


def test_infrastructure_error_raises_without_a_verdict(tmp_path, monkeypatch):
    def unavailable(path):
        raise tf.errors.UnavailableError(None, None, f"storage of {path} is down")

    monkeypatch.setattr(tf.saved_model, "load", unavailable)
    with pytest.raises(tf.errors.UnavailableError, match="is down"):
        _validated(tmp_path, stand_ins.write_tokenizer)
    assert not (tmp_path / "blessing").exists()
