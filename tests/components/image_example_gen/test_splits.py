from collections import Counter

from components.image_example_gen.splits import split_of

KEYS = [f"class/{index}.jpg" for index in range(4000)]


def test_split_sizes_match_the_shares():
    counts = Counter(split_of(key, {"train": 85, "eval": 15}) for key in KEYS)
    # Three standard deviations of a binomial with p = 0.15: sqrt(4000 * 0.15 * 0.85) = 22.6.
    assert abs(counts["eval"] - 600) < 68


def test_larger_share_gets_more_images():
    small, large = {"train": 9, "eval": 1}, {"train": 8, "eval": 2}
    assert {split_of(key, small) for key in KEYS} == {"train", "eval"}
    assert split_of("digits/0000", small) == split_of("digits/0000", dict(small))
    assert Counter(split_of(key, large) for key in KEYS)["eval"] > 700


def test_split_of_a_known_key_is_stable():
    # sha256("a") begins with 0xca978112ca1bbdca, which is 0 mod 10.
    shares = {"train": 9, "eval": 1}
    assert int("ca978112ca1bbdca", 16) % 10 < 9
    assert split_of("a", shares) == "train"
