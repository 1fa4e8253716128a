"""The typed configuration of a run: one YAML file, one frozen tree.

A preset is a YAML file under `configs/`. `load` reads one by name or by path, shrinks it on request (its own
`small:` overlay), applies `key=value` overrides and validates the whole. An error is one line that names the
key, what it must be and what was given.

A preset that opens with `base: NAME` states only its differences from another one. Mappings are merged key by
key; one marked `!only` replaces the mapping below it.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import pydantic
import yaml
from pydantic import Discriminator, Field, PositiveInt, Tag

from components.classifier_importer.names import NETWORKS, NetworkFiles
from components.evaluators import network_names
from components.evaluators.network_names import OWN
from components.image_example_gen.classes import Check
from components.image_example_gen.source_kinds import Reading, SourceOptions, parse_source
from components.metrics import registry
from serving.export.metadata import MAX_PIXELS, WHITE
from serving.export.sampling_params import SamplingParams
from serving.wire.errors import did_you_mean
from tfx_pipeline.beam import Beam
from tfx_pipeline.kubeflow.platform import Platform
from trainers.classifier.config import Classifier
from trainers.training.config import Augmentation, Count, Fraction, Positive, Section
from trainers.vim.config import Stage2
from trainers.vit_vqgan.config import Stage1

_HERE = Path(__file__).resolve().parent
# Beside the package in a checkout, inside it once installed (setup.py).
PRESETS = next(path for path in (_HERE / "configs", _HERE.parent / "configs") if path.is_dir())


class ConfigError(ValueError):
    """An invalid configuration; the message is one line for the user."""


class Data(Section):
    """Where images come from, how they are split and how they are stored."""

    source: str
    image_size: PositiveInt
    splits: dict[str, PositiveInt] = {"train": 90, "eval": 10}
    tfds_data_dir: str | None = None
    image_feature: str | None = None
    label_feature: str | None = None
    num_shards: PositiveInt = 1
    max_broken: Fraction = 0.01
    allow: tuple[Check, ...] = ()
    ground: Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")] = WHITE
    augmentation: Augmentation = Augmentation()

    @property
    def reading(self) -> Reading:
        """The source and how to read it."""
        return Reading(
            self.source, self.options, self.splits, self.max_broken, tuple(sorted(self.allow)), self.ground
        )

    @property
    def options(self) -> SourceOptions:
        """How to open the source."""
        return SourceOptions(self.tfds_data_dir, self.image_feature, self.label_feature)

    @pydantic.field_validator("source")
    @classmethod
    def _known_kind(cls, source: str) -> str:
        parse_source(source)
        return source

    @pydantic.field_validator("splits")
    @classmethod
    def _train_and_eval(cls, splits: dict[str, int]) -> dict[str, int]:
        if set(splits) != {"train", "eval"}:
            raise ValueError(f"must be the shares of train and eval, got {', '.join(sorted(splits))}")
        return splits


class ImportedTokenizer(Section):
    """An imported tokenizer in place of stage 1, such as DALL-E's dVAE (Table 7).

    `savedmodel` is the folder of a SavedModel with the signatures of `serving.export.tokenizer`.
    """

    savedmodel: Annotated[str, Field(min_length=1)]


def _kind_of_stage1(given: Any) -> str:
    imported = "savedmodel" in given if isinstance(given, dict) else isinstance(given, ImportedTokenizer)
    return "importedtokenizer" if imported else "stage1"


class PretrainedClassifier(Section):
    """A network of keras.applications in place of the trained classifier, such as ResNet101 (Table 6).

    `weights` is its file with its top, `.h5` or `.weights.h5`; without it keras.applications looks into its
    cache, then downloads them. `classes` is a text file with the name of a class a line, in the network's
    order; without it they are ImageNet's by their WordNet IDs.
    """

    network: str
    weights: str = ""
    classes: str = ""

    @pydantic.field_validator("network")
    @classmethod
    def _known(cls, network: str) -> str:
        if network not in NETWORKS:
            near = did_you_mean(network, NETWORKS)
            raise ValueError(f"must be one of {', '.join(NETWORKS)}, got {network!r}{near}")
        return network

    @property
    def files(self) -> NetworkFiles:
        """What names the network."""
        return NetworkFiles(self.network, self.weights, self.classes)


def _kind_of_classifier(given: Any) -> str:
    pretrained = "network" in given if isinstance(given, dict) else isinstance(given, PretrainedClassifier)
    return "pretrainedclassifier" if pretrained else "classifier"


class Tokens(Section):
    """TokenTransform: `augmentations` random variants of a training image beside its centre crop."""

    augmentations: Count = 0
    batch_size: PositiveInt = 64
    num_shards: PositiveInt = 1


class Export(Section):
    """What the exported models take: an image with more than `max_image_pixels` is refused."""

    max_image_pixels: Annotated[int, Field(gt=0, le=MAX_PIXELS)] = MAX_PIXELS


class Bound(Section):
    """Bounds of a metric for a model to be blessed.

    `worse_by` is how much worse it may be than that of the last pushed model, measured on the same images.
    """

    min: float | None = None
    max: float | None = None
    worse_by: Annotated[float, Field(ge=0.0)] | None = None


class ReconstructionEvaluation(Section):
    """Held-out images against their reconstructions; `lpips` is the folder of a SavedModel for LPIPS."""

    batch_size: PositiveInt = 64
    lpips: str = ""
    thresholds: dict[str, Bound] = {}

    @pydantic.field_validator("thresholds")
    @classmethod
    def _known_metrics(cls, thresholds: dict[str, Bound]) -> dict[str, Bound]:
        return _check_metrics(thresholds, registry.RECONSTRUCTION)


class GenerationEvaluation(Section):
    """Sampled images against real ones.

    A file of samples has `shard_size` of them, of which a killed run loses one. `acceptance` is the share of
    each class's images that the classifier keeps for scoring (Table 6). The seed of `sampling` is by default
    the run's.
    """

    samples: PositiveInt = 1000
    batch_size: PositiveInt = 100
    shard_size: PositiveInt = 1000
    acceptance: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    sampling: SamplingParams = SamplingParams()
    thresholds: dict[str, Bound] = {}

    @pydantic.field_validator("thresholds")
    @classmethod
    def _known_metrics(cls, thresholds: dict[str, Bound]) -> dict[str, Bound]:
        return _check_metrics(thresholds, registry.GENERATION)


class LinearProbeEvaluation(Section):
    """A linear layer on the frozen features of every block (section 4.2, Appendix A).

    `batch_size` is the probe's; the image model computes features of `features_batch_size` images at once.
    """

    batch_size: PositiveInt = 64
    features_batch_size: PositiveInt = 64
    epochs: PositiveInt = 90
    learning_rate: Positive = 1e-2


class Evaluation(Section):
    """The three evaluators.

    `features` names the network in whose features FID and the Inception Score are measured: `classifier`, the
    run's own, or one at a path (`components.evaluators.network_names`).
    """

    features: str = OWN
    reconstruction: ReconstructionEvaluation = ReconstructionEvaluation()
    generation: GenerationEvaluation = GenerationEvaluation()
    linear_probe: LinearProbeEvaluation = LinearProbeEvaluation()

    @pydantic.field_validator("features")
    @classmethod
    def _known_network(cls, features: str) -> str:
        if features != OWN:
            network_names.parse(features)
        return features


class Config(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: Data
    stage1: Annotated[
        Annotated[Stage1, Tag("stage1")] | Annotated[ImportedTokenizer, Tag("importedtokenizer")],
        Discriminator(_kind_of_stage1),
    ]
    classifier: Annotated[
        Annotated[Classifier, Tag("classifier")]
        | Annotated[PretrainedClassifier, Tag("pretrainedclassifier")],
        Discriminator(_kind_of_classifier),
    ]
    tokens: Tokens = Tokens()
    stage2: Stage2
    evaluation: Evaluation = Evaluation()
    export: Export = Export()
    beam: Beam = Beam()
    platform: Platform = Platform()
    # What `load` was told beyond the preset: dotted key -> value.
    _changes: dict[str, Any] = pydantic.PrivateAttr(default_factory=dict)

    def label(self, *sections: str) -> str:
        """The changes against the preset in these sections, in a few words that a file name may have."""
        own = {key: value for key, value in self._changes.items() if key.partition(".")[0] in sections}
        words = [f"{key.rpartition('.')[2]}={value}" for key, value in sorted(own.items())]
        return re.sub(r"[^\w.=+-]+", "-", "_".join(words))[:60].strip("-_")

    def with_seed(self, seed: int) -> Config:
        """The same run with another seed; that of the samples changes too if it was the run's."""
        tree = self.model_dump()
        sampling = tree["evaluation"]["generation"]["sampling"]
        if sampling["seed"] == self.seed:
            sampling["seed"] = seed
        config = Config.model_validate({**tree, "seed": seed})
        config._changes.update(self._changes)
        if "seed" in config._changes:
            config._changes["seed"] = seed
        return config

    @property
    def trained_stage1(self) -> Stage1:
        """The section of a trained stage 1.

        Raises:
          ConfigError: the tokenizer is imported.
        """
        if isinstance(self.stage1, ImportedTokenizer):
            raise ConfigError(f"stage1 must be trained, got an import of {self.stage1.savedmodel}")
        return self.stage1

    @property
    def trained_classifier(self) -> Classifier:
        """The section of a trained classifier.

        Raises:
          ConfigError: the classifier is pretrained.
        """
        if isinstance(self.classifier, PretrainedClassifier):
            raise ConfigError(f"classifier must be trained, got a pretrained {self.classifier.network}")
        return self.classifier

    @pydantic.model_validator(mode="before")
    @classmethod
    def _samples_have_the_runs_seed(cls, tree: Any) -> Any:
        if not isinstance(tree, dict) or not isinstance(tree.get("seed"), int):
            return tree
        tree = copy.deepcopy(tree)
        section = tree
        for key in ("evaluation", "generation", "sampling"):
            section = section.setdefault(key, {})
            if not isinstance(section, dict):  # given as an object, or wrong and reported later
                return tree
        section.setdefault("seed", tree["seed"])
        return tree

    @pydantic.model_validator(mode="after")
    def _stage1_fits_the_image(self) -> Config:
        if isinstance(self.stage1, ImportedTokenizer):
            return self
        size, patch = self.data.image_size, self.stage1.model.patch_size
        if size % patch:
            raise ValueError(
                f"data.image_size must be a multiple of stage1.model.patch_size {patch}, got {size}"
            )
        if self.stage1.loss.adversarial:
            self.stage1.adversary.discriminator.check_image_size(size)
        smallest, network = self.stage1.perceptual.smallest_side, self.stage1.perceptual.network
        if self.stage1.loss.perceptual and size < smallest:
            raise ValueError(f"data.image_size must be at least {smallest} for {network}, got {size}")
        return self

    @pydantic.model_validator(mode="after")
    def _rejection_has_classes(self) -> Config:
        acceptance = self.evaluation.generation.acceptance
        if acceptance < 1 and not self.stage2.model.class_conditional:
            raise ValueError(
                "evaluation.generation.acceptance must be 1.0 if stage2.model.class_conditional is false, "
                f"got {acceptance}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _guidance_was_trained(self) -> Config:
        scale, model = self.evaluation.generation.sampling.guidance_scale, self.stage2.model
        if scale != 1.0 and not (model.class_conditional and model.class_dropout):
            raise ValueError(
                "evaluation.generation.sampling.guidance_scale must be 1.0 unless "
                "stage2.model.class_conditional is true and stage2.model.class_dropout is above 0, got "
                f"{scale}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _tokens_on_the_fly_vary(self) -> Config:
        augmentation = self.data.augmentation
        if self.stage2.tokens == "on_the_fly" and augmentation.min_scale == 1.0 and not augmentation.flip:
            raise ValueError(
                "stage2.tokens must be cached if data.augmentation has neither min_scale below 1 nor flip, "
                "got on_the_fly, which would repeat the same tokens in every epoch"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _variants_differ(self) -> Config:
        augmentation = self.data.augmentation
        if self.tokens.augmentations and augmentation.min_scale == 1.0 and not augmentation.flip:
            raise ValueError(
                "tokens.augmentations must be 0 if data.augmentation has neither min_scale below 1 nor flip, "
                f"got {self.tokens.augmentations}"
            )
        return self


def pipeline_name(name: str) -> str:
    """The name of the pipeline of a configuration of this name, which Kubernetes accepts."""
    return f"tfx-vim-{name}".replace("_", "-")


def presets() -> list[str]:
    """Names of the project's presets: sorted, ablations last."""
    names = [path.relative_to(PRESETS).with_suffix("").as_posix() for path in PRESETS.rglob("*.yaml")]
    return sorted(names, key=lambda name: (name.count("/"), name))


def load(preset: str, overrides: Sequence[str] = (), *, small: bool = False) -> Config:
    """Load the configuration of a preset.

    Args:
      preset: a preset's name, or the path of a YAML file.
      overrides: `key=value` each, the key dotted (`stage1.train.steps=100`), the value in YAML.
      small: apply the preset's own `small:` overlay first, a few steps of tiny models.

    Raises:
      ConfigError: the preset is unknown or unreadable, or a value is invalid.
    """
    tree = _read(preset)
    shrunk = tree.pop("small", None)
    if small:
        if shrunk is None:
            raise ConfigError(f"preset must have a small: overlay for --small, got {preset} without one")
        _merge(tree, shrunk)
    preset_alone = copy.deepcopy(tree)
    for override in overrides:
        _set(tree, override)
    try:
        config = Config.model_validate(tree)
    except pydantic.ValidationError as error:
        raise ConfigError(_one_line(error)) from None
    with contextlib.suppress(pydantic.ValidationError):  # a preset that needs an override
        before = _flat(Config.model_validate(preset_alone).model_dump(mode="json"))
        after = _flat(config.model_dump(mode="json"))
        config._changes.update({key: value for key, value in after.items() if before.get(key) != value})
    return config


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """A tree of values as dotted key -> value."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


class _Only(dict[str, Any]):
    """A mapping that replaces the one below it instead of being merged."""


class _Loader(yaml.SafeLoader):
    """Safe YAML, and `!only`."""


def _construct_only(loader: _Loader, node: yaml.MappingNode) -> _Only:
    mapping = loader.construct_mapping(node, deep=True)
    return _Only({str(key): value for key, value in mapping.items()})


_Loader.add_constructor("!only", _construct_only)


def _read(preset: str, *, folder: Path | None = None, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The tree of a preset, merged over that of its `base:` if it has one.

    A path is relative to `folder`, that of the file which names it; `above` are the files that are merged
    over this one. `name` is not inherited, so that no two presets share a run's folder.
    """
    path = _find(preset, folder)
    if path in above:
        chain = " -> ".join(file.name for file in (*above[above.index(path) :], path))
        raise ConfigError(f"base: must not be circular, got {chain}")
    try:
        tree = yaml.load(path.read_text(), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values")
    if "base" not in tree:
        return tree
    base = tree.pop("base")
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: must be the name of a preset or a .yaml file, got {base!r}")
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
        if preset.endswith((".yaml", ".yml")):
            raise ConfigError(f"preset must be a .yaml file that exists, got {preset!r}")
        raise ConfigError(
            f"preset must be one of {', '.join(known)}, an ablation (`tfx-vim presets`) or a .yaml file, "
            f"got {preset!r}{did_you_mean(preset, presets())}"
        )
    return path


def _set(tree: dict[str, Any], override: str) -> None:
    """Set the value of `key.key=value`, replacing the one before."""
    key, equals, text = override.partition("=")
    *sections, last = key.split(".")
    if not equals or not all([*sections, last]):
        raise ConfigError(f"--set must be of the form key.key=value, got {override!r}")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"unknown key {key}: {section} is a value and has no keys")
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


def _check_metrics(thresholds: dict[str, Bound], metrics: Sequence[registry.Metric[Any]]) -> dict[str, Bound]:
    for metric in thresholds.keys() - set(registry.names(metrics)):
        known = registry.names(metrics)
        near = did_you_mean(metric, known)
        raise ValueError(f"metric must be one of {', '.join(known)}, got {metric!r}{near}")
    for metric, bound in thresholds.items():
        if bound.worse_by is not None and not registry.better_of(metric):
            raise ValueError(f"{metric} must have min or max, got worse_by: neither way is better")
    return thresholds


def _one_line(error: pydantic.ValidationError) -> str:
    """Pydantic's first error as one line: the key, what it must be, what was given."""
    first = error.errors()[0]
    names, _ = _locate(first["loc"])
    key = ".".join(names)
    if first["type"] == "extra_forbidden":
        _, (section, *_) = _locate(first["loc"][:-1])
        return (
            f"unknown key {key}: must be one of {', '.join(section.model_fields)}"
            f"{did_you_mean(names[-1], section.model_fields)}"
        )
    if first["type"] in ("missing", "union_tag_not_found"):
        return f"{key} is missing" if first["type"] == "missing" else f"{key}.network is missing"
    if first["type"] == "union_tag_invalid":
        # The discriminator is a key, in quotes, or the function that reads `kind` with its default.
        field = first["ctx"]["discriminator"].strip("'")
        field = "kind" if field.endswith("()") else field
        return f"{key}.{field} must be one of {first['ctx']['expected_tags']}, got {first['ctx']['tag']!r}"
    message = re.sub(r"^\w+ should ", "must ", first["msg"].removeprefix("Value error, "))
    message = message.partition(", unable to")[0]
    given = first["input"]
    shown = "" if isinstance(given, (dict, pydantic.BaseModel)) else f", got {given!r}"
    if message.startswith("must "):
        return f"{key} {message}" + ("" if ", got " in message else shown)
    return f"{key}: {message}" if key else message


def _locate(location: tuple[int | str, ...]) -> tuple[list[str], list[type[pydantic.BaseModel]]]:
    """The keys of an error's location, and the kinds of section that it may have.

    If there is more than one kind, pydantic puts the kind's name, in any case, into the location.
    """
    names: list[str] = []
    sections: list[type[pydantic.BaseModel]] = [Config]
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


def _sections_in(annotation: Any) -> list[type[pydantic.BaseModel]]:
    """The sections in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_in(part)]
