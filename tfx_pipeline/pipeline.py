"""The graph: from a collection of images to a served tokenizer and image model.

It reads from top to bottom in the order of execution. Where it runs and where its files are is up to the
runners.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from google.protobuf.message import Message
from tfx import v1 as tfx
from tfx.dsl.components.base.base_beam_component import BaseBeamComponent
from tfx.dsl.components.base.base_component import BaseComponent

from components.classifier_importer.component import ClassifierImporter
from components.evaluators import blessing
from components.evaluators.generation.component import GenerationEvaluator
from components.evaluators.linear_probe.component import LinearProbeEvaluator
from components.evaluators.reconstruction.component import ReconstructionEvaluator
from components.example_validator.component import ExampleValidator
from components.image_example_gen.component import ImageExampleGen
from components.image_sampler.component import ImageSampler
from components.model_validator.component import ModelValidator
from components.pusher.component import Pusher
from components.reference_statistics.component import ReferenceStatistics
from components.run_report.component import RunReport
from components.token_transform.component import TokenTransform
from components.tokenizer_importer.component import TokenizerImporter
from serving.wire.errors import did_you_mean
from tfx_pipeline import code, trainings
from tfx_pipeline.config import (
    Config,
    ConfigError,
    ImportedTokenizer,
    PretrainedClassifier,
    pipeline_name,
)
from tfx_pipeline.versions import Versions


def create_pipeline(
    config: Config,
    *,
    run_dir: str,
    serving_dir: str = "",
    versions: Versions,
    beam_pipeline_args: Sequence[str] = (),
    metadata_connection_config: Message | None = None,
    to: str = "",
) -> tfx.dsl.Pipeline:
    """Build the pipeline of a run.

    Args:
      config: the run's configuration.
      run_dir: the folder that holds everything of this run; local or of an object store.
      serving_dir: the folder that a model server watches; `serving` in the run's folder by default.
      versions: of what is read from outside, so that the cache notices changes.
      beam_pipeline_args: flags for Beam beside the configuration's, which they win over.
      metadata_connection_config: where lineage is stored; None if the runner has its own.
      to: the component with which the pipeline ends; it has what this depends on then. All by default.

    Returns:
      The TFX pipeline, for any TFX runner.

    Raises:
      ConfigError: `train.warm_start` of a section has no weights, `beam.steps` names no step of Beam, or
        `to` or `platform.tasks` no component.
    """
    data, evaluation = config.data, config.evaluation
    serving_dir = serving_dir or os.path.join(run_dir, "serving")

    images = ImageExampleGen(
        source=data.source,
        splits=data.splits,
        num_shards=data.num_shards,
        max_broken=data.max_broken,
        ground=data.ground,
        options=data.options,
        allow=data.allow,
        dataset_version=versions.dataset,
    )
    statistics = tfx.components.StatisticsGen(examples=images.outputs["examples"])
    # What is held out is measured against what is trained on.
    schema = tfx.components.SchemaGen(statistics=statistics.outputs["statistics"], exclude_splits=["eval"])
    strict = "anomalies" not in data.allow
    validation = (ExampleValidator if strict else tfx.components.ExampleValidator)(
        statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"], exclude_splits=["train"]
    )

    tokenizer: BaseComponent
    if isinstance(config.stage1, ImportedTokenizer):
        tokenizer = TokenizerImporter(
            savedmodel=config.stage1.savedmodel, image_size=data.image_size, version=versions.tokenizer
        )
    else:
        tokenizer = _trainer("tokenizer", images, config, run_dir, serving_dir)
    classifier: BaseComponent
    if isinstance(config.classifier, PretrainedClassifier):
        classifier = ClassifierImporter(
            examples=images.outputs["examples"],
            files=config.classifier.files,
            preset=config.name,
            image_size=data.image_size,
            ground=data.ground,
            max_image_pixels=config.export.max_image_pixels,
            version=versions.classifier,
        )
    else:
        classifier = _trainer("classifier", images, config, run_dir, serving_dir)
    for model in (tokenizer, classifier):
        model.add_upstream_node(validation)
    tokens = TokenTransform(
        examples=images.outputs["examples"],
        model=tokenizer.outputs["model"],
        augmentations=config.tokens.augmentations,
        min_scale=data.augmentation.min_scale,
        flip=data.augmentation.flip,
        seed=config.seed,
        batch_size=config.tokens.batch_size,
        num_shards=config.tokens.num_shards,
        max_broken=data.max_broken,
    )
    cached = config.stage2.tokens == "cached"
    examples = tokens if cached else images
    vim = _trainer("vim", examples, config, run_dir, serving_dir, base_model=tokenizer)

    gates = {
        name: getattr(evaluation, name).model_dump(exclude_none=True)["thresholds"]
        for name in ("reconstruction", "generation")
    }
    served = {name: os.path.join(serving_dir, folder) for name, folder in trainings.SERVED_AS.items()}
    reconstruction = ReconstructionEvaluator(
        examples=images.outputs["examples"],
        model=tokenizer.outputs["model"],
        classifier=classifier.outputs["model"],
        batch_size=evaluation.reconstruction.batch_size,
        features=evaluation.features,
        features_version=versions.features,
        lpips=evaluation.reconstruction.lpips,
        lpips_version=versions.lpips,
        thresholds=gates["reconstruction"],
        pushed=served["tokenizer"],
    )
    reference = ReferenceStatistics(
        examples=images.outputs["examples"],
        classifier=classifier.outputs["model"],
        image_size=data.image_size,
        batch_size=evaluation.reconstruction.batch_size,
        features=evaluation.features,
        features_version=versions.features,
    )
    samples = ImageSampler(
        model=vim.outputs["model"],
        drawn=os.path.join(run_dir, "checkpoints", "samples"),
        samples=evaluation.generation.samples,
        acceptance=evaluation.generation.acceptance,
        sampling=evaluation.generation.sampling,
        shard_size=evaluation.generation.shard_size,
        batch_size=evaluation.generation.batch_size,
        pushed=served["vim"] if blessing.compares(gates["generation"]) else "",
    )
    generation = GenerationEvaluator(
        examples=images.outputs["examples"],
        reference=reference.outputs["reference"],
        samples=samples.outputs["examples"],
        model=vim.outputs["model"],
        classifier=classifier.outputs["model"],
        batch_size=evaluation.generation.batch_size,
        features=evaluation.features,
        features_version=versions.features,
        thresholds=gates["generation"],
    )
    linear_probe = LinearProbeEvaluator(
        examples=images.outputs["examples"],
        model=vim.outputs["model"],
        class_dropout=config.stage2.model.class_dropout,
        seed=config.seed,
        **evaluation.linear_probe.model_dump(),
    )

    tokenizer_validator, tokenizer_pusher = _release(
        "tokenizer", tokenizer, reconstruction, served["tokenizer"]
    )
    classifier_validator, classifier_pusher = _release("classifier", classifier, None, served["classifier"])
    vim_validator, vim_pusher = _release("vim", vim, generation, served["vim"])

    components = [
        images,
        statistics,
        schema,
        validation,
        tokenizer,
        classifier,
        *([tokens] if cached else []),
        vim,
        reconstruction,
        reference,
        samples,
        generation,
        linear_probe,
        tokenizer_validator,
        tokenizer_pusher,
        classifier_validator,
        classifier_pusher,
        vim_validator,
        vim_pusher,
    ]
    _give_flags(config, components, beam_pipeline_args)
    report = RunReport(
        config=config.model_dump_json(),
        examples=images.outputs["examples"],
        reconstruction=reconstruction.outputs["evaluation"],
        generation=generation.outputs["evaluation"],
        linear_probe=linear_probe.outputs["evaluation"],
        tokenizer_run=tokenizer.outputs.get("model_run"),
        classifier_run=classifier.outputs.get("model_run"),
        vim_run=vim.outputs["model_run"],
        code=code.run_by(*components).fingerprint,
        output_dir=run_dir,
    )

    whole = [code.mark(component) for component in (*components, report)]
    _check_names("platform.tasks", config.platform.tasks, whole)
    return tfx.dsl.Pipeline(
        pipeline_name=pipeline_name(config.name),
        pipeline_root=os.path.join(run_dir, "pipeline_root"),
        components=_up_to(to, whole) if to else whole,
        enable_cache=True,
        metadata_connection_config=metadata_connection_config,
    )


def _give_flags(config: Config, components: Sequence[BaseComponent], given: Sequence[str]) -> None:
    """Give each step of Beam its flags.

    Raises:
      ConfigError: `beam.steps` names another.
    """
    steps = {one.id: one for one in components if isinstance(one, BaseBeamComponent)}
    _check_names("beam.steps", config.beam.steps, steps.values())
    for name, step in steps.items():
        step.with_beam_pipeline_args(config.beam.flags(name, given))


def _check_names(key: str, names: Iterable[str], components: Iterable[BaseComponent]) -> None:
    """Raise a ConfigError if one of `names` is no component's."""
    known = sorted(component.id for component in components)
    if unknown := sorted(set(names) - set(known)):
        near = did_you_mean(unknown[0], known)
        raise ConfigError(f"{key} must be of {', '.join(known)}, got {unknown[0]}{near}")


def _up_to(name: str, components: Sequence[BaseComponent]) -> list[BaseComponent]:
    """A component, and those that it depends on, in their order."""
    _check_names("to", [name], components)
    known = {component.id: component for component in components}
    wanted: set[str] = set()
    found = [name]
    while found:
        component = known[found.pop()]
        wanted.add(component.id)
        found += [channel.producer_component_id for channel in component.inputs.values()]
        found += [node.id for node in component.upstream_nodes]
    return [component for component in components if component.id in wanted]


def _trainer(
    name: str,
    examples: BaseComponent,
    config: Config,
    run_dir: str,
    serving_dir: str,
    base_model: BaseComponent | None = None,
) -> tfx.components.Trainer:
    """The Trainer of a training of the pipeline (`tfx_pipeline.trainings`)."""
    return tfx.components.Trainer(
        run_fn=trainings.TRAININGS[name].run_fn,
        examples=examples.outputs["examples"],
        base_model=base_model.outputs["model"] if base_model else None,
        custom_config=trainings.custom_config(config, name, run_dir, serving_dir=serving_dir),
    ).with_id(f"Trainer-{name}")


def _release(
    name: str,
    model: BaseComponent,
    evaluator: BaseComponent | None,
    served: str,
) -> tuple[ModelValidator, Pusher]:
    """Validate a model by querying it, and push it if the validator, and the evaluator if any, bless it."""
    validator = ModelValidator(model=model.outputs["model"]).with_id(f"ModelValidator-{name}")
    pusher = Pusher(
        model=model.outputs["model"],
        model_blessing=evaluator.outputs["blessing"] if evaluator else None,
        infra_blessing=validator.outputs["blessing"],
        push_destination=tfx.proto.PushDestination(
            filesystem=tfx.proto.PushDestination.Filesystem(base_directory=served)
        ),
    ).with_id(f"Pusher-{name}")
    return validator, pusher
