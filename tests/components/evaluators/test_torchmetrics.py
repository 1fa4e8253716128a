"""The numbers in torchmetrics' documentation, of random images that PyTorch's generator would give."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from components.evaluators.lpips import Lpips
from components.evaluators.protocols import open_protocol
from components.metrics.frechet import frechet_distance
from components.metrics.moments import moments

WEIGHTS = Path(__file__).parents[3].parent / "shared" / "data" / "weights"
INCEPTION, SQUEEZE = WEIGHTS / "inception_2015_to_mixed7", WEIGHTS / "lpips_squeeze"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (INCEPTION.exists() and SQUEEZE.exists()), reason=f"no Inception and no LPIPS in {WEIGHTS}"
    ),
]

# Draws that torchmetrics' Inception takes for its weights before it loads others.
INITIALIZATION = 23_816_528


def mersenne_twister(seed):
    """The 32-bit draws of PyTorch's generator on a CPU."""
    return np.random.RandomState(seed)._bit_generator


def integers(draws, low, high, shape):
    """As `torch.randint`, channels last."""
    taken = draws.random_raw(int(np.prod(shape))) % (high - low) + low
    return taken.astype(np.uint8).reshape(shape).transpose(0, 2, 3, 1)


def uniform(draws, shape):
    """As `torch.rand`, float32 of 24 bits, channels last."""
    taken = (draws.random_raw(int(np.prod(shape))) & 0xFFFFFF) * 2.0**-24
    return taken.astype(np.float32).reshape(shape).transpose(0, 2, 3, 1)


@pytest.mark.parametrize(("seed", "documented"), [(42, 12.6388), (123, 12.7202)])
def test_fid_is_the_documented_one(seed, documented):
    draws = mersenne_twister(seed)
    draws.random_raw(INITIALIZATION, output=False)
    network = open_protocol(f"savedmodel:{INCEPTION}#pool_64")
    sets = []
    for low, high in ((0, 200), (100, 255)):
        images = integers(draws, low, high, (100, 3, 299, 299))
        answers = [network.extract(images[start : start + 20]).features for start in range(0, 100, 20)]
        sets.append(moments(np.concatenate(answers)))
    assert frechet_distance(*sets) == pytest.approx(documented, rel=5e-5)


@pytest.mark.parametrize(
    ("count", "documented"), [(2, [0.1024, 0.0938]), (10, [0.1005])], ids=["each of 2", "mean of 10"]
)
def test_lpips_is_the_documented_one(count, documented):
    draws = mersenne_twister(42)
    a, b = (2.0 * uniform(draws, (count, 3, 100, 100)) - 1.0 for _ in range(2))
    distance = tf.saved_model.load(str(SQUEEZE)).signatures["distance"]
    found = distance(a=tf.constant(a), b=tf.constant(b))["distance"].numpy()
    found = found if len(documented) == count else [found.mean()]
    assert found == pytest.approx(documented, abs=6e-5)
    # The evaluator's own takes 8 bits, which moves it by less than it is printed with.
    levels = (np.rint((one + 1.0) * 127.5).astype(np.uint8) for one in (a, b))
    measured = Lpips(str(SQUEEZE)).load()(*levels)
    measured = measured if len(documented) == count else [measured.mean()]
    assert measured == pytest.approx(documented, abs=2e-4)
