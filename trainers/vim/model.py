"""VIM: a decoder-only Transformer over the tokens of an image (section 4, figure 1 right)."""

from __future__ import annotations

import keras
import tensorflow as tf

from trainers.transformer import Block, Dense, LayerNorm, run_blocks
from trainers.vim import config


class VIM(keras.Model):
    """Models p(tokens | class) = prod_i p(token_i | tokens before i, class).

    The sequence is a start followed by all tokens but the last, so that the output at place i predicts
    token i. The start is the class's own embedding, or one learned vector where there is no class.

    Trained in random orders (RAR, Yu et al. 2024), the model has to be told of each input where in the image
    it comes from and which place is wanted next: two tables of positions, whose sum is raster order's one.
    """

    def __init__(
        self,
        options: config.Model,
        *,
        tokens: int,
        codebook_size: int,
        classes: int,
        recompute: bool = False,
    ):
        # Whose layers keep their own policy: the path that begins here is float32 (trainers.transformer).
        super().__init__(name="vim", dtype="float32")
        self.options = options
        self.tokens = tokens
        self.codebook_size = codebook_size
        self.classes = classes if options.class_conditional else 0
        width = options.transformer.width
        self.token_embedding = self.add_weight(
            name="token_embedding", shape=(codebook_size, width), initializer=_small_normal()
        )
        # The last row is the start of an image without a class.
        self.class_embedding = self.add_weight(
            name="class_embedding", shape=(self.classes + 1, width), initializer=_small_normal()
        )
        # One vector for each place of the grid: the full 2D table, in raster order.
        self.positions = self.add_weight(name="positions", shape=(tokens, width), initializer=_small_normal())
        self.own_positions = (
            self.add_weight(name="own_positions", shape=(tokens, width), initializer=_small_normal())
            if options.random_order
            else None
        )
        self.blocks = [
            Block(
                options.transformer,
                causal=True,
                dropout=options.dropout,
                qk_norm=options.qk_norm,
                name=f"block_{index + 1}",
            )
            for index in range(options.transformer.blocks)
        ]
        self.recompute = recompute
        self.norm = LayerNorm(name="norm")
        # Logits near 0 at first: the untrained model is uniform and its loss is ln K.
        # Under any policy: bfloat16 would round what is compared and drawn from.
        self.logits = Dense(codebook_size, kernel_initializer=_small_normal(), dtype="float32", name="logits")
        self(tf.zeros([1, tokens], tf.int32), tf.zeros([1], tf.int32))

    @property
    def no_class(self) -> int:
        """The id that starts an image without a class."""
        return self.classes

    def call(
        self,
        tokens: tf.Tensor,
        class_id: tf.Tensor,
        order: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Logits of every token, float32 [B, N, K].

        Args:
          tokens: int32 [B, N], raster order.
          class_id: int32 [B].
          order: int32 [B, N], a permutation of the places for each row: logits i are then those of token
            order[i], from the tokens order[0] to order[i - 1]. Raster order where there is none.
          training: whether to drop out.
        """
        x = self._embed(tokens, class_id, order)
        return self.head(run_blocks(self.blocks, x, training=training, recompute=self.recompute))

    def features(self, tokens: tf.Tensor) -> tf.Tensor:
        """The mean over places of every block's output, without a class: float32 [B, L, D]."""
        class_id = tf.fill(tf.shape(tokens)[:1], self.no_class)
        x = self._embed(tokens, class_id, order=None)
        means = []
        for block in self.blocks:
            x = block(x)
            means.append(tf.reduce_mean(x, axis=1))
        return tf.stack(means, axis=1)

    def log_likelihood(self, tokens: tf.Tensor, class_id: tf.Tensor) -> tf.Tensor:
        """log p(tokens | class) in nats, float32 [B]; a model without classes ignores the ids."""
        logits = self(tokens, self.start(class_id))
        return -tf.reduce_sum(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tokens, logits=logits), axis=-1
        )

    def start(self, class_id: tf.Tensor) -> tf.Tensor:
        """Class ids as given, or all `no_class` where the model knows no classes."""
        return class_id if self.classes else tf.fill(tf.shape(class_id), self.no_class)

    def head(self, x: tf.Tensor) -> tf.Tensor:
        """The last block's output [..., D] to logits, float32 [..., K]."""
        return self.logits(self.norm(x))

    def places(self, order: tf.Tensor | None = None) -> tf.Tensor:
        """What is added to the inputs: [N, D] in raster order, [B, N, D] in orders int32 [B, N]."""
        wanted = self.positions if order is None else tf.gather(self.positions, order)
        if self.own_positions is None:
            return tf.convert_to_tensor(wanted)
        own = self.own_positions[:-1] if order is None else tf.gather(self.own_positions, order[:, :-1])
        # The start comes from no place.
        return wanted + tf.concat([tf.zeros_like(wanted[..., :1, :]), own], axis=-2)

    def _embed(self, tokens: tf.Tensor, class_id: tf.Tensor, order: tf.Tensor | None) -> tf.Tensor:
        """The start and all tokens but the last in order, with their places: [B, N, D]."""
        if order is not None:
            tokens = tf.gather(tokens, order, batch_dims=1)
        start = tf.gather(self.class_embedding, class_id)[:, tf.newaxis]
        seen = tf.gather(self.token_embedding, tokens[:, :-1])
        return tf.concat([start, seen], axis=1) + self.places(order)


def _small_normal() -> keras.initializers.Initializer:
    # A new one for each weight: an initializer that is used twice gives the same numbers twice.
    return keras.initializers.RandomNormal(stddev=0.02)
