import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from serving.export import images
from serving.export.signatures import read_metadata
from serving.export.tokenizer import export_tokenizer
from serving.export.warmup import read_warmup
from tests import stand_ins
from tests.serving.export.image_files import FILES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tokenizer"))
    stand_ins.write_tokenizer(path)
    return tf.saved_model.load(path), path


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("generator"))
    stand_ins.write_generator(path)
    return tf.saved_model.load(path), path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("classifier"))
    stand_ins.write_classifier(path)
    return tf.saved_model.load(path), path


def grey(level: float) -> tf.Tensor:
    """Encode a flat PNG that is neither square nor of the model's size."""
    return images.encode_batch(tf.fill([1, 12, 20, 3], level))


def draw(model, signature="generate", **changes):
    inputs = {
        "class_id": tf.constant([0, 1, 2]),
        "seed": tf.constant([0, 1, 2], tf.int64),
        "temperature": tf.ones([3]),
        "top_k": tf.zeros([3], tf.int32),
        "top_p": tf.ones([3]),
        "guidance_scale": tf.ones([3]),
    }
    return model.signatures[signature](**{**inputs, **changes})


def test_tokenizer_signatures_agree_with_each_other(tokenizer):
    ask = tokenizer[0].signatures
    tokens = ask["encode"](image_bytes=grey(0.4))["tokens"]
    np.testing.assert_array_equal(tokens, [[6] * stand_ins.TOKENS])
    pixels = ask["decode_pixels"](tokens=tokens)
    assert pixels["pixels"].shape == pixels["mu"].shape == pixels["log_scale"].shape == (1, 8, 8, 3)
    np.testing.assert_array_equal(ask["encode_pixels"](pixels=pixels["pixels"])["tokens"], tokens)
    png = ask["decode"](tokens=tokens)["image_bytes"]
    np.testing.assert_array_equal(ask["reconstruct"](image_bytes=grey(0.4))["image_bytes"], png)
    np.testing.assert_array_equal(ask["encode"](image_bytes=png)["tokens"], tokens)


def test_classifier_signatures_agree_with_each_other(classifier):
    ask = classifier[0].signatures
    answer = ask["classify"](image_bytes=tf.concat([grey(0.0), grey(7 / 15)], axis=0))
    np.testing.assert_array_equal(tf.argmax(answer["logits"], axis=-1), [0, 1])
    np.testing.assert_allclose(tf.reduce_sum(answer["probabilities"], axis=-1), 1.0, rtol=1e-6)
    difference = answer["logits"][:, :1] - answer["logits"][:, 1:2]
    odds = answer["probabilities"][:, :1] / answer["probabilities"][:, 1:2]
    np.testing.assert_allclose(odds[1], tf.exp(difference[1]), rtol=1e-4)
    pixels = tf.fill([1, 8, 8, 3], 119 / 255)
    for name, values in ask["classify_pixels"](pixels=pixels).items():
        np.testing.assert_allclose(values[0], answer[name][1], rtol=1e-5)


def test_neighbors_are_the_other_codes_by_their_distance(tokenizer):
    ask = tokenizer[0].signatures["neighbors"]
    answer = {name: value.numpy() for name, value in ask(token=tf.constant([0, 15, 3])).items()}
    assert answer["neighbors"].shape == answer["distances"].shape == (3, 15)
    # The codes are 0, 1, ... 13, 14, 14; of equally near ones the lower comes first.
    assert answer["neighbors"][0].tolist() == list(range(1, 16))
    assert answer["distances"][0].tolist() == [*range(1, 15), 14]
    assert answer["neighbors"][1].tolist() == list(range(14, -1, -1))
    assert answer["distances"][1].tolist() == list(range(15))
    assert answer["neighbors"][2].tolist()[:5] == [2, 4, 1, 5, 0]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"token must be in \[0, 16\)"):
        ask(token=tf.constant([16]))


def test_generator_signatures_return_one_result_per_row(generator):
    answer = draw(generator[0])
    assert answer["tokens"].shape == (3, stand_ins.TOKENS)
    assert images.decode(answer["image_bytes"][0]).shape == (8, 8, 3)
    score = generator[0].signatures["score"](image_bytes=grey(0.4), class_id=tf.constant([0]))
    nats = stand_ins.TOKENS * np.log(stand_ins.CODES)
    assert score["log_likelihood"].numpy()[0] == pytest.approx(-nats)
    assert score["bits_per_token"].numpy()[0] == pytest.approx(np.log2(stand_ins.CODES))
    assert generator[0].signatures["features"](image_bytes=grey(0.4))["features"].shape == (1, 2, 4)


def test_completion_keeps_the_first_token_rows_of_the_image(generator):
    picture = tf.repeat(grey(1.0), 3)
    drawn = draw(generator[0], temperature=tf.zeros([3]))["tokens"].numpy()
    completed = draw(
        generator[0],
        "complete",
        image_bytes=picture,
        kept_rows=tf.constant([0, 1, 2]),
        temperature=tf.zeros([3]),
    )["tokens"].numpy()
    side = stand_ins.SIZE // stand_ins.PATCH
    for row, kept in enumerate([0, side, 2 * side]):
        assert completed[row, :kept].tolist() == [stand_ins.CODES - 1] * kept
        np.testing.assert_array_equal(completed[row, kept:], drawn[row, kept:])


def test_guidance_is_constant_in_generate_and_rises_in_generate_linear(tmp_path):
    def scales(request):
        params = request.params
        first, last = params.first_guidance_scale, params.last_guidance_scale
        return tf.cast(tf.stack([first, last, first, last], axis=1), tf.int32)

    stand_ins.write_generator(str(tmp_path), sample=scales)
    model = tf.saved_model.load(str(tmp_path))
    strong = {"guidance_scale": tf.constant([1.0, 2.0, 5.0])}
    assert draw(model, **strong)["tokens"].numpy().tolist() == [[1] * 4, [2] * 4, [5] * 4]
    rising = draw(model, "generate_linear", **strong)["tokens"].numpy()
    assert rising.tolist() == [[1, 1, 1, 1], [1, 2, 1, 2], [1, 5, 1, 5]]


def test_images_are_decoded_one_by_one(tmp_path):
    def as_bright_as_there_are_rows(tokens):
        return tf.ones_like(stand_ins.paint(tokens)) * tf.cast(tf.shape(tokens)[0], tf.float32) / 5.0

    stand_ins.write_generator(str(tmp_path), decode=as_bright_as_there_are_rows)
    model = tf.saved_model.load(str(tmp_path))
    for signature, more in (
        ("generate", {}),
        ("complete", {"image_bytes": tf.repeat(grey(0.4), 3), "kept_rows": tf.zeros([3], tf.int32)}),
    ):
        for picture in draw(model, signature, **more)["image_bytes"]:
            assert np.unique(tf.io.decode_png(picture)).tolist() == [51]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -0.01, 1.01])
def test_pixels_out_of_range_are_no_token(tokenizer, wrong):
    pixels = np.full([2, stand_ins.SIZE, stand_ins.SIZE, 3], 0.5, np.float32)
    pixels[1, 3, 2, 0] = wrong
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"pixels must be in \[0, 1\]"):
        tokenizer[0].signatures["encode_pixels"](pixels=tf.constant(pixels))


def test_metadata_signature_round_trips(tokenizer, generator):
    assert read_metadata(tokenizer[0]) == stand_ins.metadata("tokenizer")
    assert read_metadata(generator[0]) == stand_ins.metadata("generator")


def test_the_first_row_that_is_wrong_is_named(generator):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"top_k must be .* got another in row\] \[1\]"):
        draw(generator[0], top_k=tf.constant([0, -1, -1]))


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"class_id": [0, 1, 3]}, r"class_id must be in \[0, 3\)"),
        ({"class_id": [-1, 0, 0]}, r"class_id must be in \[0, 3\)"),
        ({"temperature": [1.0, -1.0, 1.0]}, "temperature must be 0 .greedy. or more"),
        ({"top_p": [0.0, 1.0, 1.0]}, r"top_p must be in \(0, 1\]"),
        ({"top_p": [1.5, 1.0, 1.0]}, r"top_p must be in \(0, 1\]"),
        ({"top_k": [-1, 0, 0]}, "top_k must be 0 .off. or more"),
        ({"guidance_scale": [-0.5, 1.0, 1.0]}, "guidance_scale must be 0 or more"),
        ({"guidance_scale": [math.inf, 1.0, 1.0]}, "guidance_scale must be finite"),
        ({"guidance_scale": [math.nan, 1.0, 1.0]}, "guidance_scale must be 0 or more"),
        ({"temperature": [math.inf, 1.0, 1.0]}, "temperature must be finite"),
        ({"kept_rows": [0, 3, 0]}, r"kept_rows must be in \[0, 2\]"),
        ({"kept_rows": [0, -1, 0]}, r"kept_rows must be in \[0, 2\]"),
    ],
)
def test_out_of_range_input_is_rejected_in_the_graph(generator, changes, allowed):
    signature = "complete" if "kept_rows" in changes else "generate"
    picture = {"image_bytes": tf.repeat(grey(0.4), 3)} if signature == "complete" else {}
    with pytest.raises(tf.errors.InvalidArgumentError, match=allowed):
        draw(
            generator[0],
            signature,
            **picture,
            **{name: tf.constant(values) for name, values in changes.items()},
        )


# Of a picture that nobody can decode, of one that is refused by its header, and of no picture.
BROKEN = {
    FILES["JPEG"].content[:300]: "image must be whole: it cannot be decoded",
    FILES["JPEG, CMYK"].content: "image must be RGB or grey, not CMYK",
    b"": "image must be a JPEG, PNG or BMP",
}


@pytest.mark.parametrize(
    ("kind", "signature"),
    [
        ("tokenizer", "encode"),
        ("tokenizer", "reconstruct"),
        ("generator", "complete"),
        ("generator", "score"),
        ("generator", "features"),
        ("classifier", "classify"),
    ],
)
def test_broken_images_of_a_batch_fail_alone(request, kind, signature):
    ask = request.getfixturevalue(kind)[0].signatures[signature]
    good = grey(0.4).numpy()[0]
    rows = {
        "image_bytes": tf.constant([good, *BROKEN, good]),
        "kept_rows": tf.constant([1] * 5),
        "class_id": tf.constant([0, 1, 2, 1, 2]),
        "seed": tf.range(5, dtype=tf.int64),
        "temperature": tf.ones([5]),
        "top_k": tf.zeros([5], tf.int32),
        "top_p": tf.ones([5]),
        "guidance_scale": tf.ones([5]),
    }
    _, wanted = ask.structured_input_signature
    rows = {name: rows[name] for name in wanted}
    answer = ask(**rows)
    assert [one.decode() for one in answer["error"].numpy()] == ["", *BROKEN.values(), ""]
    alone = ask(**{name: tf.gather(values, [0, 4]) for name, values in rows.items()})
    for name, values in answer.items():
        np.testing.assert_array_equal(tf.gather(values, [0, 4]), alone[name])
        failed = values[1:4].numpy()
        if name == "error":
            continue
        if values.dtype == tf.string:
            assert failed.tolist() == [b""] * 3
        else:
            assert (np.isnan(failed) if values.dtype.is_floating else failed == -1).all()
    if signature == "encode":
        assert ask(image_bytes=tf.constant([], tf.string))["tokens"].shape == (0, 4)
        assert ask(image_bytes=tf.constant([b""]))["error"].shape == (1,)


def example(content: bytes, label: int | None = None) -> bytes:
    made = tf.train.Example()
    made.features.feature["image/encoded"].bytes_list.value.append(content)
    if label is not None:
        made.features.feature["image/label"].int64_list.value.append(label)
    return made.SerializeToString()


def test_the_default_signature_takes_examples(tokenizer, generator):
    good = grey(0.4).numpy()[0]
    answer = tokenizer[0].signatures["serving_default"](
        examples=tf.constant(
            [example(good), b"\xff\xff", example(b""), tf.train.Example().SerializeToString()]
        )
    )
    assert answer["tokens"].numpy().tolist() == [[6] * 4, *[[-1] * 4] * 3]
    no_image = b"image must be a JPEG, PNG or BMP"
    whole = b"image must be a tf.Example with a whole image/encoded: it cannot be decoded"
    assert answer["error"].numpy().tolist() == [b"", whole, no_image, no_image]
    # A bare image is no tf.Example, and a label of 2**32 is not 0.
    assert tokenizer[0].signatures["serving_default"](examples=tf.constant([good]))["error"][0] == whole
    asked = tf.constant([example(good, 2), example(good), example(good, 2**32), example(b"", 1)])
    answer = generator[0].signatures["serving_default"](examples=asked)
    no_label = b"image/label must be in [0, 3)"
    assert answer["error"].numpy().tolist() == [b"", no_label, no_label, no_image]
    scored = generator[0].signatures["score"](image_bytes=tf.constant([good]), class_id=tf.constant([2]))
    assert answer["bits_per_token"][0] == scored["bits_per_token"][0]
    assert np.isfinite(answer["features"][0]).all()
    assert np.isnan(answer["features"][1:]).all()


def test_a_model_without_classes_needs_no_label(tmp_path):
    stand_ins.write_generator(str(tmp_path), class_names=())
    default = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    assert default(examples=tf.constant([example(grey(0.4).numpy()[0])]))["error"].numpy().tolist() == [b""]


def test_unknown_tokens_are_rejected_with_their_row(tokenizer):
    ask = tokenizer[0].signatures
    tokens = np.zeros([4, stand_ins.TOKENS], np.int32)
    tokens[2:, 1] = 16
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"tokens must be in \[0, 16\), got another in row\] \[2\]"
    ):
        ask["decode"](tokens=tokens)


def test_every_signature_is_warmed_up_by_a_request_that_it_answers(tokenizer, generator, classifier):
    for model, path in (tokenizer, generator, classifier):
        requests = dict(read_warmup(path))
        assert requests.keys() == set(model.signatures) - {"metadata"}
        for signature, inputs in requests.items():
            assert model.signatures[signature](**{k: tf.constant(v) for k, v in inputs.items()})


def test_images_of_more_pixels_than_the_model_takes_fail_by_row(tmp_path):
    own = dataclasses.replace(stand_ins.metadata("tokenizer"), max_image_pixels=200)
    export_tokenizer(str(tmp_path), tf.Module(), own, encode=stand_ins.encode, decode=stand_ins.decode)
    ask = tf.saved_model.load(str(tmp_path)).signatures
    large = images.encode_batch(tf.fill([1, 10, 21, 3], 0.4)).numpy()[0]
    right = images.encode_batch(tf.fill([1, 10, 20, 3], 0.4)).numpy()[0]
    reason = b"image must have at most 200 pixels"
    answer = ask["encode"](image_bytes=tf.constant([large, right]))
    assert answer["error"].numpy().tolist() == [reason, b""]
    answer = ask["serving_default"](examples=tf.constant([example(large), example(right)]))
    assert answer["error"].numpy().tolist() == [reason, b""]
