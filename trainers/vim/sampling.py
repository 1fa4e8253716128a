"""Autoregressive sampling from VIM with a KV cache (section 4.1).

Every row of a batch has its own class, seed and sampling parameters, and its tokens depend on nothing else: a
served image is the same whatever request it is batched with.
"""

from __future__ import annotations

import tensorflow as tf

from serving.export.sampling_params import BatchSamplingParams
from trainers.transformer import KVCache, init_cache, softmax_by_row
from trainers.vim.model import VIM


def sample(
    model: VIM,
    class_id: tf.Tensor,
    seed: tf.Tensor,
    params: BatchSamplingParams,
    prompt: tf.Tensor,
    prompt_length: tf.Tensor,
) -> tf.Tensor:
    """Sample the tokens of B images, int32 [B, N].

    Classifier-free guidance (Ho and Salimans 2022) with a scale s adds s times the difference of the logits
    with and without class to the logits without class. A scale of 1 is off, and costs nothing if it is off
    for all rows and positions.

    Args:
      model: the image model.
      class_id: int32 [B]; ignored by a model without classes.
      seed: int64 [B].
      params: [B] each.
      prompt: int32 [B, N], tokens of images to be completed.
      prompt_length: int32 [B], how many of the first prompt tokens are kept; 0 samples a whole image.
    """
    uniforms = _uniforms(seed, model.tokens)
    first_scale, last_scale = params.first_guidance_scale, params.last_guidance_scale
    guided = tf.reduce_any((first_scale != 1.0) | (last_scale != 1.0))
    classes = model.start(class_id)
    rows = tf.shape(classes)[0]
    # Guided rows run twice, the second time without their class.
    starts = tf.cond(
        guided,
        lambda: tf.concat([classes, tf.fill([rows], model.no_class)], axis=0),
        lambda: classes,
    )

    def next_token(
        x: tf.Tensor, caches: list[KVCache], position: tf.Tensor
    ) -> tuple[tf.Tensor, list[KVCache]]:
        logits, caches = step(model, x, caches, position)
        share = tf.cast(position, tf.float32) / max(model.tokens - 1, 1)
        scale = first_scale + share * (last_scale - first_scale)
        logits = tf.cond(guided, lambda: _guide(logits, scale), lambda: logits)
        sampled = sample_token(logits, uniforms[:, position], params)
        return tf.where(position < prompt_length, prompt[:, position], sampled), caches

    def body(position, token, caches, tokens):
        both = tf.cond(guided, lambda: tf.tile(token, [2]), lambda: token)
        token, caches = next_token(tf.gather(model.token_embedding, both), caches, position)
        return position + 1, token, caches, tokens.write(position, token)

    empty = [init_cache(block.attention, tf.shape(starts)[0], model.tokens) for block in model.blocks]
    first, caches = next_token(tf.gather(model.class_embedding, starts), empty, tf.constant(0))
    tokens = tf.TensorArray(tf.int32, size=model.tokens, element_shape=[None]).write(0, first)
    *_, tokens = tf.while_loop(
        lambda position, *_: position < model.tokens, body, (tf.constant(1), first, caches, tokens)
    )
    return tf.ensure_shape(tf.transpose(tokens.stack()), [None, model.tokens])


def step(
    model: VIM, x: tf.Tensor, caches: list[KVCache], position: tf.Tensor
) -> tuple[tf.Tensor, list[KVCache]]:
    """The input embedding [B, D] at one position to its logits, float32 [B, K], and the updated caches."""
    x += model.position_embeddings()[position]
    updated = []
    for block, cache in zip(model.blocks, caches, strict=True):
        x, cache = block.step(x, cache, position)
        updated.append(cache)
    return model.logits.step(model.norm.step(x)), updated


def sample_token(logits: tf.Tensor, uniform: tf.Tensor, params: BatchSamplingParams) -> tf.Tensor:
    """Sample one token a row by inverting its cumulative distribution, int32 [B].

    Tokens are ranked by probability. Rank r is kept if r < top_k and if the ranks before it hold less than
    top_p of the probability (nucleus sampling, Holtzman et al. 2019); the first is always kept. The sampled
    token is the one whose share of what is kept contains `uniform`. If no row has a filter, nothing is
    ranked: sorting 8192 codes for each token takes longer than the rest of a step.

    Args:
      logits: float32 [B, K].
      uniform: float32 [B] in [0, 1), the only randomness.
      params: [B] each; the guidance scales are not used.
    """
    greedy = params.temperature == 0.0
    scaled = logits / tf.where(greedy, 1.0, params.temperature)[:, tf.newaxis]
    probabilities = softmax_by_row(scaled)
    filtered = (params.top_k > 0) | (params.top_p < 1.0)
    whole = _invert(probabilities, uniform)
    sampled = tf.cond(
        tf.reduce_any(filtered),
        lambda: tf.where(filtered, _sample_filtered(probabilities, uniform, params), whole),
        lambda: whole,
    )
    return tf.where(greedy, tf.argmax(logits, axis=-1, output_type=tf.int32), sampled)


def _sample_filtered(probabilities: tf.Tensor, uniform: tf.Tensor, params: BatchSamplingParams) -> tf.Tensor:
    """Sample a token a row from the probabilities [B, K] that top-k and top-p keep, int32 [B]."""
    codes = probabilities.shape[-1]
    ranked, order = tf.math.top_k(probabilities, k=codes)
    before = tf.cumsum(ranked, axis=-1, exclusive=True)
    limit = tf.where(params.top_k == 0, codes, params.top_k)
    # Without a nucleus all ranks are kept, even if rounding lets the sum reach 1 early.
    nucleus = tf.where(params.top_p == 1.0, float("inf"), params.top_p)
    kept = (tf.range(codes) < limit[:, tf.newaxis]) & (before < nucleus[:, tf.newaxis])
    rank = _invert(tf.where(kept, ranked, 0.0), uniform)
    return tf.gather(order, rank, batch_dims=1)


def _invert(shares: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Shares [B, K] and numbers in [0, 1) to the index whose share of the sum contains each, int32 [B]."""
    reached = tf.cumsum(shares, axis=-1)
    target = uniform[:, tf.newaxis] * reached[:, -1:]
    index = tf.reduce_sum(tf.cast(reached <= target, tf.int32), axis=-1)
    # Rounding may turn a number next to 1 into the whole sum.
    last = tf.reduce_sum(tf.cast(reached < reached[:, -1:], tf.int32), axis=-1)
    return tf.minimum(index, last)


def _uniforms(seed: tf.Tensor, positions: int) -> tf.Tensor:
    """One number in [0, 1) for each row and position, from the row's seed alone: float32 [B, N]."""
    return tf.map_fn(
        lambda row: tf.random.stateless_uniform([positions], tf.stack([row, 0])),
        seed,
        fn_output_signature=tf.TensorSpec([positions], tf.float32),
    )


def _guide(logits: tf.Tensor, guidance_scale: tf.Tensor) -> tf.Tensor:
    """Logits [2 B, K], with and without class, to guided logits [B, K]; scale 1 leaves a row unchanged."""
    with_class, without = tf.split(logits, 2)
    scale = guidance_scale[:, tf.newaxis]
    return tf.where(scale == 1.0, with_class, without + scale * (with_class - without))
