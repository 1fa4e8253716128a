"""VIM: a decoder-only Transformer over the tokens of an image (section 4, figure 1 right)."""

from __future__ import annotations

import keras
import tensorflow as tf

from trainers.transformer import Block, Dense
from trainers.vim import config


class VIM(keras.Model):
    """Models p(tokens | class) = prod_i p(token_i | tokens before i, class).

    The sequence is a start followed by all tokens but the last, so that the output at place i predicts
    token i. The start is the class's own embedding, or one learned vector where there is no class.
    """

    def __init__(self, options: config.Model, *, tokens: int, codebook_size: int, classes: int):
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
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, name="norm")
        # Logits near 0 at first: the untrained model is uniform and its loss is ln K.
        self.logits = Dense(codebook_size, kernel_initializer=_small_normal(), name="logits")
        self(tf.zeros([1, tokens], tf.int32), tf.zeros([1], tf.int32))

    @property
    def no_class(self) -> int:
        """The id that starts an image without a class."""
        return self.classes

    def call(self, tokens: tf.Tensor, class_id: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Tokens int32 [B, N] and class ids int32 [B] to the logits of every token, float32 [B, N, K]."""
        return self.head(self._block_outputs(tokens, class_id, training)[-1])

    def features(self, tokens: tf.Tensor) -> tf.Tensor:
        """The mean over places of every block's output, without a class: float32 [B, L, D]."""
        class_id = tf.fill(tf.shape(tokens)[:1], self.no_class)
        outputs = self._block_outputs(tokens, class_id, training=False)
        return tf.cast(tf.stack([tf.reduce_mean(x, axis=1) for x in outputs], axis=1), tf.float32)

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

    def _block_outputs(self, tokens: tf.Tensor, class_id: tf.Tensor, training: bool) -> list[tf.Tensor]:
        start = tf.gather(self.class_embedding, class_id)[:, tf.newaxis]
        seen = tf.gather(self.token_embedding, tokens[:, :-1])
        x = tf.concat([start, seen], axis=1) + self.positions
        outputs = []
        for block in self.blocks:
            x = block(x, training=training)
            outputs.append(x)
        return outputs


def _small_normal() -> keras.initializers.Initializer:
    # A new one for each weight: an initializer that is used twice gives the same numbers twice.
    return keras.initializers.RandomNormal(stddev=0.02)
