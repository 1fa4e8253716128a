"""The training objective of stage 1 (section 3.3).

The tokenizer minimizes

    L = L_VQ + 0.1 L_Adv + 0.1 L_Perceptual + 0.1 L_Logit-laplace + 1.0 L_2

(weights from the configuration), the discriminator its own logistic loss, with R1 at intervals. Both take
their gradients from the same forward pass, so the discriminator runs on each reconstruction once.
"""

from __future__ import annotations

import tensorflow as tf

from trainers.training.checkpoint import Saved
from trainers.training.errors import TrainingError
from trainers.training.step import Batch, Metrics, gradients_of
from trainers.training.train_state import Gradients, TrainState
from trainers.vit_vqgan import losses, quantizer
from trainers.vit_vqgan.config import Stage1
from trainers.vit_vqgan.discriminators import build_discriminator
from trainers.vit_vqgan.model import ViTVQGAN
from trainers.vit_vqgan.perceptual import load_distance


class Objective:
    """The networks of stage 1 and their losses; a term of weight 0 has no network here."""

    def __init__(self, stage: Stage1, *, image_size: int, seed: int):
        self.weights = stage.loss
        self._adversary_options = stage.adversary
        self._batch_size = stage.train.batch_size
        self._r1_gamma = stage.adversary.gamma(image_size=image_size, batch_size=self._batch_size)
        # First, because its weights may not be available.
        self._distance = load_distance(stage.perceptual) if self.weights.perceptual else None
        self.model = ViTVQGAN(
            stage.model,
            image_size=image_size,
            seed=seed,
            memory=stage.train.memory,
        )
        self.tokenizer = TrainState(self.model, stage.train)
        self.adversary: TrainState | None = None
        self._lecam: losses.LeCAM | None = None
        if self.weights.adversarial:
            _check_minibatch_groups(stage)
            self._discriminator = build_discriminator(stage.adversary.discriminator, image_size=image_size)
            self.adversary = TrainState(
                self._discriminator,
                stage.train,
                stage.adversary.optimizer,
                use_ema=False,
                start_step=stage.adversary.start_step,
                metrics_prefix="adversary_",
            )
            self._lecam = losses.LeCAM() if stage.adversary.lecam else None

    @property
    def states(self) -> list[TrainState]:
        """The networks in training."""
        return [self.tokenizer, *([self.adversary] if self.adversary else [])]

    @property
    def networks(self) -> dict[str, TrainState]:
        """The networks in training, named as in `variables`."""
        return dict(zip(("tokenizer", "adversary"), self.states, strict=False))

    @property
    def variables(self) -> dict[str, list[Saved]]:
        """Every variable that training changes, by name."""
        variables: dict[str, list[Saved]] = {"tokenizer": self.tokenizer.variables}
        if self.adversary:
            variables["adversary"] = self.adversary.variables
        if self._lecam:
            variables["lecam"] = self._lecam.variables
        return variables

    def gradients(self, batch: Batch) -> tuple[list[Gradients], Metrics]:
        """The gradients of each network, and metrics, on pixels [B, S, S, 3] in [0, 1].

        `loss` leaves out the adversarial term, so that it compares with the loss on held-out images.
        """
        pixels = batch["pixels"]
        with tf.GradientTape(persistent=True) as tape:
            metrics, reconstruction, latents = self._reconstruct(pixels, training=True)
            minimized = metrics["loss"]
            if self.adversary:
                adversarial, discriminator_loss = self._adversarial(pixels, reconstruction)
                metrics |= adversarial
                minimized += self.weights.adversarial * adversarial["adversarial"]
        gradients = [gradients_of(tape, minimized, self.tokenizer.trainable_variables)]
        if self.adversary:
            own = gradients_of(tape, discriminator_loss, self.adversary.trainable_variables)
            if self._r1_gamma:
                penalty, of_penalty = self._lazy_r1(pixels)
                own = [of_loss + more for of_loss, more in zip(own, of_penalty, strict=True)]
                metrics["r1"] = penalty
            gradients.append(own)
        metrics |= self.model.quantizer.statistics(latents, batch["row"], self._batch_size)
        return gradients, metrics

    def held_out(self, batch: Batch) -> Metrics:
        """Metrics on held-out pixels."""
        metrics, _, _ = self._reconstruct(batch["pixels"], training=False)
        return metrics

    def pictures(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Images [K, S, S, 3] in [0, 1], each left of its reconstruction."""
        distribution, _ = self.model(pixels, training=False)
        return {"reconstructions": tf.concat([pixels, distribution.pixels()], axis=2)}

    def post_step(self, metrics: Metrics) -> None:
        """Update what is learned without gradients, from means over the whole batch."""
        self.model.quantizer.post_step(metrics)
        if self._lecam:
            # The tokenizer's gradients are applied already, so these logits belong to the step before.
            started = self.tokenizer.optimizer.iterations > self._adversary_options.start_step
            self._lecam.update(metrics["real_logits"], metrics["fake_logits"], started)

    def summarize(self, metrics: Metrics) -> Metrics:
        """Mean metrics over the whole batch to scalars, codebook usage and perplexity of the batch added."""
        shares = metrics["token_shares"]
        scalars = {name: value for name, value in metrics.items() if value.shape.rank == 0}
        return {
            **scalars,
            "codebook_usage": quantizer.usage(shares),
            "codebook_perplexity": quantizer.perplexity(shares),
        }

    def _reconstruct(self, pixels: tf.Tensor, *, training: bool) -> tuple[Metrics, tf.Tensor, tf.Tensor]:
        """The loss without its adversarial term and its other terms, the reconstruction, and the latents."""
        distribution, quantized = self.model(pixels, training=training)
        reconstruction = distribution.pixels()
        terms = {"vq": quantized.loss}
        if self.weights.l2:
            terms["l2"] = losses.l2(pixels, reconstruction)
        if self.weights.logit_laplace:
            terms["logit_laplace"] = losses.logit_laplace(pixels, distribution.mu, distribution.log_scale)
        if self._distance:
            terms["perceptual"] = tf.reduce_mean(self._distance(pixels, reconstruction))
        loss = tf.add_n([getattr(self.weights, name) * term for name, term in terms.items()])
        if "logit_laplace" in terms:
            terms["logit_laplace"] += losses.jacobian(pixels)
        for name, (weight, penalty) in self.model.quantizer.penalties(quantized.latents).items():
            terms[name] = penalty
            loss += weight * penalty
        metrics = {
            "loss": loss,
            **terms,
            "psnr": losses.psnr(pixels, reconstruction),
            "token_shares": quantizer.token_shares(quantized.tokens, self.model.options.codebook.size),
        }
        return metrics, reconstruction, quantized.latents

    def _adversarial(self, pixels: tf.Tensor, reconstruction: tf.Tensor) -> tuple[Metrics, tf.Tensor]:
        """GAN losses of generator and discriminator; zeros before `start_step`, without a forward pass."""
        options = self._adversary_options

        def compute() -> tuple[Metrics, tf.Tensor]:
            real, fake = self._discriminator(pixels), self._discriminator(reconstruction)
            loss = losses.discriminator_loss(real, fake)
            metrics = {
                "adversarial": losses.generator_loss(fake),
                "discriminator": loss,
                "real_logits": tf.reduce_mean(real),
                "fake_logits": tf.reduce_mean(fake),
            }
            if self._lecam:
                means = [tf.convert_to_tensor(mean) for mean in self._lecam.variables]
                loss += options.lecam * losses.lecam_penalty(real, fake, *means)
            return metrics, loss

        def zeros() -> tuple[Metrics, tf.Tensor]:
            names = ("adversarial", "discriminator", "real_logits", "fake_logits")
            return dict.fromkeys(names, tf.constant(0.0)), tf.constant(0.0)

        return tf.cond(self._adversary_is_active(), compute, zeros) if options.start_step else compute()

    def _adversary_is_active(self) -> tf.Tensor:
        """Whether `start_step` is reached, bool scalar."""
        return self.tokenizer.optimizer.iterations >= self._adversary_options.start_step

    def _lazy_r1(self, pixels: tf.Tensor) -> tuple[tf.Tensor, Gradients]:
        """Lazy R1: every `r1_every` steps, scaled by `r1_every` (Karras et al. 2020); else 0."""
        adversary, options = self.adversary, self._adversary_options
        assert adversary is not None
        due = (adversary.optimizer.iterations % options.r1_every == 0) & self._adversary_is_active()

        def compute() -> tuple[tf.Tensor, Gradients]:
            with tf.GradientTape() as tape:
                penalty = options.r1_every * losses.r1_penalty(self._discriminator, pixels)
                loss = 0.5 * self._r1_gamma * penalty
            return penalty, gradients_of(tape, loss, adversary.trainable_variables)

        def zeros() -> tuple[tf.Tensor, Gradients]:
            return tf.constant(0.0), [tf.zeros(v.shape, v.dtype) for v in adversary.trainable_variables]

        return tf.cond(due, compute, zeros)


def _check_minibatch_groups(stage: Stage1) -> None:
    """Check that every micro-batch of a replica holds whole groups of `minibatch_stddev` images."""
    group = getattr(stage.adversary.discriminator, "minibatch_stddev", 0)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    micro_batch = stage.train.batch_size // (replicas * stage.train.gradient_accumulation_steps)
    if group and micro_batch % group:
        raise TrainingError(
            f"adversary.discriminator.minibatch_stddev must divide the {micro_batch} images that each of "
            f"{replicas} replicas computes at once, got {group}"
        )
