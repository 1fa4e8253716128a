import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from components.evaluators.network_names import ProtocolError
from components.evaluators.protocols import open_protocol, version
from tests import stand_ins

pytestmark = pytest.mark.slow

LEVELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


def frozen(path, *, pool="pool_3", bias=True):
    """A graph with the nodes of the frozen Inception: mean colour as features, two classes."""
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], "ExpandDims")
        pooled = tf.reduce_mean(images, axis=[1, 2], keepdims=True, name=pool)
        kernel = tf.constant([[0.02, -0.01], [0.0, 0.01], [-0.01, 0.0]], name="softmax/weights")
        logits = tf.matmul(tf.squeeze(pooled, [1, 2]), kernel, name="softmax/logits/MatMul")
        if bias:
            tf.nn.softmax(tf.add(logits, [5.0, -5.0]), name="softmax")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return str(path)


def saved_model(path, dtype=tf.uint8, scale=1.0):
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], dtype, "images")])
    def features(images):
        mean = scale * tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2])
        return {"mean": mean, "map": tf.cast(images, tf.float32)}

    tf.saved_model.save(tf.Module(), str(path), signatures={"features": features})
    return str(path)


def test_the_frozen_inception_gives_pooled_features_and_softmax_without_bias(tmp_path):
    network = open_protocol(f"inception_2015:{frozen(tmp_path / 'graph.pb')}")
    answer = network.extract(LEVELS)
    mean = LEVELS.mean(axis=(1, 2))
    np.testing.assert_allclose(answer.features, mean, rtol=1e-5)
    logits = mean @ [[0.02, -0.01], [0.0, 0.01], [-0.01, 0.0]]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answer.probabilities, expected, rtol=1e-4)
    assert network.name == "inception_2015"
    assert len(network.digest) == 16


def torch_inception(path, *, channels_first=True, logits="logits_unbiased"):
    """A SavedModel of the form of torch-fidelity's network: mean colour, and twice that as logits."""
    shape = [None, 3, None, None] if channels_first else [None, None, None, 3]

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8, "input")])
    def features(input):
        mean = tf.reduce_mean(tf.cast(input, tf.float32), axis=[2, 3] if channels_first else [1, 2])
        return {"2048": mean, logits: 2.0 * mean}

    tf.saved_model.save(tf.Module(), str(path), signatures={"features": features})
    return str(path)


def onnx_file(path, dtype, shape, outputs=("mean",), inputs=("images",)):
    """An ONNX file: the mean colour of images of these axes, once an output."""
    axes = [2, 3] if shape[1] == 3 else [1, 2]
    cast = helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT)
    means = [helper.make_node("ReduceMean", ["numbers"], [name], axes=axes, keepdims=0) for name in outputs]
    graph = helper.make_graph(
        [cast, *means],
        "mean",
        [helper.make_tensor_value_info(name, dtype, shape) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 3]) for name in outputs],
    )
    opset = [helper.make_opsetid("", 17)]
    path.write_bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())
    return str(path)


BYTES, FLOATS = TensorProto.UINT8, TensorProto.FLOAT


def test_an_onnx_file_of_8_bit_images_gives_the_output_that_is_named(tmp_path):
    text = f"onnx:{onnx_file(tmp_path / 'net.onnx', BYTES, ['rows', 'high', 'wide', 3])}#mean"
    network = open_protocol(text)
    answer = network.extract(LEVELS)
    np.testing.assert_allclose(answer.features, LEVELS.mean(axis=(1, 2)), rtol=1e-5)
    assert answer.probabilities.shape == (3, 0)
    assert (network.name, network.digest) == ("onnx#mean", version(text))


def test_an_onnx_file_of_normalized_images_gets_them_as_pytorch_orders_them(tmp_path):
    path = onnx_file(tmp_path / "net.onnx", FLOATS, ["rows", 3, 8, 8])
    network = open_protocol(f"dinov2:{path}#mean")
    seen = (LEVELS.mean(axis=(1, 2)) / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(network.extract(LEVELS).features, seen, rtol=1e-4, atol=1e-5)
    assert (network.name, network.resize) == ("dinov2#mean", "bicubic to 8 (Pillow)")


def test_torch_fidelitys_inception_may_be_an_onnx_file(tmp_path):
    path = onnx_file(tmp_path / "net.onnx", BYTES, ["rows", 3, "high", "wide"], ("2048", "logits_unbiased"))
    network = open_protocol(f"inception_fid:{path}#2048")
    answer = network.extract(LEVELS)
    mean = LEVELS.mean(axis=(1, 2))
    np.testing.assert_allclose(answer.features, mean, rtol=1e-5)
    np.testing.assert_allclose(answer.probabilities, tf.nn.softmax(mean), rtol=1e-3)
    assert network.has_probabilities


def test_onnx_files_that_do_not_fit_are_one_line(tmp_path):
    def refused(kind, path, line, output="mean"):
        with pytest.raises(ProtocolError, match=line) as raised:
            open_protocol(f"{kind}:{path}#{output}")
        assert "\n" not in str(raised.value)

    net = tmp_path / "net.onnx"
    refused(
        "onnx", onnx_file(net, BYTES, [1, "h", "w", 3]), "must take any number of images, got input images"
    )
    refused("onnx", onnx_file(net, FLOATS, ["b", "h", "w", 3]), "must take uint8, got float32")
    refused("clip", onnx_file(net, FLOATS, ["b", 3, "h", "w"]), "with a known S, got float32")
    refused(
        "onnx", onnx_file(net, BYTES, ["b", "h", "w", 3]), r"must be one it has \(mean\), got 'deep'", "deep"
    )
    onnx_file(net, BYTES, ["b", "h", "w", 3], inputs=("images", "tokens"))
    refused("onnx", net, "must have one input, got images, tokens")
    model = onnx.load(onnx_file(net, BYTES, ["b", "h", "w", 3]))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(300, np.float32), "zeros"))
    onnx.save(model, net, save_as_external_data=True, size_threshold=0, location="net.data")
    refused("onnx", net, "must hold its weights itself")
    net.write_bytes(b"no network")
    refused("onnx", net, "cannot be loaded")


@pytest.mark.parametrize("channels_first", [True, False])
def test_torch_fidelitys_inception_takes_8_bits_and_has_probabilities(tmp_path, channels_first):
    network = open_protocol(f"inception_fid:{torch_inception(tmp_path, channels_first=channels_first)}#2048")
    answer = network.extract(LEVELS)
    mean = LEVELS.mean(axis=(1, 2))
    np.testing.assert_allclose(answer.features, mean, rtol=1e-5)
    expected = np.exp(2.0 * mean) / np.exp(2.0 * mean).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answer.probabilities, expected, rtol=1e-3)
    assert (network.name, network.has_probabilities) == ("inception_fid#2048", True)


def test_without_unbiased_logits_it_has_no_probabilities(tmp_path):
    network = open_protocol(f"inception_fid:{torch_inception(tmp_path, logits='logits')}#2048")
    assert not network.has_probabilities
    assert network.extract(LEVELS).probabilities.shape == (3, 0)


def test_any_saved_model_gives_the_output_that_is_named(tmp_path):
    network = open_protocol(f"savedmodel:{saved_model(tmp_path / 'model')}#mean")
    answer = network.extract(LEVELS)
    np.testing.assert_allclose(answer.features, LEVELS.mean(axis=(1, 2)), rtol=1e-5)
    assert answer.probabilities.shape == (3, 0)
    assert network.name == "savedmodel#mean"


def test_a_classifier_of_a_run_gives_its_features(tmp_path):
    stand_ins.write_classifier(str(tmp_path / "classifier"))
    network = open_protocol(f"classifier:{tmp_path / 'classifier'}")
    answer = network.extract(LEVELS)
    np.testing.assert_allclose(answer.probabilities.sum(axis=1), 1.0, rtol=1e-5)
    assert network.resize == "none: images must have 8 pixels a side"
    assert network.digest == version(f"classifier:{tmp_path / 'classifier'}")


def test_the_digest_is_of_the_weights(tmp_path):
    first = open_protocol(f"inception_2015:{frozen(tmp_path / 'a.pb')}")
    second = open_protocol(f"inception_2015:{frozen(tmp_path / 'b.pb', bias=False)}")
    assert first.digest != second.digest
    assert first.digest == version(f"inception_2015:{tmp_path / 'a.pb'}")
    place = f"savedmodel:{saved_model(tmp_path / 'model')}#mean"
    assert open_protocol(place).digest == version(place)


def normalized(path, shape):
    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, "pixels")])
    def embed(pixels):
        return {"seen": tf.reshape(pixels, [tf.shape(pixels)[0], -1])}

    tf.saved_model.save(tf.Module(), str(path), signatures={"serving_default": embed})
    return str(path)


@pytest.mark.parametrize(
    ("kind", "mean", "deviation"),
    [
        ("dinov2", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("clip", [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    ],
)
def test_networks_that_want_normalized_images_get_them_in_either_order_of_axes(
    tmp_path, kind, mean, deviation
):
    wanted = (LEVELS / 255.0 - mean) / deviation
    for name, shape, seen in (
        ("last", [None, 8, 8, 3], wanted),
        ("first", [None, 3, 8, 8], wanted.transpose(0, 3, 1, 2)),
    ):
        network = open_protocol(f"{kind}:{normalized(tmp_path / name, shape)}#seen")
        answer = network.extract(LEVELS)
        np.testing.assert_allclose(answer.features, seen.reshape(3, -1), rtol=1e-5, atol=1e-6)
        assert answer.probabilities.shape == (3, 0)
        assert (network.name, network.resize) == (f"{kind}#seen", "bicubic to 8 (Pillow)")


def test_images_of_another_size_are_resized_as_pillow_does(tmp_path):
    network = open_protocol(f"dinov2:{normalized(tmp_path / 'model', [None, 4, 4, 3])}#seen")
    half = np.stack(
        [np.asarray(Image.fromarray(one).resize((4, 4), Image.Resampling.BICUBIC)) for one in LEVELS]
    )
    small = open_protocol(f"dinov2:{tmp_path / 'model'}#seen").extract(half)
    np.testing.assert_array_equal(network.extract(LEVELS).features, small.features)
    with pytest.raises(
        ProtocolError, match=r"must take float32 \[B, S, S, 3\] or \[B, 3, S, S\] with a known S"
    ):
        open_protocol(f"clip:{normalized(tmp_path / 'any', [None, None, None, 3])}#seen")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "inception",
            "features must be one of classifier:PATH, inception_2015:FILE.pb, inception_fid:PATH#OUTPUT",
        ),
        ("dinov3:/x", "features must be one of"),
        ("inception_2015:/nowhere.pb", "must be the file of the frozen graph"),
        ("classifier:/nowhere", "must be the folder of a SavedModel, got /nowhere"),
        ("savedmodel:/nowhere", "features must be savedmodel:PATH#OUTPUT"),
        ("savedmodel:/nowhere#x", "must be the folder of a SavedModel, got /nowhere"),
        ("onnx:/nowhere.onnx#x", "the feature network must be an ONNX file, got /nowhere.onnx"),
        ("dinov2:/nowhere.onnx#x", "the feature network must be an ONNX file, got /nowhere.onnx"),
        ("onnx:/nowhere#x", "features must be onnx:FILE.onnx#OUTPUT, got"),
        ("savedmodel:/nowhere.onnx#x", "features must be savedmodel:PATH#OUTPUT, got"),
    ],
)
def test_a_network_that_is_not_there_is_one_line_and_none_stands_in(text, message):
    with pytest.raises(ProtocolError, match=message):
        open_protocol(text)


def test_other_networks_are_refused(tmp_path):
    with pytest.raises(ProtocolError, match="must have the node pool_3 of Inception of 2015"):
        open_protocol(f"inception_2015:{frozen(tmp_path / 'other.pb', pool='pool_4')}")
    (tmp_path / "text.pb").write_text("no graph")
    with pytest.raises(ProtocolError, match="cannot be loaded"):
        open_protocol(f"inception_2015:{tmp_path / 'text.pb'}")
    model = saved_model(tmp_path / "model")
    with pytest.raises(
        ProtocolError, match=r"must be one of a signature with one input \(map, mean\), got 'deep'"
    ):
        open_protocol(f"savedmodel:{model}#deep")
    with pytest.raises(ProtocolError, match=r"features must be \[B, D\], got \[3, 8, 8, 3\]"):
        open_protocol(f"savedmodel:{model}#map").extract(LEVELS)
    floats = saved_model(tmp_path / "floats", tf.float32)
    with pytest.raises(ProtocolError, match="must take uint8, got float32"):
        open_protocol(f"savedmodel:{floats}#mean")
