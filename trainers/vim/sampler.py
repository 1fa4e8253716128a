"""Autoregressive sampling from VIM (section 4.1): one place, or several places, of an image at a time.

With noise that is given beforehand, drawing a token is a function of the tokens before it. Jacobi iteration
(Song et al. 2021, arXiv:2002.03629; for image tokens Teng et al. 2024, arXiv:2410.01699) guesses the tokens
of the next W places and computes them all in one pass. The first comes out right, and so does each one whose
guessed predecessors were right. So the result is that of drawing one place after the other, in fewer passes.
W = 1 is that sequential drawing.

Tokens of a row depend on its own inputs alone, to the last bit: a served image is the same whatever request
it is batched with. Matrix products sum in an order that depends on their number of rows, so images are drawn
in groups that fill products of a fixed number of rows (`trainers.vim.slots`); everything else is by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from serving.export.sampling_params import SamplingRequest
from trainers.kv_cache import ChunkedCache, FlatCache, KVCache, Shape
from trainers.vim import config, filters, gumbel, slots
from trainers.vim.cached import CachedVIM, Weights
from trainers.vim.model import VIM


class Drawn(NamedTuple):
    """B drawn images.

    Attributes:
      tokens: int32 [B, N].
      passes: int32 [B], after how many passes of its group each was complete.
    """

    tokens: tf.Tensor
    passes: tf.Tensor


class Sampler:
    """Samples from a VIM in TensorFlow's graph, any number of images."""

    def __init__(self, model: VIM, options: config.Sampler = config.Sampler()):
        self._model = model
        self._options = options

    def __call__(self, request: SamplingRequest) -> Drawn:
        """Draw the images of a request."""
        model = self._model
        first, last = request.params.first_guidance_scale, request.params.last_guidance_scale
        guided = tf.reduce_any((first != 1.0) | (last != 1.0))
        # Guided images take two rows, the second without their class.
        each = tf.where(guided, 2, 1)
        images = tf.shape(request.seed)[0]
        weights = Weights.of(model, tf.as_dtype(self._options.weights))
        plan = slots.plan(model, weights, self._options, images * each)
        together = plan.rows // each

        def draw_group(group: tf.Tensor, tokens: tf.Tensor, passes: tf.Tensor) -> tuple[tf.Tensor, ...]:
            # The last group repeats its last image.
            which = tf.minimum(group * together + tf.range(together), images - 1)
            rows = tf.nest.map_structure(lambda of_rows: tf.gather(of_rows, which), request)
            drawing = Drawing(model, self._options, weights, rows, guided, plan.window)
            drawn = drawing.run()
            return (
                group + 1,
                tf.concat([tokens, drawn.tokens], axis=0),
                tf.concat([passes, drawn.passes], axis=0),
            )

        # One after the other, so that the caches of one group alone are held.
        _, tokens, passes = tf.while_loop(
            lambda group, *_: group * together < images,
            draw_group,
            (0, tf.zeros([0, model.tokens], tf.int32), tf.zeros([0], tf.int32)),
            shape_invariants=(
                tf.TensorShape([]),
                tf.TensorShape([None, model.tokens]),
                tf.TensorShape([None]),
            ),
            parallel_iterations=1,
        )
        return Drawn(tokens[:images], passes[:images])


class Program(NamedTuple):
    """What is fixed when XLA compiles.

    Attributes:
      guided: whether all images are guided, or none.
      prompted: whether images may have prompts; otherwise what is given is not read.
    """

    guided: bool
    prompted: bool = False


class CompiledSampler:
    """Samples from a VIM under XLA, all rows at once.

    The rows of a program are fixed, and with them the places of each in a pass. How much of the cache is read
    follows from the row that is farthest. On a CPU a row's bits do not depend on that, nor on the others.
    """

    def __init__(self, model: VIM, program: Program, options: config.Sampler = config.Sampler()):
        self._model = model
        self._program = program
        self._options = options

    def __call__(self, request: SamplingRequest) -> Drawn:
        """Draw the images of a request, whose number must be known when the program is compiled."""
        weights = Weights.of(self._model, tf.as_dtype(self._options.weights))
        rows = tf.shape(request.seed)[0] * (2 if self._program.guided else 1)
        window = slots.compiled_window(self._model, self._options, rows)
        return Drawing(self._model, self._options, weights, request, self._program, window).run()


class _State(NamedTuple):
    """R images that are being drawn.

    Attributes:
      passes: int32 scalar.
      position: int32 [R], how many tokens are final.
      tokens: int32 [R, N]; those from `position` on are guesses.
      ended: int32 [R], the pass after which an image was complete.
      caches: of all blocks.
    """

    passes: tf.Tensor
    position: tf.Tensor
    tokens: tf.Tensor
    ended: tf.Tensor
    caches: list[KVCache]


class Drawing:
    """Draws one group of R images, W places of each in a pass."""

    def __init__(
        self,
        model: VIM,
        options: config.Sampler,
        weights: Weights,
        request: SamplingRequest,
        guided: tf.Tensor | Program,
        window: tf.Tensor | int,
    ):
        """Prepare.

        Args:
          model: the image model.
          options: the precision of the cache.
          weights: of the model.
          request: R images.
          guided: whether any image is, a bool scalar; or, for XLA, the program.
          window: W, at most N; for XLA it may depend on shapes alone.
        """
        self._model = model
        self._program = guided if isinstance(guided, Program) else None
        if self._program and not self._program.prompted:
            request = request._replace(prompt_length=tf.zeros_like(request.prompt_length))
        self._request = request
        self._guided = guided.guided if isinstance(guided, Program) else guided
        self._window = window
        self._rows = tf.shape(request.seed)[0]
        self._keys = gumbel.keys(request.seed, model.tokens)
        classes = model.start(request.class_id)
        no_class = tf.fill([self._rows], model.no_class)
        starts = self._if_guided(lambda: tf.concat([classes, no_class], axis=0), lambda: classes)
        attention = model.blocks[0].attention
        shape = Shape(
            rows=tf.shape(starts)[0],
            positions=model.tokens,
            heads=attention.heads,
            head_dim=attention.head_dim,
            dtype=tf.as_dtype(options.cache),
        )
        self._forward = CachedVIM(
            model,
            weights,
            tf.gather(model.class_embedding, starts),
            FlatCache(shape, window) if self._program else ChunkedCache(shape),
        )

    def run(self) -> Drawn:
        """Draw."""
        prompt, length = self._request.prompt, self._request.prompt_length
        cache, program = self._forward.cache, self._program
        state = _State(
            passes=tf.constant(0),
            position=length,
            tokens=tf.where(tf.range(self._model.tokens) < length[:, tf.newaxis], prompt, 0),
            ended=tf.zeros([self._rows], tf.int32),
            caches=self._prefilled(),
        )
        if program and isinstance(cache, FlatCache):
            # A loop for each number of chunks: within one, shapes do not grow.
            for chunks in range(cache.chunks if program.prompted else 1, cache.chunks + 1):
                grown = [cache.grown(own, chunks) for own in state.caches]
                state = self._passes(state._replace(caches=grown), chunks)
        else:
            state = self._passes(state, None)
        return Drawn(state.tokens, state.ended)

    def _passes(self, state: _State, chunks: int | None) -> _State:
        """Make passes while images are incomplete and within so many chunks, or within all."""

        def more(state: _State) -> tf.Tensor:
            incomplete = tf.reduce_any(state.position < self._model.tokens)
            if chunks is None:
                return incomplete
            end = tf.minimum(tf.reduce_max(state.position) + self._window, self._model.tokens)
            return incomplete & (end <= chunks * self._forward.cache.chunk)

        def body(state: _State) -> list[_State]:
            after = self._one_pass(state, chunks)
            return [tf.nest.map_structure(lambda new, old: tf.ensure_shape(new, old.shape), after, state)]

        return tf.while_loop(more, body, [state])[0]

    def _prefilled(self) -> list[KVCache]:
        """Caches after the prompts; empty ones if there are none."""

        def prefilled() -> list[KVCache]:
            return self._forward.prefilled(self._for_all(self._request.prompt))

        if self._program:
            return prefilled() if self._program.prompted else self._forward.empty()
        return tf.cond(tf.reduce_any(self._request.prompt_length > 0), prefilled, self._forward.empty)

    def _one_pass(self, state: _State, chunks: int | None) -> _State:
        model, window = self._model, self._window
        # Never before `position`: what a prompt's pass has written has other last bits. At the end of an
        # image the last place fills the window, with the same result each time.
        last = model.tokens - 1
        start = tf.minimum(state.position, last)
        place = tf.minimum(start[:, tf.newaxis] + tf.range(window), last)
        before = tf.gather(state.tokens, tf.maximum(place - 1, 0), batch_dims=1)
        needed = tf.reduce_max(place) // self._forward.cache.chunk + 1 if chunks is None else chunks
        logits, caches = self._forward.logits(
            self._for_all(before), self._for_all(place), state.caches, needed
        )
        guess = tf.gather(state.tokens, place, batch_dims=1)
        drawn = tf.where(self._is_final(place, state.position), guess, self._drawn(logits, place))
        # Right up to the first wrong guess, whose own predecessors were right.
        right = tf.math.cumprod(tf.cast(drawn == guess, tf.int32), axis=1)
        right = tf.minimum(tf.reduce_sum(right, axis=1) + 1, window)
        position = tf.minimum(state.position + right, model.tokens)
        passes = state.passes + 1
        return _State(
            passes,
            position,
            self._with_guesses(_put(state.tokens, place, drawn), start[:, tf.newaxis] + window, position),
            tf.where(state.position < model.tokens, passes, state.ended),
            caches,
        )

    def _is_final(self, place: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        """Whether the tokens of places [R, W] are drawn or given."""
        return place < tf.maximum(position, self._request.prompt_length)[:, tf.newaxis]

    def _with_guesses(self, tokens: tf.Tensor, first: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        """Guess the tokens of W places from `first` [R, 1] on, which no pass has seen: those above them."""
        side = math.isqrt(self._model.tokens)
        place = tf.minimum(first + tf.range(self._window), self._model.tokens - 1)
        above = tf.gather(tokens, tf.maximum(place - side, 0), batch_dims=1)
        present = tf.gather(tokens, place, batch_dims=1)
        seen = (place < first) | self._is_final(place, position)
        return _put(tokens, place, tf.where(seen, present, above))

    def _drawn(self, logits: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        """Logits [G R, W, K] at places [R, W] to tokens int32 [R, W]."""
        params = self._request.params
        first, last = params.first_guidance_scale[:, tf.newaxis], params.last_guidance_scale[:, tf.newaxis]
        scale = first + tf.cast(place, tf.float32) / max(self._model.tokens - 1, 1) * (last - first)
        logits = self._if_guided(lambda: filters.guide(logits, scale), lambda: logits)
        noise = gumbel.noise(tf.gather(self._keys, place, batch_dims=1), self._model.codebook_size)
        return filters.draw(logits, noise, params)

    def _if_guided(self, then: Callable[[], tf.Tensor], otherwise: Callable[[], tf.Tensor]) -> tf.Tensor:
        if isinstance(self._guided, bool):
            return then() if self._guided else otherwise()
        return tf.cond(self._guided, then, otherwise)

    def _for_all(self, of_images: tf.Tensor) -> tf.Tensor:
        """[R, ...] for rows with class and, if any image is guided, for those without."""
        return self._if_guided(lambda: tf.concat([of_images, of_images], axis=0), lambda: of_images)


def _put(tokens: tf.Tensor, place: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Tokens [R, N] with other values at places [R, W]."""
    row = tf.range(tf.shape(place)[0])[:, tf.newaxis] + tf.zeros_like(place)
    return tf.tensor_scatter_nd_update(tokens, tf.stack([row, place], axis=-1), values)
