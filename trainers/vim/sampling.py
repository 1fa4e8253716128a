"""Drawing tokens from VIM, one place after the other (section 4.1).

Every row of a batch has its own class, seed and filters, and its tokens depend on nothing else, so a
served picture is the same whatever request it was batched with.
"""

from __future__ import annotations

import tensorflow as tf

from trainers.transformer import Cache, softmax_by_row
from trainers.vim.model import VIM


def sample(
    model: VIM,
    class_id: tf.Tensor,
    seed: tf.Tensor,
    temperature: tf.Tensor,
    top_k: tf.Tensor,
    top_p: tf.Tensor,
    first_guidance: tf.Tensor,
    last_guidance: tf.Tensor,
    given: tf.Tensor,
    kept: tf.Tensor,
) -> tf.Tensor:
    """Draws the tokens of B images, int32 [B, N].

    Classifier-free guidance (Ho & Salimans 2022): with a scale s the logits are those without a class plus
    s times what the class adds. The scale goes linearly from the first token's to the last one's; equal
    ends hold it constant. 1 is off, and costs nothing where it is off for all rows and places.

    Args:
      model: the image model.
      class_id: int32 [B]; ignored by a model without classes.
      seed: int64 [B].
      temperature: float32 [B], 0 takes the most likely token.
      top_k: int32 [B], 0 is off.
      top_p: float32 [B] in (0, 1], 1 is off.
      first_guidance, last_guidance: float32 [B], the scale at the first and at the last token.
      given: int32 [B, N], tokens of an image to be completed.
      kept: int32 [B], how many of the first of them stay; 0 draws a whole image.
    """
    uniforms = _uniforms(seed, model.tokens)
    guided = tf.reduce_any((first_guidance != 1.0) | (last_guidance != 1.0))
    classes = model.start(class_id)
    rows = tf.shape(classes)[0]
    # Guided rows run twice, the second time without their class.
    starts = tf.cond(
        guided,
        lambda: tf.concat([classes, tf.fill([rows], model.no_class)], axis=0),
        lambda: classes,
    )

    def next_token(x: tf.Tensor, caches: list[Cache], place: tf.Tensor) -> tuple[tf.Tensor, list[Cache]]:
        logits, caches = step(model, x, caches, place)
        share = tf.cast(place, tf.float32) / max(model.tokens - 1, 1)
        scale = first_guidance + share * (last_guidance - first_guidance)
        logits = tf.cond(guided, lambda: _guide(logits, scale), lambda: logits)
        drawn = draw(logits, uniforms[:, place], temperature, top_k, top_p)
        return tf.where(place < kept, given[:, place], drawn), caches

    def body(place, token, caches, tokens):
        both = tf.cond(guided, lambda: tf.tile(token, [2]), lambda: token)
        token, caches = next_token(tf.gather(model.token_embedding, both), caches, place)
        return place + 1, token, caches, tokens.write(place, token)

    empty = [block.attention.empty_cache(tf.shape(starts)[0], model.tokens) for block in model.blocks]
    first, caches = next_token(tf.gather(model.class_embedding, starts), empty, tf.constant(0))
    tokens = tf.TensorArray(tf.int32, size=model.tokens, element_shape=[None]).write(0, first)
    *_, tokens = tf.while_loop(
        lambda place, *_: place < model.tokens, body, (tf.constant(1), first, caches, tokens)
    )
    return tf.ensure_shape(tf.transpose(tokens.stack()), [None, model.tokens])


def step(model: VIM, x: tf.Tensor, caches: list[Cache], place: tf.Tensor) -> tuple[tf.Tensor, list[Cache]]:
    """The input embedding [B, D] of one place to its logits, float32 [B, K], and the caches with it."""
    x += model.places()[place]
    filled = []
    for block, cache in zip(model.blocks, caches, strict=True):
        x, cache = block.step(x, cache, place)
        filled.append(cache)
    return model.logits.step(model.norm.step(x)), filled


def draw(
    logits: tf.Tensor, uniform: tf.Tensor, temperature: tf.Tensor, top_k: tf.Tensor, top_p: tf.Tensor
) -> tf.Tensor:
    """One token a row by the inverse of its cumulative distribution, int32 [B].

    Tokens are ranked by probability. Rank r stays if r < top_k and if the ranks before it hold less
    than top_p of the probability (nucleus sampling, Holtzman et al. 2019); the first always does. The
    token drawn is the one in whose share of what stays `uniform` falls. Where no row has a filter, nothing is
    ranked: sorting 8192 codes for each token takes longer than all the rest of a draw.

    Args:
      logits: float32 [B, K].
      uniform: float32 [B] in [0, 1), the only randomness.
      temperature, top_k, top_p: as in `sample`, [B].
    """
    greedy = temperature == 0.0
    scaled = logits / tf.where(greedy, 1.0, temperature)[:, tf.newaxis]
    probabilities = softmax_by_row(scaled)
    filtered = (top_k > 0) | (top_p < 1.0)
    whole = _invert(probabilities, uniform)
    drawn = tf.cond(
        tf.reduce_any(filtered),
        lambda: tf.where(filtered, _draw_filtered(probabilities, uniform, top_k, top_p), whole),
        lambda: whole,
    )
    return tf.where(greedy, tf.argmax(logits, axis=-1, output_type=tf.int32), drawn)


def _draw_filtered(
    probabilities: tf.Tensor, uniform: tf.Tensor, top_k: tf.Tensor, top_p: tf.Tensor
) -> tf.Tensor:
    """Probabilities [B, K] to a token a row from those that both filters leave, int32 [B]."""
    codes = probabilities.shape[-1]
    ranked, order = tf.math.top_k(probabilities, k=codes)
    before = tf.cumsum(ranked, axis=-1, exclusive=True)
    limit = tf.where(top_k == 0, codes, top_k)
    # Without a nucleus all ranks stay, even where rounding lets the sum reach 1 early.
    nucleus = tf.where(top_p == 1.0, float("inf"), top_p)
    stays = (tf.range(codes) < limit[:, tf.newaxis]) & (before < nucleus[:, tf.newaxis])
    rank = _invert(tf.where(stays, ranked, 0.0), uniform)
    return tf.gather(order, rank, batch_dims=1)


def _invert(shares: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Shares [B, K] and numbers in [0, 1) to the index in whose share of the sum each falls, int32 [B]."""
    reached = tf.cumsum(shares, axis=-1)
    target = uniform[:, tf.newaxis] * reached[:, -1:]
    index = tf.reduce_sum(tf.cast(reached <= target, tf.int32), axis=-1)
    # Rounding may bring a number next to 1 to the whole sum.
    last = tf.reduce_sum(tf.cast(reached < reached[:, -1:], tf.int32), axis=-1)
    return tf.minimum(index, last)


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
