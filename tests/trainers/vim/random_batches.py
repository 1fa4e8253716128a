"""Draw the same images in random batches, and count those that differ: `python -m ... BATCHES`.

The model is as wide as those whose products sum in other orders for other numbers of rows, and every image
has its own options. Both engines draw.
"""

from __future__ import annotations

import sys

import keras
import numpy as np
import tensorflow as tf

from serving.export.sampling_params import BatchSamplingParams, SamplingRequest
from trainers.training.config import Transformer
from trainers.vim.config import Model
from trainers.vim.config import Sampler as Options
from trainers.vim.model import VIM
from trainers.vim.sampler import Sampler

IMAGES, PLACES, CLASSES, LARGEST = 96, 4, 5, 80


def rows(request: SamplingRequest, which: tf.Tensor) -> SamplingRequest:
    """Take these rows, int32 [R]."""
    return tf.nest.map_structure(lambda of_rows: tf.gather(of_rows, which), request)


def main(batches: int) -> None:
    """Compare all images of so many batches, and print how many differ."""
    keras.utils.set_random_seed(0)
    size = Transformer(blocks=1, heads=12, width=768, hidden=768)
    vim = VIM(Model(transformer=size), tokens=PLACES, codebook_size=1024, classes=CLASSES)
    samplers = [Sampler(vim, Options(engine=engine)) for engine in ("jacobi", "sequential")]
    draws = [
        tf.function(
            lambda *parts, one=one: one(SamplingRequest(*parts)).tokens,
            autograph=False,
            reduce_retracing=True,
        )
        for one in samplers
    ]
    generator = np.random.default_rng(0)
    guidance = generator.choice([1.0, 1.5], IMAGES).astype(np.float32)
    whole = SamplingRequest(
        tf.constant(generator.integers(0, CLASSES, IMAGES), tf.int32),
        tf.range(IMAGES, dtype=tf.int64),
        BatchSamplingParams(
            tf.constant(generator.choice([0.8, 1.0], IMAGES), tf.float32),
            tf.constant(generator.choice([0, 0, 0, 50], IMAGES), tf.int32),
            tf.constant(generator.choice([1.0, 1.0, 1.0, 0.9], IMAGES), tf.float32),
            tf.constant(guidance),
            tf.constant(guidance),
        ),
        tf.constant(generator.integers(0, 1024, [IMAGES, PLACES]), tf.int32),
        tf.constant(generator.choice([0, 0, 2], IMAGES), tf.int32),
    )
    alone = np.concatenate([draws[0](*rows(whole, tf.constant([image]))).numpy() for image in range(IMAGES)])
    drawn = differ = 0
    for number in range(batches):
        chosen = generator.integers(0, IMAGES, generator.integers(1, LARGEST))
        if number % 2:  # without guidance a group has other images
            chosen = chosen[guidance[chosen] == 1.0]
            if not len(chosen):
                continue
        tokens = draws[number % 3 == 0](*rows(whole, tf.constant(chosen, tf.int32))).numpy()
        drawn += len(chosen)
        differ += int((tokens != alone[chosen]).any(axis=1).sum())
    print(f"{differ} of {drawn} images differ")


if __name__ == "__main__":
    main(int(sys.argv[1]))
