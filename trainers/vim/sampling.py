"""Drawing tokens from VIM, one place after the other (section 4.1).

Every row of a batch has its own class, seed and filters, and its tokens depend on nothing else, so a
served picture is the same whatever request it was batched with.
"""

from __future__ import annotations

import tensorflow as tf

from trainers.vim.model import VIM


def sample(
    model: VIM,
    class_id: tf.Tensor,
    seed: tf.Tensor,
    temperature: tf.Tensor,
    top_k: tf.Tensor,
    top_p: tf.Tensor,
    guidance: tf.Tensor,
) -> tf.Tensor:
    """Draws the tokens of B images, int32 [B, N].

    Args:
      model: the image model.
      class_id: int32 [B]; ignored by a model without classes.
      seed: int64 [B].
      temperature: float32 [B], 0 takes the most likely token.
      top_k: int32 [B], 0 is off.
      top_p: float32 [B] in (0, 1], 1 is off.
      guidance: float32 [B], the scale s of classifier-free guidance (Ho & Salimans 2022): logits are
        those without a class plus s times what the class adds. 1 is off and costs nothing.
    """
    uniforms = _uniforms(seed, model.tokens)
    guided = tf.reduce_any(guidance != 1.0)
    classes = model.start(class_id)
    rows = tf.shape(classes)[0]
    # Guided rows run twice, the second time without their class.
    starts = tf.cond(
        guided,
        lambda: tf.concat([classes, tf.fill([rows], model.no_class)], axis=0),
        lambda: classes,
    )

    def next_token(x, cache, place):
        logits, cache = _step(model, x, cache, place)
        logits = tf.cond(guided, lambda: _guide(logits, guidance), lambda: logits)
        return draw(logits, uniforms[:, place], temperature, top_k, top_p), cache

    def body(place, token, cache, tokens):
        both = tf.cond(guided, lambda: tf.tile(token, [2]), lambda: token)
        token, cache = next_token(tf.gather(model.token_embedding, both), cache, place)
        return place + 1, token, cache, tokens.write(place, token)

    first, cache = next_token(
        tf.gather(model.class_embedding, starts), _empty_cache(model, tf.shape(starts)[0]), tf.constant(0)
    )
    tokens = tf.TensorArray(tf.int32, size=model.tokens, element_shape=[None]).write(0, first)
    *_, tokens = tf.while_loop(
        lambda place, *_: place < model.tokens, body, (tf.constant(1), first, cache, tokens)
    )
    return tf.ensure_shape(tf.transpose(tokens.stack()), [None, model.tokens])


def draw(
    logits: tf.Tensor, uniform: tf.Tensor, temperature: tf.Tensor, top_k: tf.Tensor, top_p: tf.Tensor
) -> tf.Tensor:
    """One token a row by the inverse of its cumulative distribution, int32 [B].

    Tokens are ranked by probability. Rank r stays if r < top_k and if the ranks before it hold less
    than top_p of the probability (nucleus sampling, Holtzman et al. 2019); the first always does. The
    token drawn is the one in whose share of what stays `uniform` falls.

    Args:
      logits: float32 [B, K].
      uniform: float32 [B] in [0, 1), the only randomness.
      temperature, top_k, top_p: as in `sample`, [B].
    """
    codes = logits.shape[-1]
    greedy = temperature == 0.0
    scaled = logits / tf.where(greedy, 1.0, temperature)[:, tf.newaxis]
    probabilities, order = tf.math.top_k(tf.nn.softmax(scaled), k=codes)
    before = tf.cumsum(probabilities, axis=-1, exclusive=True)
    limit = tf.where(greedy, 1, tf.where(top_k == 0, codes, top_k))
    # Without a nucleus all ranks stay, even where rounding lets the sum reach 1 early.
    nucleus = tf.where(top_p == 1.0, float("inf"), top_p)
    stays = (tf.range(codes) < limit[:, tf.newaxis]) & (before < nucleus[:, tf.newaxis])
    shares = tf.where(stays, probabilities, 0.0)
    reached = tf.cumsum(shares, axis=-1)
    target = uniform[:, tf.newaxis] * reached[:, -1:]
    rank = tf.reduce_sum(tf.cast(reached <= target, tf.int32), axis=-1)
    last = tf.reduce_sum(tf.cast(stays, tf.int32), axis=-1) - 1
    return tf.gather(order, tf.minimum(rank, last), batch_dims=1)


def _uniforms(seed: tf.Tensor, places: int) -> tf.Tensor:
    """One number in [0, 1) for each row and place, from the row's own seed alone: float32 [B, N]."""
    return tf.map_fn(
        lambda row: tf.random.stateless_uniform([places], tf.stack([row, 0])),
        seed,
        fn_output_signature=tf.TensorSpec([places], tf.float32),
    )


def _guide(logits: tf.Tensor, guidance: tf.Tensor) -> tf.Tensor:
    """Logits [2 B, K], with and without class, to guided logits [B, K]; a row at scale 1 is untouched."""
    with_class, without = tf.split(logits, 2)
    scale = guidance[:, tf.newaxis]
    return tf.where(scale == 1.0, with_class, without + scale * (with_class - without))


def _step(model: VIM, x: tf.Tensor, cache: list, place: tf.Tensor) -> tuple[tf.Tensor, list]:
    """The input embedding [B, D] of one place to its logits [B, K], and the cache with it."""
    x += model.positions[place]
    filled = []
    for block, block_cache in zip(model.blocks, cache, strict=True):
        x, block_cache = block.step(x, block_cache, place)
        filled.append(block_cache)
    return model.head(x), filled


def _empty_cache(model: VIM, rows: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Keys and values of every block, [N, B, H, D / H] each, all there from the start."""
    size = model.options.transformer
    empty = tf.zeros([model.tokens, rows, size.heads, size.width // size.heads], model.compute_dtype)
    return [(empty, empty) for _ in model.blocks]
