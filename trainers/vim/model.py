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
        super().__init__(name="vim")
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
        self.blocks = [
            Block(options.transformer, causal=True, dropout=options.dropout, name=f"block_{index + 1}")
            for index in range(options.transformer.blocks)
        ]
        self.recompute = recompute
        self.norm = LayerNorm(name="norm")
        # Logits near 0 at first: the untrained model is uniform and its loss is ln K.
        self.logits = Dense(codebook_size, kernel_initializer=_small_normal(), name="logits")
        self(tf.zeros([1, tokens], tf.int32), tf.zeros([1], tf.int32))

    @property
    def no_class(self) -> int:
        """The id that starts an image without a class."""
        return self.classes

    def call(self, tokens: tf.Tensor, class_id: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Tokens int32 [B, N] and class ids int32 [B] to the logits of every token, float32 [B, N, K]."""
        x = self._embed(tokens, class_id)
        return self.head(run_blocks(self.blocks, x, training=training, recompute=self.recompute))

    def features(self, tokens: tf.Tensor) -> tf.Tensor:
        """The mean over places of every block's output, without a class: float32 [B, L, D]."""
        class_id = tf.fill(tf.shape(tokens)[:1], self.no_class)
        x = self._embed(tokens, class_id)
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
        return tf.cast(self.logits(self.norm(x)), tf.float32)

    def _embed(self, tokens: tf.Tensor, class_id: tf.Tensor) -> tf.Tensor:
        """The start and all tokens but the last, at their places: [B, N, D]."""
        start = tf.gather(self.class_embedding, class_id)[:, tf.newaxis]
        seen = tf.gather(self.token_embedding, tokens[:, :-1])
        return tf.concat([start, seen], axis=1) + self.positions


def _small_normal() -> keras.initializers.Initializer:
    # A new one for each weight: an initializer that is used twice gives the same numbers twice.
    return keras.initializers.RandomNormal(stddev=0.02)
