import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from trainers.vim import gumbel


def noise(seeds, places: int, codes: int) -> np.ndarray:
    """[B, N, K]"""
    return gumbel.noise(gumbel.keys(tf.constant(list(seeds), tf.int64), places), codes).numpy()


@pytest.mark.parametrize("codes", [1, 5, 128])
def test_noise_has_the_gumbel_distribution(codes):
    drawn = noise(range(40), 50, codes).ravel()
    assert stats.kstest(drawn, "gumbel_r").pvalue > 1e-3


def test_first_code_of_many_places_has_the_gumbel_distribution():
    # Of one code alone: its number must not show in the noise.
    assert stats.kstest(noise(range(20), 1024, 3)[..., 0].ravel(), "gumbel_r").pvalue > 1e-3


@pytest.mark.parametrize("apart", [1, 2, 3, 64, 1000])
def test_codes_are_uncorrelated(apart):
    drawn = stats.gumbel_r.cdf(noise([7], 64, 4096)[0])
    pairs = np.corrcoef(drawn[:, :-apart].ravel(), drawn[:, apart:].ravel())[0, 1]
    assert abs(pairs) < 4 / np.sqrt(drawn[:, apart:].size)


def test_places_and_neighbouring_seeds_are_uncorrelated():
    drawn = stats.gumbel_r.cdf(noise([2**40, 2**40 + 1], 64, 4096))
    for one, other in ((drawn[0, :-1], drawn[0, 1:]), (drawn[0], drawn[1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(one.size)


def test_largest_of_logits_and_noise_follows_the_softmax():
    logits = np.log(np.array([0.1, 0.4, 0.05, 0.3, 0.15]))
    tokens = (noise(range(200), 100, 5) + logits).argmax(axis=-1).ravel()
    counts = np.bincount(tokens, minlength=5)
    assert stats.chisquare(counts, len(tokens) * np.exp(logits)).pvalue > 1e-3


def test_noise_follows_from_the_seed_and_place_alone():
    together = noise([3, 4, 5], 6, 20)
    np.testing.assert_array_equal(noise([4], 6, 20)[0], together[1])
    np.testing.assert_array_equal(noise([4, 3], 2, 20)[0], together[1, :2])
    assert np.any(together[0] != together[1])


def test_xla_draws_the_same_keys_and_noise():
    seeds = tf.range(3, dtype=tf.int64)

    def both(seeds):
        keys = gumbel.keys(seeds, 4)
        return keys, gumbel.noise(keys, 9)

    plain, compiled = both(seeds), tf.function(both, jit_compile=True)(seeds)
    np.testing.assert_array_equal(plain[0], compiled[0])
    np.testing.assert_allclose(plain[1], compiled[1], rtol=1e-5)
