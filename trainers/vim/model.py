"""VIM: a decoder-only Transformer over the tokens of an image (section 4, figure 1 right)."""

from __future__ import annotations

import keras
import tensorflow as tf

from trainers.training.config import Memory
from trainers.transformer import Block, Dense, LayerNorm, run_blocks
from trainers.vim import config


class VIM(keras.Model):
    """Models p(tokens | class) = prod_i p(token_i | tokens before i, class).

    The sequence is a start followed by all tokens but the last, so that the output at position i predicts
    token i. The start is the class's embedding, or one trained vector without a class.

    Trained in random orders (RAR, Yu et al. 2024), each input needs two position embeddings: its own position
    and the position that is predicted next. In raster order both follow from the step, and their sum acts as
    one table.
    """

    def __init__(
        self,
        options: config.Model,
        *,
        tokens: int,
        codebook_size: int,
        classes: int,
        memory: Memory = Memory(),
    ):
        # The residual stream is float32; layers follow the global policy (trainers.transformer).
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
        # One vector for each position of the grid: the full 2D table, in raster order.
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
        self.memory = memory
        self.norm = LayerNorm(name="norm")
        # Logits start near 0: the untrained model is uniform and its loss is ln K. float32 under any policy:
        # bfloat16 would round what is compared and sampled from.
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
          order: int32 [B, N], a permutation of the positions for each row: logits i are then those of token
            order[i], given the tokens order[0] to order[i - 1]. Raster order by default.
          training: whether to apply dropout.
        """
        x = self._embed(tokens, class_id, order)
        x = run_blocks(self.blocks, x, training=training, memory=self.memory)
        return self.head(x)

    def features(self, tokens: tf.Tensor) -> tf.Tensor:
        """The mean over positions of every block's output, without a class: float32 [B, L, D]."""
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
        """The ids that start images of these classes: `no_class` for -1, and for a model without classes.

        An image without a label then trains the start that has no class. Left as -1 it would raise an error
        on a CPU, and train the first class under XLA.
        """
        return tf.where((class_id >= 0) & (self.classes > 0), class_id, self.no_class)

    def head(self, x: tf.Tensor) -> tf.Tensor:
        """The last block's output [..., D] to logits, float32 [..., K]."""
        return self.logits(self.norm(x))

    def position_embeddings(self, order: tf.Tensor | None = None) -> tf.Tensor:
        """The sum of position embeddings: [N, D] in raster order, [B, N, D] in orders int32 [B, N]."""
        predicted = self.positions if order is None else tf.gather(self.positions, order)
        if self.own_positions is None:
            return tf.convert_to_tensor(predicted)
        own = self.own_positions[:-1] if order is None else tf.gather(self.own_positions, order[:, :-1])
        # The start has no position of its own.
        return predicted + tf.concat([tf.zeros_like(predicted[..., :1, :]), own], axis=-2)

    def _embed(self, tokens: tf.Tensor, class_id: tf.Tensor, order: tf.Tensor | None) -> tf.Tensor:
        """Embeddings of the start and of all tokens but the last, with their positions: [B, N, D]."""
        if order is not None:
            tokens = tf.gather(tokens, order, batch_dims=1)
        start = tf.gather(self.class_embedding, class_id)[:, tf.newaxis]
        seen = tf.gather(self.token_embedding, tokens[:, :-1])
        return tf.concat([start, seen], axis=1) + self.position_embeddings(order)


def _small_normal() -> keras.initializers.Initializer:
    # A new instance for each weight: an initializer that is used twice returns the same numbers twice.
    return keras.initializers.RandomNormal(stddev=0.02)
