import numpy as np
import pytest

from components.metrics.codebook import CodebookUsageFn, PlacedTokens, Usage, perplexity


def measure(parts, codebook_size, order=None):
    """Measure parts that lie one behind the other in the set, added in another order."""
    fn = CodebookUsageFn(codebook_size)
    firsts = np.cumsum([0, *map(len, parts)])
    placed = [
        PlacedTokens(first + np.arange(len(part)), part) for first, part in zip(firsts, parts, strict=False)
    ]
    accumulators = [fn.add_input(fn.create_accumulator(), placed[at]) for at in order or range(len(parts))]
    return fn.extract_output(fn.merge_accumulators(accumulators))


def test_usage_counts_distinct_codes():
    measured = measure([np.array([[0, 1], [1, 1]])], 8)
    assert (measured.usage, measured.used) == (2 / 8, 2 / 8)


def test_perplexity_is_code_count_for_uniform_use_and_1_for_a_single_code():
    assert perplexity(np.full(16, 3)) == pytest.approx(16.0)
    assert perplexity(np.array([5, 0, 0])) == pytest.approx(1.0)


def test_usage_is_averaged_over_full_batches_of_256_images():
    # 256 images with code 0 only, 256 with codes 0 and 1, and 88 with code 3, which do not fill a batch.
    tokens = np.zeros([600, 2], np.int32)
    tokens[256:512, 1] = 1
    tokens[512:] = 3
    measured = measure([tokens], 4)
    assert measured.usage == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert (measured.batches, measured.batch_size) == (2, 256)
    assert measured.used == 3 / 4


@pytest.mark.parametrize("cuts", [[100, 300], [1, 255, 256], [0, 599]])
def test_usage_batches_do_not_depend_on_input_partition(cuts):
    tokens = np.random.default_rng(0).integers(0, 500, size=[600, 1])
    parts = np.split(tokens, cuts)
    expected = measure([tokens], 512)
    assert measure(parts, 512) == expected
    # Whoever comes first.
    assert measure(parts, 512, order=range(len(parts) - 1, -1, -1)) == expected


def test_set_smaller_than_a_batch_is_one_partial_batch():
    assert measure([np.array([[0, 1], [2, 2]])], 4) == Usage(
        3 / 4, 3 / 4, pytest.approx(2**1.5), 1, 2, (1, 1, 2, 0)
    )


def test_perplexity_covers_all_images():
    tokens = np.repeat([0, 1], 300)[:, None]
    assert measure([tokens], 4).perplexity == pytest.approx(2.0)


def test_usage_of_empty_set_is_nan():
    measured = measure([], 4)
    assert np.isnan(measured.usage)
    assert measured.batches == 0
