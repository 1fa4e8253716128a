"""The typed configuration of a run: one YAML file, one frozen tree.

A preset is a YAML file under `configs/`. `load` reads one by name or by path, shrinks it on demand
(its own `small:` overlay), lays `key=value` overrides over it and validates the whole. Whatever is
wrong is one line that names the key, what was given and what is allowed.

A preset that opens with `base: NAME` states only what differs from another one. Mappings are merged key
by key; one marked `!only` takes the place of what it is laid over.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic
import yaml
from pydantic import Discriminator, Field, PositiveInt, Tag

from trainers.classifier.config import Classifier
from trainers.training.config import Augmentation, Count, Fraction, NonNegative, Positive, Section
from trainers.vim.config import Stage2
from trainers.vit_vqgan.config import Stage1

PRESETS = Path(__file__).resolve().parent.parent / "configs"
SOURCES = "digits, folder:DIR, tfds:NAME, tfrecord:PATTERN"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line for the user."""


class Data(Section):
    """Where images come from, how they are split and how they are stored."""

    source: str
    image_size: PositiveInt
    splits: dict[str, PositiveInt] = {"train": 90, "eval": 10}
    tfds_data_dir: str | None = None
    num_shards: PositiveInt = 1
    max_broken: Fraction = 0.01
    augmentation: Augmentation = Augmentation()

    @pydantic.field_validator("source")
    @classmethod
    def _known_kind(cls, source: str) -> str:
        kind, _, rest = source.partition(":")
        if source != "digits" and not (kind in ("folder", "tfds", "tfrecord") and rest):
            raise ValueError(f"allowed are {SOURCES}")
        return source

    @pydantic.field_validator("splits")
    @classmethod
    def _train_and_eval(cls, splits: dict[str, int]) -> dict[str, int]:
        if set(splits) != {"train", "eval"}:
            raise ValueError("allowed are the two splits train and eval, each with its share")
        return splits


class ImportedTokenizer(Section):
    """A tokenizer of somebody else's in the place of stage 1, such as DALL-E's dVAE (Table 7).

    `savedmodel` is the folder of a SavedModel as `serving.export.export_tokenizer` writes it. It is taken as
    it is.
    """

    savedmodel: Annotated[str, Field(min_length=1)]


def _kind_of_stage1(given: Any) -> str:
    imported = "savedmodel" in given if isinstance(given, dict) else isinstance(given, ImportedTokenizer)
    return "importedtokenizer" if imported else "stage1"


class Tokens(Section):
    """TokenTransform: `augmentations` variants of a training image beside its centre crop."""

    augmentations: Count = 0
    batch_size: PositiveInt = 64
    num_shards: PositiveInt = 1


class Bound(Section):
    """What a metric must reach for a model to be blessed."""

    min: float | None = None
    max: float | None = None


class ReconstructionEvaluation(Section):
    """Held-out images against their reconstructions."""

    batch_size: PositiveInt = 64
    thresholds: dict[str, Bound] = {}


class Sampling(Section):
    """How the evaluator draws; the defaults draw from the model itself, as the paper does.

    A `linear` guidance scale rises from 1 at an image's first token to `guidance` at its last.
    """

    temperature: NonNegative = 1.0
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    guidance: NonNegative = 1.0
    guidance_schedule: Literal["constant", "linear"] = "constant"


class GenerationEvaluation(Section):
    """Drawn images against real ones.

    `acceptance` is the share of each class's images that the classifier keeps for scoring (Table 6).
    """

    samples: PositiveInt = 1000
    batch_size: PositiveInt = 100
    acceptance: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    sampling: Sampling = Sampling()
    thresholds: dict[str, Bound] = {}


class LinearProbeEvaluation(Section):
    """A linear layer on the frozen features of every block (section 4.2, Appendix A)."""

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
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: Data
    stage1: Annotated[
        Annotated[Stage1, Tag("stage1")] | Annotated[ImportedTokenizer, Tag("importedtokenizer")],
        Discriminator(_kind_of_stage1),
    ]
    classifier: Classifier
    tokens: Tokens = Tokens()
    stage2: Stage2
    evaluation: Evaluation = Evaluation()

    @property
    def trained_stage1(self) -> Stage1:
        """Stage 1 where it is trained.

        Raises:
          ConfigError: its tokenizer is imported.
        """
        if isinstance(self.stage1, ImportedTokenizer):
            raise ConfigError(f"stage1 is imported from {self.stage1.savedmodel}; nothing of it is trained")
        return self.stage1

    @pydantic.model_validator(mode="after")
    def _stage1_fits_the_image(self) -> Config:
        if isinstance(self.stage1, ImportedTokenizer):
            return self
        size, patch = self.data.image_size, self.stage1.model.patch_size
        if size % patch:
            raise ValueError(f"data.image_size {size} is not a multiple of stage1.model.patch_size {patch}")
        if self.stage1.loss.adversarial:
            self.stage1.adversary.discriminator.check_image_size(size)
        smallest = self.stage1.perceptual.smallest_side
        if self.stage1.loss.perceptual and size < smallest:
            raise ValueError(f"data.image_size {size} is below {smallest}, the least that vgg16 takes")
        return self

    @pydantic.model_validator(mode="after")
    def _rejection_has_classes(self) -> Config:
        acceptance = self.evaluation.generation.acceptance
        if acceptance < 1 and not self.stage2.model.class_conditional:
            raise ValueError(
                f"evaluation.generation.acceptance {acceptance} needs classes, and "
                "stage2.model.class_conditional is false; allowed is 1.0"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _guidance_was_trained(self) -> Config:
        guidance, model = self.evaluation.generation.sampling.guidance, self.stage2.model
        if guidance != 1.0 and not (model.class_conditional and model.label_drop):
            raise ValueError(
                f"evaluation.generation.sampling.guidance {guidance} needs a model that knows images with "
                "and without their class: stage2.model.class_conditional true and label_drop above 0; "
                "allowed is 1.0"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _tokens_on_the_fly_are_new(self) -> Config:
        augmentation = self.data.augmentation
        if self.stage2.tokens == "on_the_fly" and augmentation.min_scale == 1.0 and not augmentation.flip:
            raise ValueError(
                "stage2.tokens on_the_fly would make the same tokens in every epoch; set it to cached, or "
                "data.augmentation.min_scale below 1, or data.augmentation.flip"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _variants_differ(self) -> Config:
        augmentation = self.data.augmentation
        if self.tokens.augmentations and augmentation.min_scale == 1.0 and not augmentation.flip:
            raise ValueError(
                f"tokens.augmentations {self.tokens.augmentations} would repeat the centre crop; "
                "set data.augmentation.min_scale below 1 or data.augmentation.flip"
            )
        return self


def presets() -> list[str]:
    """Names of the presets that come with the project: sorted, ablations last."""
    names = [path.relative_to(PRESETS).with_suffix("").as_posix() for path in PRESETS.rglob("*.yaml")]
    return sorted(names, key=lambda name: (name.count("/"), name))


def load(preset: str, overrides: Sequence[str] = (), *, small: bool = False) -> Config:
    """The configuration of a preset.

    Args:
      preset: a preset's name, or the path of a YAML file.
      overrides: `key=value` each, the key dotted (`stage1.train.steps=100`), the value in YAML.
      small: lay the preset's own `small:` overlay over it first, a few steps of tiny models.

    Raises:
      ConfigError: the preset is unknown or unreadable, or a value is not allowed.
    """
    tree = _read(preset)
    shrunk = tree.pop("small", None)
    if small:
        if shrunk is None:
            raise ConfigError(f"preset {preset} has no small: overlay, so --small cannot shrink it")
        _merge(tree, shrunk)
    for override in overrides:
        _set(tree, override)
    try:
        return Config.model_validate(tree)
    except pydantic.ValidationError as error:
        raise ConfigError(_first_line(error)) from None


class _Only(dict):
    """A mapping that is taken alone, and not merged with what it is laid over."""


class _Loader(yaml.SafeLoader):
    """Safe YAML, and `!only`."""


def _construct_only(loader: _Loader, node: yaml.MappingNode) -> _Only:
    return _Only(loader.construct_mapping(node, deep=True))


_Loader.add_constructor("!only", _construct_only)


def _read(preset: str, *, folder: Path | None = None, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The tree of a preset, laid over that of its `base:` where it has one.

    A path is relative to `folder`, that of the file which named it; `above` are the files that are laid
    over this one. A name is not inherited, so that no two presets share the folder of a run.
    """
    path = _find(preset, folder)
    if path in above:
        chain = " -> ".join(file.name for file in (*above[above.index(path) :], path))
        raise ConfigError(f"base: goes in a circle: {chain}")
    try:
        tree = yaml.load(path.read_text(), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds no mapping of keys to values")
    if "base" not in tree:
        return tree
    base = tree.pop("base")
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: is the name of a preset, or a .yaml file (given: {base!r})")
    merged = _read(base, folder=path.parent, above=(*above, path))
    merged.pop("name", None)
    _merge(merged, tree)
    return merged


def _find(preset: str, folder: Path | None) -> Path:
    if preset.endswith((".yaml", ".yml")):
        path = Path(folder or "", preset).resolve()
    else:
        path = PRESETS / f"{preset}.yaml"
    if not path.is_file():
        known = [name for name in presets() if "/" not in name]
        raise ConfigError(
            f"unknown preset {preset!r}; allowed are {', '.join(known)}, what `tfx-vim presets` lists "
            "under ablations/, or a .yaml file"
        )
    return path


def _set(tree: dict[str, Any], override: str) -> None:
    """Puts the value of `key.key=value` in its place, whatever stood there."""
    key, equals, text = override.partition("=")
    *sections, last = key.split(".")
    if not equals or not all([*sections, last]):
        raise ConfigError(f"--set {override!r} is not of the form key.key=value")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"unknown key {key}; {section} holds a value and no keys")
    try:
        tree[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        tree[last] = text


def _merge(tree: dict[str, Any], overlay: dict[str, Any]) -> None:
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict) and not isinstance(value, _Only):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _first_line(error: pydantic.ValidationError) -> str:
    """The first complaint of pydantic's, as one line: key, what was given, what is allowed."""
    complaint = error.errors()[0]
    names, _ = _locate(complaint["loc"])
    key = ".".join(names)
    message = complaint["msg"].removeprefix("Value error, ")
    if complaint["type"] == "extra_forbidden":
        _, (section, *_) = _locate(complaint["loc"][:-1])
        return f"unknown key {key}; allowed are {', '.join(section.model_fields)}"
    if complaint["type"] in ("missing", "union_tag_not_found"):
        return f"{key} is missing" if complaint["type"] == "missing" else f"{key}.network is missing"
    given = complaint["input"]
    shown = "" if isinstance(given, (dict, Section)) else f" (given: {given!r})"
    return f"{key}: {message}{shown}" if key else message


def _locate(location: tuple[int | str, ...]) -> tuple[list[str], list[type[Section]]]:
    """The keys of a complaint's location, and the kinds of section that may stand there.

    Where more than one kind may, pydantic puts the kind's name, in whatever case, into the location.
    """
    names: list[str] = []
    sections: list[type[Section]] = [Config]
    for part in map(str, location):
        kinds = [section for section in sections if section.__name__.lower() == part.lower()]
        if len(sections) > 1 and kinds:
            sections = kinds
            continue
        names.append(part)
        field = next((s.model_fields[part] for s in sections if part in s.model_fields), None)
        if field is not None:
            sections = _sections_in(field.annotation)
    return names, sections


def _sections_in(annotation: Any) -> list[type[Section]]:
    """The sections that an annotation speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_in(part)]
