"""The typed configuration of a run: one YAML file, one frozen tree.

A preset is a YAML file under `configs/`. `load` reads one by name or path, lays `--set key=value`
overrides over it, optionally shrinks it (`small`), and validates the whole; whatever is wrong is
one line that names the key, what was given and what is allowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import Field, PositiveInt

PRESETS = Path(__file__).resolve().parent.parent / "configs"

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line for the user."""


class Section(pydantic.BaseModel):
    """Base of every part of the tree: immutable, and closed to unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Augmentation(Section):
    """Random resized crop and horizontal flip, drawn anew for each variant of an image."""

    min_scale: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    flip: bool = False


class Data(Section):
    """Where images come from and how they are split and stored."""

    source: str
    image_size: PositiveInt
    splits: dict[str, PositiveInt] = {"train": 90, "eval": 10}
    tfds_data_dir: str | None = None
    num_shards: PositiveInt = 1
    max_broken: Fraction = 0.01
    augmentation: Augmentation = Augmentation()

    @pydantic.field_validator("source")
    @classmethod
    def _known_source(cls, source: str) -> str:
        kind, _, rest = source.partition(":")
        if source != "digits" and not (kind in ("folder", "tfds", "tfrecord") and rest):
            raise ValueError("allowed are digits, folder:DIR, tfds:NAME and tfrecord:PATTERN")
        return source

    @pydantic.field_validator("splits")
    @classmethod
    def _train_and_eval(cls, splits: dict[str, int]) -> dict[str, int]:
        if set(splits) != {"train", "eval"}:
            raise ValueError("allowed are the two splits train and eval, each with its share")
        return splits


class Transformer(Section):
    """Size of a stack of Transformer blocks (Table 2)."""

    blocks: PositiveInt
    heads: PositiveInt
    width: PositiveInt
    hidden: PositiveInt

    @pydantic.model_validator(mode="after")
    def _heads_divide_width(self) -> Transformer:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} does not divide width {self.width}")
        return self


class Codebook(Section):
    """Factorized, l2-normalized codes (section 3.2)."""

    size: PositiveInt = 8192
    dim: PositiveInt = 32
    l2_normalized: bool = True
    beta: NonNegative = 0.25
    revive_below: Fraction = 0.0


class Optimizer(Section):
    """AdamW under linear warm-up and cosine decay to a floor (section 5.1)."""

    learning_rate: Positive
    final_learning_rate: NonNegative = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    beta_1: Fraction = 0.9
    beta_2: Fraction = 0.99
    weight_decay: NonNegative = 1e-4
    clip_norm: Positive | None = None


class Train(Section):
    """How long, how large and how often: one training run."""

    steps: PositiveInt
    batch_size: PositiveInt
    optimizer: Optimizer
    steps_per_call: PositiveInt = 10
    log_every: PositiveInt = 50
    checkpoint_every: PositiveInt = 500
    keep_checkpoints: PositiveInt = 2
    jit_compile: bool = False


class Stage1Model(Section):
    """ViT-VQGAN: encoder, quantizer, decoder (section 3)."""

    patch_size: PositiveInt = 8
    encoder: Transformer
    decoder: Transformer
    codebook: Codebook = Codebook()
    positions: Literal["learned", "sincos"] = "learned"
    output_channels: Literal[3, 6] = 6


class Stage1Loss(Section):
    """Weights of the tokenizer's losses (section 3.3)."""

    vq: NonNegative = 1.0
    l2: NonNegative = 1.0
    logit_laplace: NonNegative = 0.1


class Stage1(Section):
    """The tokenizer."""

    model: Stage1Model
    loss: Stage1Loss = Stage1Loss()
    train: Train


class ClassifierModel(Section):
    """ResNet for small images (He et al. 2016, section 4.2): 6 n + 2 layers."""

    blocks_per_stage: PositiveInt = 3
    width: PositiveInt = 16


class Classifier(Section):
    """The domain classifier behind FID, IS and class accuracy."""

    model: ClassifierModel = ClassifierModel()
    train: Train


class Tokens(Section):
    """TokenTransform: how images become tokens."""

    augmentations: Annotated[int, Field(ge=0)] = 0
    batch_size: PositiveInt = 64
    num_shards: PositiveInt = 1


class Stage2Model(Section):
    """VIM: a decoder-only Transformer over tokens (section 4)."""

    transformer: Transformer
    dropout: Fraction = 0.1
    class_conditional: bool = True
    label_drop: Fraction = 0.1


class Stage2(Section):
    """The image model."""

    model: Stage2Model
    train: Train


class Bound(Section):
    """What a metric must reach for a model to be blessed."""

    min: float | None = None
    max: float | None = None


class Sampling(Section):
    """How the evaluator draws; 1.0, 0 and 1.0 draw from the model itself, as the paper does."""

    temperature: NonNegative = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    guidance: NonNegative = 1.0


class ReconstructionEvaluation(Section):
    """Held-out images against their reconstructions."""

    batch_size: PositiveInt = 64
    thresholds: dict[str, Bound] = {}


class GenerationEvaluation(Section):
    """Drawn images against real ones."""

    samples: PositiveInt = 1000
    batch_size: PositiveInt = 100
    features: Literal["classifier"] = "classifier"
    sampling: Sampling = Sampling()
    thresholds: dict[str, Bound] = {}


class LinearProbeEvaluation(Section):
    """A linear layer on the frozen features of every block."""

    batch_size: PositiveInt = 64
    epochs: PositiveInt = 90
    learning_rate: Positive = 1e-2


class Evaluation(Section):
    """The three evaluators."""

    reconstruction: ReconstructionEvaluation = ReconstructionEvaluation()
    generation: GenerationEvaluation = GenerationEvaluation()
    linear_probe: LinearProbeEvaluation = LinearProbeEvaluation()


class Config(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    seed: Annotated[int, Field(ge=0)] = 0
    data: Data
    stage1: Stage1
    classifier: Classifier
    tokens: Tokens = Tokens()
    stage2: Stage2
    evaluation: Evaluation = Evaluation()

    @pydantic.model_validator(mode="after")
    def _patches_tile_the_image(self) -> Config:
        size, patch = self.data.image_size, self.stage1.model.patch_size
        if size % patch:
            raise ValueError(f"data.image_size {size} is not a multiple of stage1.model.patch_size {patch}")
        return self
