"""What the tokenizer and its adversary learn from a batch (section 3.3).

The tokenizer goes down

    L = L_VQ + 0.1 L_Adv + 0.1 L_Perceptual + 0.1 L_Logit-laplace + 1.0 L_2

(weights from the configuration), the discriminator down its own logistic loss, with R1 every so often.
Both take their gradients from the same forward pass, so the discriminator sees each reconstruction once.
"""

from __future__ import annotations

import tensorflow as tf

from trainers.training.errors import TrainingError
from trainers.training.step import Batch, Gradients, Learner, Metrics, gradients_of
from trainers.vit_vqgan import adversarial, codebook, losses
from trainers.vit_vqgan.config import Stage1
from trainers.vit_vqgan.discriminator.network import build
from trainers.vit_vqgan.model import ViTVQGAN
from trainers.vit_vqgan.perceptual.distance import load


class Objective:
    """The networks of stage 1 and their losses; a part of weight 0 has no network here."""

    def __init__(self, stage: Stage1, *, image_size: int, seed: int):
        self.weights = stage.loss
        self._adversary_options = stage.adversary
        self._batch_size = stage.train.batch_size
        # First, because it may be that its weights cannot be had.
        self._distance = load(stage.perceptual) if self.weights.perceptual else None
        self.model = ViTVQGAN(stage.model, image_size=image_size, seed=seed, recompute=stage.train.recompute)
        self.tokenizer = Learner(self.model, stage.train)
        self.adversary: Learner | None = None
        self._lecam: adversarial.LeCAM | None = None
        if self.weights.adversarial:
            _check_groups(stage)
            self._discriminator = build(stage.adversary.discriminator, image_size=image_size)
            self.adversary = Learner(
                self._discriminator,
                stage.train,
                stage.adversary.optimizer,
                averaged=False,
                start_step=stage.adversary.start_step,
            )
            self._lecam = adversarial.LeCAM() if stage.adversary.lecam else None

    @property
    def learners(self) -> list[Learner]:
        """The networks in training."""
        return [self.tokenizer, *([self.adversary] if self.adversary else [])]

    @property
    def state(self) -> dict[str, list]:
        """Every variable that training changes, by name."""
        state = {"tokenizer": self.tokenizer.state}
        if self.adversary:
            state["adversary"] = self.adversary.state
        if self._lecam:
            state["lecam"] = self._lecam.variables
        return state

    def gradients(self, batch: Batch) -> tuple[list[Gradients], Metrics]:
        """The gradients of each learner, and metrics, on pixels [B, S, S, 3] in [0, 1].

        `loss` is the sum without the adversary's part, the same as on held-out images.
        """
        pixels = batch["pixels"]
        with tf.GradientTape(persistent=True) as tape:
            metrics, reconstruction, latents = self._reconstruct(pixels, training=True)
            descended = metrics["loss"]
            if self.adversary:
                game, against = self._play(pixels, reconstruction)
                metrics |= game
                descended += self.weights.adversarial * game["adversarial"]
        moves = [gradients_of(tape, descended, self.tokenizer.variables)]
        if self.adversary:
            moves.append(gradients_of(tape, against, self.adversary.variables))
            if self._adversary_options.r1_gamma:
                penalty, gradients = self._lazy_r1(pixels)
                moves[-1] = [move + gradient for move, gradient in zip(moves[-1], gradients, strict=True)]
                metrics["r1"] = penalty
        if self.model.options.codebook.revive_below:
            metrics["candidates"] = self.model.codebook.candidates(latents, batch["row"], self._batch_size)
        return moves, metrics

    def held_out(self, batch: Batch) -> Metrics:
        """Metrics on held-out pixels."""
        metrics, _, _ = self._reconstruct(batch["pixels"], training=False)
        return metrics

    def follow(self, metrics: Metrics) -> None:
        """Brings up to date what learns from means over the whole batch."""
        self.model.codebook.follow(metrics["token_shares"], metrics.get("candidates"))
        if self._lecam:
            # The tokenizer has made its move, so the step of these logits is one back.
            taught = self.tokenizer.optimizer.moves > self._adversary_options.start_step
            self._lecam.update(metrics["real_logits"], metrics["fake_logits"], taught)

    def summarize(self, metrics: Metrics) -> Metrics:
        """Mean metrics over the whole batch to scalars: codebook usage and perplexity are of all of it."""
        shares = metrics["token_shares"]
        scalars = {name: value for name, value in metrics.items() if value.shape.rank == 0}
        return {
            **scalars,
            "codebook_usage": codebook.usage(shares),
            "codebook_perplexity": codebook.perplexity(shares),
        }

    def _reconstruct(self, pixels: tf.Tensor, *, training: bool) -> tuple[Metrics, tf.Tensor, tf.Tensor]:
        """The loss without adversary and its parts, the reconstruction, and the latents."""
        distribution, quantized = self.model(pixels, training=training)
        reconstruction = distribution.pixels()
        parts = {"vq": quantized.loss}
        if self.weights.l2:
            parts["l2"] = losses.l2(pixels, reconstruction)
        if self.weights.logit_laplace:
            parts["logit_laplace"] = losses.logit_laplace(pixels, distribution.mu, distribution.log_scale)
        if self._distance:
            parts["perceptual"] = tf.reduce_mean(self._distance(pixels, reconstruction))
        loss = tf.add_n([getattr(self.weights, name) * part for name, part in parts.items()])
        if "logit_laplace" in parts:
            parts["logit_laplace"] += losses.jacobian(pixels)
        options = self.model.options.codebook
        if options.entropy:
            parts["entropy"] = self.model.codebook.entropy_loss(quantized.latents)
            loss += options.entropy * parts["entropy"]
        metrics = {
            "loss": loss,
            **parts,
            "psnr": losses.psnr(pixels, reconstruction),
            "token_shares": codebook.token_shares(quantized.tokens, options.size),
        }
        return metrics, reconstruction, quantized.latents

    def _play(self, pixels: tf.Tensor, reconstruction: tf.Tensor) -> tuple[Metrics, tf.Tensor]:
        """What both sides say, and the discriminator's loss; before the game's start all 0, at no cost."""
        options = self._adversary_options

        def game() -> tuple[Metrics, tf.Tensor]:
            real, fake = self._discriminator(pixels), self._discriminator(reconstruction)
            against = adversarial.discriminator_loss(real, fake)
            metrics = {
                "adversarial": adversarial.generator_loss(fake),
                "discriminator": against,
                "real_logits": tf.reduce_mean(real),
                "fake_logits": tf.reduce_mean(fake),
            }
            if self._lecam:
                means = [tf.convert_to_tensor(mean) for mean in self._lecam.variables]
                against += options.lecam * adversarial.lecam_penalty(real, fake, *means)
            return metrics, against

        def wait() -> tuple[Metrics, tf.Tensor]:
            names = ("adversarial", "discriminator", "real_logits", "fake_logits")
            return dict.fromkeys(names, tf.constant(0.0)), tf.constant(0.0)

        return tf.cond(self._heard(), game, wait) if options.start_step else game()

    def _heard(self) -> tf.Tensor:
        """Whether the adversary has begun, bool scalar."""
        return self.tokenizer.optimizer.moves >= self._adversary_options.start_step

    def _lazy_r1(self, pixels: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        """R1 and its gradients, `r1_every` times as large on one step of as many, 0 on the others."""
        adversary, options = self.adversary, self._adversary_options
        assert adversary is not None
        due = (adversary.optimizer.moves % options.r1_every == 0) & self._heard()

        def taken() -> tuple[tf.Tensor, Gradients]:
            with tf.GradientTape() as tape:
                penalty = options.r1_every * adversarial.r1_penalty(self._discriminator, pixels)
                loss = 0.5 * options.r1_gamma * penalty
            return penalty, gradients_of(tape, loss, adversary.variables)

        def left_out() -> tuple[tf.Tensor, Gradients]:
            return tf.constant(0.0), [tf.zeros(v.shape, v.dtype) for v in adversary.variables]

        return tf.cond(due, taken, left_out)


def _check_groups(stage: Stage1) -> None:
    """Every part of a batch that a replica takes must hold whole groups of `minibatch_stddev` images."""
    group = getattr(stage.adversary.discriminator, "minibatch_stddev", 0)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    part = stage.train.batch_size // (replicas * stage.train.accumulate)
    if group and part % group:
        raise TrainingError(
            f"adversary.discriminator.minibatch_stddev {group} does not divide the {part} images that each "
            f"of {replicas} replicas takes at once"
        )
