"""The commands for Kubeflow: `compile` and `submit`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from tfx_pipeline import config as configuration
from tfx_pipeline import preflight
from tfx_pipeline.kubeflow import checks
from tfx_pipeline.options import configured, one_line_errors

_THERE = click.Path(exists=True, dir_okay=False, path_type=Path)
_ONLY_THERE = "if only the cluster can read it, name its version with"


@click.command("compile")
@configured
@click.option("--image", required=True, metavar="REPO:TAG", help="Container image of every component.")
@click.option("--output", required=True, metavar="FILE.yaml", help="Where to write the PipelineSpec.")
@click.option(
    "--run",
    "run_dir",
    metavar="URI",
    help="Folder of all runs that name no other one.  [default: each run's own, beside its artifacts]",
)
@click.option(
    "--pipeline-root", metavar="URI", help="Folder of the artifacts.  [default: the installation's]"
)
@click.option(
    "--dataset-version",
    metavar="TEXT",
    help="Version of images that only the cluster can read; a new one makes it read them again.",
)
@click.option("--tokenizer-version", metavar="TEXT", help="Likewise, of an imported tokenizer.")
@click.option("--classifier-version", metavar="TEXT", help="Likewise, of a pretrained classifier.")
@click.option("--features-version", metavar="TEXT", help="Likewise, of a feature network.")
@click.option("--lpips-version", metavar="TEXT", help="Likewise, of the network of LPIPS.")
@click.option("--beam", "beam_args", multiple=True, metavar="FLAG", help="A flag for Beam; repeatable.")
@click.option(
    "--to",
    metavar="COMPONENT",
    help="Compile only it and what it depends on.",
)
@click.option(
    "--trainer-jobs",
    metavar="DIR",
    help="Write manifests of the trainings for several hosts and TPUs too; needs --run.",
)
def compile_(
    preset: str,
    overrides: tuple[str, ...],
    small: bool,
    image: str,
    output: str,
    run_dir: str | None,
    pipeline_root: str | None,
    dataset_version: str | None,
    tokenizer_version: str | None,
    classifier_version: str | None,
    features_version: str | None,
    lpips_version: str | None,
    beam_args: tuple[str, ...],
    to: str | None,
    trainer_jobs: str | None,
) -> None:
    """Compile the pipeline for Kubeflow Pipelines v2."""
    if trainer_jobs and not run_dir:
        raise click.UsageError("--run must be given with --trainer-jobs: both keep checkpoints there")
    config = configuration.load(preset, overrides, small=small)
    # Before TFX is imported, which takes seconds.
    checks.check_arguments(image, output, run=run_dir, pipeline_root=pipeline_root)
    checks.check_beam(config.beam.all_flags(beam_args))
    try:
        preflight.check_inputs(
            config,
            source=not dataset_version,
            tokenizer=not tokenizer_version,
            classifier=not classifier_version,
        )
    except preflight.RunError as error:
        raise click.ClickException(
            f"{error}; {_ONLY_THERE} --dataset-version, --tokenizer-version or --classifier-version"
        ) from error
    from components.classifier_importer.network import ClassifierError
    from components.evaluators.network_names import ProtocolError
    from components.image_example_gen.sources import SourceError, source_version
    from components.tokenizer_importer.saved_tokenizer import TokenizerError
    from tfx_pipeline import pipeline, versions
    from tfx_pipeline.kubeflow import compiler, parameters

    with _only_there("--dataset-version", SourceError):
        version = dataset_version or source_version(config.data.source, config.data.options)
    with _only_there("--tokenizer-version", TokenizerError):
        tokenizer = tokenizer_version or versions.tokenizer(config)
    with _only_there("--classifier-version", ClassifierError):
        classifier = classifier_version or versions.classifier(config)
    with _only_there("--features-version", ProtocolError):
        features = features_version or versions.features(config)
    with _only_there("--lpips-version", ProtocolError):
        perceptual = lpips_version or versions.perceptual(config)
    if trainer_jobs and run_dir:
        from tfx_pipeline.kubeflow import trainer_jobs as jobs

        jobs.check(config, run_dir)
    graph = pipeline.create_pipeline(
        config.with_seed(parameters.STAND_INS[parameters.SEED]),
        run_dir=parameters.STAND_INS[parameters.RUN_FOLDER],
        serving_dir=parameters.STAND_INS[parameters.SERVING_FOLDER],
        versions=versions.Versions(
            parameters.STAND_INS[parameters.DATASET_VERSION], tokenizer, classifier, features, perceptual
        ),
        beam_pipeline_args=beam_args,
        to=to or "",
    )
    defaults: dict[str, str | int] = {
        parameters.RUN_FOLDER: run_dir or "",
        parameters.SERVING_FOLDER: "",
        parameters.DATASET_VERSION: version,
        parameters.SEED: config.seed,
    }
    compiler.compile_pipeline(
        graph,
        image,
        output,
        defaults=defaults,
        pods=config.platform,
        pipeline_root=pipeline_root,
    )
    click.echo(f"{output}: pipeline {graph.pipeline_info.pipeline_name}, {len(graph.components)} tasks")
    if trainer_jobs and run_dir:
        for path in jobs.write(config, trainer_jobs, image=image, run=run_dir):
            click.echo(path)


@contextlib.contextmanager
def _only_there(option: str, error: type[Exception]) -> Iterator[None]:
    """Name the option for what only the cluster can read."""
    try:
        yield
    except error as raised:
        raise click.ClickException(f"{raised}; {_ONLY_THERE} {option}") from raised


@click.command()
@click.argument("file", metavar="FILE.yaml", type=click.Path(path_type=Path))
@click.option(
    "--host", required=True, metavar="URL", help="The Pipelines API, such as http://localhost:8080."
)
@click.option("--experiment", default="tfx-vim", help="The experiment that the run belongs to.")
@click.option("--name", metavar="TEXT", help="Of the run.  [default: the file's and the time]")
@click.option("--parameter", "given", multiple=True, metavar="NAME=VALUE", help="Of the run; repeatable.")
@click.option("--namespace", metavar="NAME", help="Of a user, on a multi-user installation.")
@click.option("--service-account", metavar="NAME", help="Of the run's pods.")
@click.option("--token-file", type=_THERE, help="Holds a bearer token.")
@click.option("--cookies-file", type=_THERE, help="Holds cookies of a login.")
@click.option("--wait", is_flag=True, help="Follow the run; exit with 1 if it fails.")
def submit(
    file: Path,
    host: str,
    experiment: str,
    name: str | None,
    given: tuple[str, ...],
    namespace: str | None,
    service_account: str | None,
    token_file: Path | None,
    cookies_file: Path | None,
    wait: bool,
) -> None:
    """Start a run of a compiled pipeline on Kubeflow, and print its link."""
    from tfx_pipeline.kubeflow import submit as submitting

    token, cookies = (path.read_text().strip() if path else None for path in (token_file, cookies_file))
    with one_line_errors(submitting.SubmitError):
        compiled = submitting.read(file)
        parameters = submitting.parse_parameters(compiled, given)
        client = submitting.connect(host, token=token, cookies=cookies)
        run = submitting.submit(
            client,
            host,
            compiled,
            parameters,
            experiment=experiment,
            name=name,
            namespace=namespace,
            service_account=service_account,
        )
        click.echo(run.link)
        if not wait:
            return
        state = submitting.follow(client, run, compiled.tasks, click.echo)
    if state != "SUCCEEDED":
        raise click.ClickException(f"the run must succeed, got {state}: {run.link}")


COMMANDS = (compile_, submit)
