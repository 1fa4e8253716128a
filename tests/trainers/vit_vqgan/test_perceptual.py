import re
import socket
import zipfile

import keras
import numpy as np
import pydantic
import pytest
import tensorflow as tf

from tests.trainers.precision import bfloat16
from tests.trainers.vit_vqgan.distances import LPIPS, PHOTOS, needs_lpips, saved, untrained_vgg16
from trainers.training.errors import TrainingError
from trainers.vit_vqgan import perceptual
from trainers.vit_vqgan.config import Perceptual


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of VGG16: the tests check the distance, not what ImageNet taught."""
    keras.utils.set_random_seed(0)
    return untrained_vgg16(tmp_path_factory.mktemp("vgg16"))


@pytest.fixture(scope="module")
def vgg16(weights):
    return perceptual.load_distance(Perceptual(weights=weights))


def pictures(count: int = 2, side: int = 32, seed: int = 0) -> tf.Tensor:
    return tf.random.stateless_uniform([count, side, side, 3], seed=[seed, 0])


def noise_of(strength: float) -> tf.Tensor:
    return strength * tf.random.stateless_normal([2, 32, 32, 3], seed=[1, 1])


def refusal(options: Perceptual) -> str:
    with pytest.raises(TrainingError) as caught:
        perceptual.load_distance(options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# The distance of features.


def test_unit_normalized_distance_matches_closed_form():
    # The cosine of (3, 4) and (4, 3) is 24 / 25, hence 2 - 48 / 25 = 0.08, whatever their lengths.
    first = [[[[3.0, 4.0]]]], [[[[40.0, 30.0]]]]
    # Of two positions one agrees and one is orthogonal: (0 + 2) / 2.
    second = [[[[1.0, 0.0], [1.0, 0.0]]]], [[[[5.0, 0.0], [0.0, 7.0]]]]
    a, b = ([tf.constant(layer) for layer in layers] for layers in zip(first, second, strict=True))
    np.testing.assert_allclose(perceptual.unit_normalized(a, b), [0.08 + 1.0], rtol=1e-5)


def test_zero_features_give_a_finite_distance_and_gradient():
    silent, loud = tf.zeros([1, 1, 1, 4]), tf.ones([1, 1, 1, 4])
    for a in (silent, loud):
        with tf.GradientTape() as tape:
            tape.watch(silent)
            distance = perceptual.unit_normalized([a], [silent])
        assert np.isfinite(tape.gradient(distance, silent)).all()
    np.testing.assert_allclose(distance, [1.0], rtol=1e-5)


# VGG16.


def test_identical_images_have_distance_zero(vgg16):
    np.testing.assert_array_equal(vgg16(pictures(), pictures()), [0.0, 0.0])


def test_distance_is_symmetric_and_independent_of_the_batch(vgg16):
    a, b = pictures(seed=0), pictures(seed=1)
    np.testing.assert_allclose(vgg16(a, b), vgg16(b, a), rtol=1e-5)
    np.testing.assert_allclose(vgg16(a, b)[1:], vgg16(a[1:], b[1:]), rtol=1e-4)


def test_distance_grows_with_noise(vgg16):
    near, middle, far = (vgg16(pictures(), pictures() + noise_of(strength)) for strength in (0.02, 0.1, 0.5))
    assert (near.numpy() > 0).all()
    assert (near < middle).numpy().all()
    assert (middle < far).numpy().all()


def test_vgg16_distance_uses_imagenet_preprocessing_and_five_relus(vgg16, weights):
    # Run the network layer by layer, with ImageNet's mean in BGR subtracted by hand.
    network = keras.applications.VGG16(include_top=False, weights=weights)
    read = {"block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3"}

    def directions(pixels: np.ndarray) -> list[np.ndarray]:
        x = 255.0 * pixels[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
        found = []
        for layer in network.layers[1:]:
            x = layer(x)
            if layer.name in read:
                found.append(x.numpy() / np.linalg.norm(x, axis=-1, keepdims=True))
        return found

    a, b = pictures(seed=0).numpy(), pictures(seed=1).numpy()
    wanted = [
        np.square(u - v).sum(-1).mean((1, 2)) for u, v in zip(directions(a), directions(b), strict=True)
    ]
    assert len(wanted) == 5
    np.testing.assert_allclose(vgg16(a, b), np.sum(wanted, axis=0), rtol=1e-4)


def test_gradients_reach_the_second_image_and_are_finite_if_equal(vgg16):
    black = tf.zeros([1, 16, 16, 3])
    for a, b in ((pictures(1, 16), pictures(1, 16, seed=1)), (black, black)):
        with tf.GradientTape() as tape:
            tape.watch(b)
            distance = vgg16(a, b)
        gradient = tape.gradient(distance, b).numpy()
        assert np.isfinite(gradient).all()
        assert gradient.any() == (distance > 0).numpy().all()


def test_frozen_network_has_no_trainable_variables(vgg16):
    with tf.GradientTape() as tape:
        vgg16(pictures(1, 16), pictures(1, 16, seed=1))
    assert not tape.watched_variables()


def test_distances_are_float32_under_bfloat16(vgg16, weights):
    with bfloat16():
        half = perceptual.load_distance(Perceptual(weights=weights))(pictures(), pictures(seed=1))
    assert half.dtype == tf.float32
    np.testing.assert_allclose(half, vgg16(pictures(), pictures(seed=1)), rtol=0.02)


@pytest.mark.slow
def test_distance_and_gradient_match_under_xla(vgg16):
    def both(a, b):
        with tf.GradientTape() as tape:
            tape.watch(b)
            distance = vgg16(a, b)
        return distance, tape.gradient(distance, b)

    a, b = pictures(1, 16), pictures(1, 16, seed=1)
    for plain, compiled in zip(both(a, b), tf.function(both, jit_compile=True)(a, b), strict=True):
        np.testing.assert_allclose(plain, compiled, rtol=1e-3, atol=1e-6)


def test_images_too_small_for_vgg16_are_refused(vgg16):
    with pytest.raises(TrainingError, match=r"image size must be at least 16 .* vgg16 and lpips_vgg, got 8"):
        vgg16(pictures(1, 8), pictures(1, 8))


def test_missing_weights_file_is_a_one_line_error():
    assert (
        refusal(Perceptual(weights="nowhere.h5"))
        == "perceptual.weights must be an existing file, got 'nowhere.h5'"
    )


@pytest.mark.parametrize("name", ["other.h5", "other.weights.h5", "other.npz"])
def test_unreadable_weights_are_a_one_line_error(tmp_path, name):
    path = tmp_path / name
    path.write_text("no weights")
    assert "must be VGG16's without its top" in refusal(Perceptual(weights=str(path)))


def test_weights_of_another_network_are_a_one_line_error(tmp_path):
    path = str(tmp_path / "small.weights.h5")
    keras.Sequential([keras.layers.Input([4]), keras.layers.Dense(2)]).save_weights(path)
    assert "must be VGG16's without its top" in refusal(Perceptual(weights=path))


def test_download_timeout_is_a_one_line_error_that_says_where_to_put_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    monkeypatch.setattr(perceptual, "DOWNLOAD_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # It accepts connections and never answers.
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")
        message = refusal(Perceptual())
    assert "cannot be downloaded" in message
    assert f"{perceptual.VGG16_FILE} into ~/.keras/models" in message
    assert "`weights`" in message
    assert socket.getdefaulttimeout() is None
    assert not list(tmp_path.rglob("*.h5"))


# SavedModels.


def test_savedmodel_gets_pixels_in_plus_minus_one_and_any_output_name(tmp_path):
    distance = perceptual.load_distance(Perceptual(network=saved(tmp_path)))
    black, grey = tf.zeros([2, 8, 8, 3]), tf.fill([2, 8, 8, 3], 0.3)
    with tf.GradientTape() as tape:
        tape.watch(grey)
        far = distance(black, grey)
    # In [-1, 1] they differ by 0.6: (0.5 0.6)^2, whose derivative in the pixel is 2 0.3 (0.5 2) / pixels.
    np.testing.assert_allclose(far, [0.09, 0.09], rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(far, grey), np.full([2, 8, 8, 3], 0.6 / 192), rtol=1e-5)
    assert not tape.watched_variables()


def test_folder_without_a_savedmodel_is_a_one_line_error(tmp_path):
    message = refusal(Perceptual(network=f"savedmodel:{tmp_path}"))
    assert message == f"perceptual.network savedmodel:{tmp_path} must be a folder with a SavedModel"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"signature": "features"}, "must have a signature `distance`, got ['features']"),
        ({"inputs": ("x", "y")}, "must have inputs a and b and one output, got ['x', 'y'] and ['how_far']"),
    ],
)
def test_savedmodel_with_another_signature_is_a_one_line_error(tmp_path, options, reason):
    assert reason in refusal(Perceptual(network=saved(tmp_path, **options)))


def photographs(count: int, side: int) -> tf.Tensor:
    with zipfile.ZipFile(PHOTOS) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[:count]
        images = [tf.io.decode_jpeg(archive.read(name)) for name in names]
    return tf.image.resize(tf.stack(images), [side, side], antialias=True) / 255.0


def test_savedmodel_is_inlined_in_the_graph_with_constant_weights(tmp_path):
    distance = perceptual.load_distance(Perceptual(network=saved(tmp_path)))

    @tf.function
    def gradient_at(a, b):
        return tf.gradients(distance(a, b), b)

    graph = gradient_at.get_concrete_function(pictures(), pictures()).graph
    # In the gradient of a call, XLA takes even constants for results of the call and recompiles each step.
    kinds = {operation.type for operation in graph.get_operations()}
    assert not kinds & {"PartitionedCall", "StatefulPartitionedCall", "ReadVariableOp"}


def test_savedmodel_loads_in_a_strategy_scope(tmp_path):
    network = saved(tmp_path)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        distance = perceptual.load_distance(Perceptual(network=network))
    black, grey = tf.zeros([2, 8, 8, 3]), tf.fill([2, 8, 8, 3], 0.3)
    far = tf.function(lambda: strategy.run(distance, args=(black, grey)))()
    np.testing.assert_allclose(far, [0.09, 0.09], rtol=1e-5)


@needs_lpips
@pytest.mark.parametrize("folder", LPIPS, ids=lambda path: path.name)
def test_lpips_distance_of_photographs_grows_with_noise(folder):
    distance = perceptual.load_distance(Perceptual(network=f"savedmodel:{folder}"))
    photos = photographs(2, 32)
    np.testing.assert_allclose(distance(photos, photos), [0.0, 0.0], atol=1e-6)
    near, far = distance(photos, photos + noise_of(0.05)), distance(photos, photos + noise_of(0.3))
    assert (near.numpy() > 0).all()
    assert (near < far).numpy().all()


@needs_lpips
@pytest.mark.slow
def test_gradient_descent_on_lpips_lowers_the_distance():
    distance = perceptual.load_distance(Perceptual(network=f"savedmodel:{LPIPS[0]}"))
    photos = photographs(2, 32)

    @tf.function(jit_compile=True)
    def gradient_at(pixels):
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            far = distance(photos, pixels)
        return far, tape.gradient(far, pixels)

    pixels = photos + noise_of(0.2)
    first, _ = gradient_at(pixels)
    np.testing.assert_allclose(first, distance(photos, pixels), rtol=1e-4)
    for _ in range(3):
        pixels -= 0.03 * tf.sign(gradient_at(pixels)[1])
    last, _ = gradient_at(pixels)
    assert (last < 0.8 * first).numpy().all()
    assert np.isfinite(gradient_at(photos)[1]).all()


# The configuration.


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"network": "vgg19"}, "network must be vgg16, lpips_vgg or savedmodel:PATH, got 'vgg19'"),
        (
            {"network": "savedmodel:"},
            "network must be vgg16, lpips_vgg or savedmodel:PATH, got 'savedmodel:'",
        ),
        (
            {"network": "savedmodel:lpips", "weights": "vgg16.h5"},
            "weights must be absent for savedmodel:lpips, which holds its own, got 'vgg16.h5'",
        ),
    ],
)
def test_invalid_network_options_are_refused(options, reason):
    with pytest.raises(pydantic.ValidationError, match=reason):
        Perceptual(**options)


# LPIPS with VGG16, against its definition in NumPy.

LAYERS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def lpips_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    random, arrays, inputs = np.random.default_rng(seed), {}, 3
    for block, widths in enumerate(LAYERS, 1):
        for place, width in enumerate(widths, 1):
            name = f"block{block}_conv{place}"
            kernel = random.normal(size=[3, 3, inputs, width]) * np.sqrt(2 / (9 * inputs))
            arrays |= {f"{name}/kernel": kernel, f"{name}/bias": 0.1 * random.normal(size=[width])}
            inputs = width
        arrays[f"{name}/weight"] = random.uniform(0, 0.2, [width])
    return {key: value.astype(np.float32) for key, value in arrays.items()}


def lpips_of_numpy(arrays: dict[str, np.ndarray], a: np.ndarray, b: np.ndarray) -> float:
    """The published distance of two images [S, S, 3] in [-1, 1]: networks.py and lpips.py of richzhang."""
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    features = (a - shift) / scale, (b - shift) / scale
    total = 0.0
    for block, widths in enumerate(LAYERS, 1):
        if block > 1:
            features = tuple(
                np.max(x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1), axis=(1, 3)) for x in features
            )
        for place in range(1, len(widths) + 1):
            name = f"block{block}_conv{place}"
            kernel, bias = arrays[f"{name}/kernel"], arrays[f"{name}/bias"]
            features = tuple(convolved(x, kernel, bias) for x in features)
        of_a, of_b = (x / (np.sqrt(np.sum(x**2, axis=-1, keepdims=True)) + 1e-10) for x in features)
        total += float(np.mean(np.sum(arrays[f"{name}/weight"] * (of_a - of_b) ** 2, axis=-1)))
    return total


def convolved(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    padded = np.pad(x, [(1, 1), (1, 1), (0, 0)])
    rows, columns = x.shape[:2]
    taps = [
        padded[row : row + rows, column : column + columns] @ kernel[row, column]
        for row in range(3)
        for column in range(3)
    ]
    return np.maximum(sum(taps) + bias, 0)


def test_lpips_vgg_matches_its_definition_in_numpy(tmp_path):
    path, arrays = str(tmp_path / "lpips_vgg.npz"), lpips_arrays()
    np.savez(path, **arrays)
    distance = perceptual.load_distance(Perceptual(network="lpips_vgg", weights=path))
    a, b = pictures(seed=0), pictures(seed=1)
    expected = [
        lpips_of_numpy(arrays, 2 * x - 1, 2 * y - 1) for x, y in zip(a.numpy(), b.numpy(), strict=True)
    ]
    np.testing.assert_allclose(distance(a, b), expected, rtol=1e-4)
    np.testing.assert_array_equal(distance(a, a), [0.0, 0.0])
    with tf.GradientTape() as tape:
        tape.watch(b)
        total = tf.reduce_sum(distance(a, b))
    assert tape.watched_variables() == ()  # the network is frozen
    assert np.abs(tape.gradient(total, b)).max() > 0


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (
            lambda arrays: arrays.pop("block5_conv3/weight"),
            "block5_conv3/weight is not a file in the archive",
        ),
        (
            lambda arrays: arrays.update({"block1_conv2/bias": np.zeros(3)}),
            r"block1_conv2/bias must be of shape \(64,\), got \(3,\)",
        ),
        (
            lambda arrays: arrays.update({"block1_conv2/bias": np.array([{}] * 64, object)}),
            "Object arrays cannot be loaded",
        ),
    ],
)
def test_unfit_lpips_file_is_refused(tmp_path, broken, complaint):
    arrays = lpips_arrays()
    broken(arrays)
    np.savez(tmp_path / "lpips.npz", **arrays)
    message = refusal(Perceptual(network="lpips_vgg", weights=str(tmp_path / "lpips.npz")))
    assert message.startswith("perceptual.weights of network lpips_vgg")
    assert re.search(complaint, message)


def test_lpips_file_that_is_missing_or_no_archive_is_refused(tmp_path):
    missing = str(tmp_path / "none.npz")
    assert f"must be an existing file, got '{missing}'" in refusal(
        Perceptual(network="lpips_vgg", weights=missing)
    )
    (tmp_path / "page.npz").write_text("<html>404</html>")
    assert "must be an .npz file" in refusal(
        Perceptual(network="lpips_vgg", weights=str(tmp_path / "page.npz"))
    )
    with open(tmp_path / "array.npz", "wb") as file:
        np.save(file, np.zeros(3))
    assert "must be an .npz file" in refusal(
        Perceptual(network="lpips_vgg", weights=str(tmp_path / "array.npz"))
    )


def test_lpips_vgg_needs_a_file():
    with pytest.raises(pydantic.ValidationError, match="file for network lpips_vgg, got none"):
        Perceptual(network="lpips_vgg")
