"""VIM's forward pass for some places of each image, the earlier ones from the KV cache."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from trainers.attention import attend
from trainers.kv_cache import Cache, KVCache
from trainers.transformer import Kernels
from trainers.vim.model import VIM


@dataclass(frozen=True)
class Weights:
    """What does not change while images are drawn, read once.

    Attributes:
      blocks: the kernels of each block.
      logits: the kernel of the last product, float32.
      places: position embeddings [N, D].
    """

    blocks: list[Kernels]
    logits: tf.Tensor
    places: tf.Tensor

    @classmethod
    def of(cls, model: VIM, dtype: tf.DType) -> Weights:
        """Read the weights of a model, kernels in a precision."""
        return cls(
            [block.kernels(dtype) for block in model.blocks],
            # float32 in any precision: bfloat16 would round what is compared.
            tf.convert_to_tensor(model.logits.kernel),
            model.position_embeddings(),
        )


@dataclass(frozen=True)
class CachedVIM:
    """A VIM that draws R rows.

    Attributes:
      model: the image model.
      weights: its weights.
      starts: [R, D], the embeddings that images start with.
      cache: the layout of each block's cache.
    """

    model: VIM
    weights: Weights
    starts: tf.Tensor
    cache: Cache

    def logits(
        self, before: tf.Tensor, place: tf.Tensor, caches: list[KVCache], chunks: tf.Tensor | int
    ) -> tuple[tf.Tensor, list[KVCache]]:
        """Compute the logits of W places of each row.

        Args:
          before: int32 [R, W], the token before each place; any at place 0.
          place: int32 [R, W], consecutive in a row.
          caches: of all blocks, filled before the first place of each row; these places are written.
          chunks: how many chunks of the cache are read; they must hold all places.

        Returns:
          float32 [R, W, K], and the updated caches.
        """
        model, cache = self.model, self.cache
        window = tf.shape(place)[1]
        addresses = cache.addresses(place)
        updated: list[KVCache] = []

        def by_row(of_slots: tf.Tensor) -> tf.Tensor:
            return tf.reshape(of_slots, [-1, window, *of_slots.shape[1:]])

        x = tf.where(
            place[..., tf.newaxis] == 0,
            self.starts[:, tf.newaxis],
            tf.gather(model.token_embedding, before),
        ) + tf.gather(self.weights.places, place)
        x = tf.reshape(x, [-1, x.shape[-1]])
        for block, kernels, own in zip(model.blocks, self.weights.blocks, caches, strict=True):

            def attend_cached(
                queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, own: KVCache = own
            ) -> tf.Tensor:
                updated.append(cache.write(own, by_row(keys), by_row(values), addresses))
                return cache.attend(updated[-1], by_row(queries), place, chunks)

            x = block.decode(x, kernels, attend_cached)
        logits = model.logits.of_rows(model.norm.by_row(x), self.weights.logits)
        return tf.reshape(logits, [-1, window, model.codebook_size]), updated

    def prefilled(self, prompt: tf.Tensor) -> list[KVCache]:
        """The caches after prompts int32 [R, N], all places in one pass.

        Image by image: products have N rows in any batch. What is behind a prompt's end is written over when
        it is drawn.
        """
        model, cache = self.model, self.cache

        def of_one(row: tuple[tf.Tensor, tf.Tensor]) -> list[tuple[tf.Tensor, tf.Tensor]]:
            start, tokens = row
            x = tf.concat([start[tf.newaxis], tf.gather(model.token_embedding, tokens[:-1])], axis=0)
            x += self.weights.places
            made: list[tuple[tf.Tensor, tf.Tensor]] = []

            def attend_all(queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
                made.append((keys, values))
                by_head = [tf.transpose(each, [1, 0, 2])[tf.newaxis] for each in (queries, keys, values)]
                return tf.transpose(attend(*by_head, causal=True)[0], [1, 0, 2])

            for block, kernels in zip(model.blocks, self.weights.blocks, strict=True):
                x = block.decode(x, kernels, attend_all)
            return made

        attention = model.blocks[0].attention
        of_block = tf.TensorSpec([model.tokens, attention.heads, attention.head_dim], attention.compute_dtype)
        made = tf.map_fn(
            of_one,
            (self.starts, prompt),
            fn_output_signature=[(of_block, of_block) for _ in model.blocks],
            parallel_iterations=1,
        )
        return [cache.filled(keys, values) for keys, values in made]

    def empty(self) -> list[KVCache]:
        """Empty caches of all blocks."""
        return [self.cache.empty() for _ in self.model.blocks]
