"""Run the pipeline on this machine: LocalDagRunner, with Beam's in-process runner."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import signal
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from absl import logging as absl_logging
from google.protobuf.message import Message
from ml_metadata.proto.metadata_store_pb2 import Artifact
from tfx import v1 as tfx
from tfx.dsl.compiler import compiler

from components.classifier_importer import network as pretrained
from components.evaluators import networks
from components.image_example_gen import summary
from components.image_example_gen.sources import SourceError, source_version
from components.image_example_gen.survey import survey
from components.pusher.executor import CONTENT
from components.run_report import folder
from components.run_report.folder import ReportError
from components.tokenizer_importer import saved_tokenizer
from serving.export.atomic import is_remote, write_atomic
from serving.export.versions import content_digest, push, versions
from serving.wire.errors import did_you_mean
from tfx_pipeline import code, console, failures, history, lineage, run_lock, trainings
from tfx_pipeline.config import Config, ImportedTokenizer, PretrainedClassifier
from tfx_pipeline.console import ComponentLog
from tfx_pipeline.lineage import LineageError
from tfx_pipeline.pipeline import create_pipeline
from tfx_pipeline.preflight import RunError, check_paths
from tfx_pipeline.run_lock import RunLock
from tfx_pipeline.versions import Versions
from trainers.training.checkpoint import saved_steps
from trainers.training.errors import TrainingError
from trainers.training.preemption import PREEMPTED, Preempted
from trainers.vit_vqgan.perceptual import load_distance

SURVEY_FILE = "data.json"
CODE_FILE = "code.json"
ALL = "ALL"
# Images that are opened before a run starts: a minute on a disk; over a network, where each may take 50 ms.
HEADERS, REMOTE_HEADERS = 200_000, 1_000


class Stopped(BaseException):
    """The user or the system stopped the run; the message says what is kept.

    No `Exception`, which TFX and Beam would wrap.

    Attributes:
      exit_code: as a shell gives for the signal; 75 if it was SIGTERM and a trainer saved its checkpoint.
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and the content of `metrics.json`."""

    directory: Path
    metrics: dict[str, Any]


def run(
    config: Config, directory: str, beam_args: tuple[str, ...] = (), *, no_cache: Collection[str] = ()
) -> Run:
    """Run the whole graph into `directory`; unchanged components come from the cache.

    Args:
      config: the run's configuration.
      directory: the run's folder, created if missing. A stopped run resumes in it.
      beam_args: further flags for Beam; later ones win.
      no_cache: names of components that run whatever the cache has; `ALL` for all of them.

    Raises:
      SourceError: the images cannot be read, or a survey found a problem; nothing was started.
      TokenizerError: an imported tokenizer is missing or does not fit; nothing was started.
      ClassifierError: a pretrained classifier is missing or another one; nothing was started.
      ProtocolError: the feature network is missing or another one; nothing was started.
      RunError: a component failed; or a perceptual network is missing, and nothing was started. The models
        served before are untouched.
    """
    home = Path(os.path.realpath(directory))
    check_paths(home, config.beam.all_flags(beam_args))
    surveyed = _survey(config, home / SURVEY_FILE)
    pipeline = create_pipeline(
        config,
        run_dir=str(home),
        versions=Versions.of(config, surveyed["fingerprint"]),
        beam_pipeline_args=beam_args,
        # TFX's own function would create the folder before anything has been checked.
        metadata_connection_config=lineage.connection(home / "metadata.db"),
    )
    _require_models(config, surveyed["classes"])
    graph = _compiled(pipeline, no_cache)
    home.mkdir(parents=True, exist_ok=True)
    with run_lock.hold(home) as lock, _stoppable() as signals:
        log: ComponentLog | None = None
        try:
            _say_killed(lock.killed, home)
            lineage.end_abandoned(home)
            write_atomic(home / SURVEY_FILE, json.dumps(surveyed, indent=1))
            click.echo("\n".join(surveyed["lines"]), err=True)
            memory = _memory(home)  # before RunReport replaces the report
            log = ComponentLog(_Listener(pipeline, lock, home / CODE_FILE, no_cache))
            with _followed(log):
                tfx.orchestration.LocalDagRunner().run_with_ir(graph)
            return _finish(home, pipeline.pipeline_info.pipeline_name, log, memory)
        except (Stopped, Preempted, Exception) as error:
            name = log.fail() if log else None
            if isinstance(error, Preempted):
                raise _stopped(signal.SIGTERM, name, home, PREEMPTED) from None
            if signals:  # Beam makes an error of its own kind of whatever a worker raises
                raise _stopped(signals[0], name, home) from None
            if name is None and _is_said(error):
                raise
            raise RunError(f"{name or 'the pipeline'} failed: {failures.reason(error)}") from error


def _finish(
    home: Path, pipeline: str, log: ComponentLog, memory: Mapping[tuple[str, float], int | None]
) -> Run:
    """Bring the folder in line with the last results, which may have come from the cache.

    `memory` is that of earlier executions, by component and seconds.
    """
    store = lineage.open_store(home / "metadata.db")
    results = {
        component.name: lineage.last_result(store, pipeline, component.name) for component in log.components
    }
    # A cached report was published when it was made, and another configuration's may have replaced it since.
    try:
        folder.publish(results["RunReport"].outputs["report"].uri, str(home))
    except ReportError as error:
        raise RunError(f"{error}; `run --no-cache RunReport` writes it anew") from error
    for component in (f"Pusher-{name}" for name in trainings.SERVED_AS):
        _serve(results[component].outputs["pushed_model"], component)
    folder.add_components(
        str(home),
        [
            {
                "name": component.name,
                "state": component.state,
                "seconds": results[component.name].seconds,
                # Of the same execution, which its seconds tell.
                "memory": memory.get((component.name, results[component.name].seconds))
                if component.state == "cached"
                else component.memory,
            }
            for component in log.components
        ],
    )
    history.keep(home)
    return Run(home, json.loads((home / "metrics.json").read_text()))


def _memory(home: Path) -> dict[tuple[str, float], int | None]:
    """The peak memory of executions, by component and seconds, as far as the last report has them."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        components = json.loads((home / "metrics.json").read_text())["components"]
        return {(one["name"], one["seconds"]): one.get("memory") for one in components}
    return {}


class _Listener:
    """Keeps what is known of a run while its components run: the lock, and the code of each."""

    def __init__(self, pipeline: tfx.dsl.Pipeline, lock: RunLock, kept: Path, no_cache: Collection[str]):
        self._upstream = {one.id: {node.id for node in one.upstream_nodes} for one in pipeline.components}
        self._codes = {one.id: code.run_by(one) for one in pipeline.components}
        for each in self._codes.values():
            each.import_modules()
        self._lock = lock
        self._kept = kept
        self._forced = no_cache
        self._before = code.read(kept)
        self._ran: set[str] = set()

    def started(self, name: str) -> None:
        """Write down which component runs."""
        self._lock.note(name)

    def why(self, name: str) -> str:
        """Why a component is not answered from the cache; "" the first time."""
        self._ran.add(name)
        before = self._before.get(name)
        if before is None:
            return ""
        if ALL in self._forced or name in self._forced:
            return "--no-cache"
        after = sorted(self._upstream[name] & self._ran)
        changes = self._codes[name].changes_since(before)
        return changes or (f"new results of {', '.join(after)}" if after else "data or configuration changed")

    def ended(self, name: str) -> None:
        """Keep the code that a component has run, or would have."""
        self._before = {**self._before, name: self._codes[name]}
        code.write(self._kept, self._before)


def _compiled(pipeline: tfx.dsl.Pipeline, no_cache: Collection[str]) -> Message:
    """The graph as the runner takes it, without the cache for some components.

    Raises:
      RunError: there is no component of such a name.
    """
    names = [component.id for component in pipeline.components]
    if unknown := sorted(set(no_cache) - {ALL, *names}):
        near = did_you_mean(unknown[0], names)
        raise RunError(f"--no-cache must be one of {', '.join(names)}, got {unknown[0]}{near}")
    graph = compiler.Compiler().compile(pipeline)
    for node in graph.nodes:
        # Results of the forced run are kept under the same key, and the newest are taken the next time.
        if ALL in no_cache or node.pipeline_node.node_info.id in no_cache:
            node.pipeline_node.execution_options.caching_options.enable_cache = False
    return graph


def _say_killed(killed: run_lock.Holder | None, home: Path) -> None:
    """Say that the run before was killed, and what of it is left."""
    if killed is not None:
        during = f" while {killed.component} ran" if killed.component else ""
        click.echo(
            f"the run before (process {killed.process}) was killed{during}, by the system if memory ran out; "
            f"{_saved(home, killed.component)}, this run goes on from there",
            err=True,
        )


def _saved(home: Path, component: str | None) -> str:
    """What is left of a component that did not end."""
    trainer, _, name = (component or "").partition("-")
    if trainer != "Trainer":
        return "what finished before it is kept"
    trainings = (home / "checkpoints" / name).glob("*/")
    newest = max(trainings, key=lambda folder: folder.stat().st_mtime, default=None)
    steps = saved_steps(str(newest)) if newest else []
    return f"the checkpoint of step {steps[0]} is kept" if steps else "which has no checkpoint yet"


def _survey(config: Config, kept: Path) -> dict[str, Any]:
    """Look at the images before the run; once for the same images.

    Raises:
      SourceError: the run would refuse them.
    """
    reading = config.data.reading
    asked = hashlib.sha256(repr(reading).encode()).hexdigest()
    with contextlib.suppress(OSError, ValueError, KeyError):
        known = json.loads(kept.read_text())
        if known["asked"] == asked and known["fingerprint"] == source_version(
            reading.source, reading.options
        ):
            return known
    local = not is_remote(reading.source)
    with console.counting("images") as progress:
        found, _ = survey(reading, most_headers=HEADERS if local else REMOTE_HEADERS, progress=progress)
    if found.problems:
        raise SourceError("; ".join(found.problems))
    return {"asked": asked, "lines": list(summary.lines(found)), **found.to_json()}


def _require_models(config: Config, class_names: Sequence[str]) -> None:
    """Load the networks that are not trained here, so that a missing one stops the run at once."""
    networks.check(config.evaluation.features, config.evaluation.reconstruction.lpips, config.data.image_size)
    if isinstance(config.classifier, PretrainedClassifier):
        pretrained.of_classes(pretrained.load(config.classifier.files), class_names)
    if isinstance(config.stage1, ImportedTokenizer):
        saved_tokenizer.read(config.stage1.savedmodel, image_size=config.data.image_size)
    elif config.stage1.loss.perceptual:
        try:
            load_distance(config.stage1.perceptual)
        except TrainingError as error:
            raise RunError(str(error)) from error


def _serve(artifact: Artifact, component: str) -> None:
    """Push a model again, as a new version, if what is served is not this one.

    Another run may have pushed since a cached one, or what was pushed is damaged.

    Raises:
      RunError: the model that was kept for it is damaged too.
    """
    properties = artifact.custom_properties
    if not properties["pushed"].int_value:
        return
    destination, content = (properties[key].string_value for key in ("pushed_destination", CONTENT))
    base = os.path.dirname(destination)
    newest = next(iter(versions(base).values()), base)
    if content_digest(newest) == content:
        return
    if content_digest(artifact.uri) != content:
        raise RunError(
            f"{artifact.uri} must hold the model that {component} pushed, which is damaged; "
            f"`run --no-cache {component}` pushes it anew"
        )
    pushed = push(artifact.uri, base)
    click.echo(
        f"{newest} must be what {component} pushed, got another or a damaged model; pushed it as {pushed}",
        err=True,
    )


def _is_said(error: BaseException) -> bool:
    """Whether an error is one line for the user already."""
    return isinstance(error, RunError | LineageError)


def _stopped(number: int, component: str | None, home: Path, exit_code: int | None = None) -> Stopped:
    """What the user is told of a signal; the exit code is a shell's by default."""
    what = f"stopped by {signal.Signals(number).name}"
    where = f" in {component}, {_saved(home, component)}" if component else ", what has finished is kept"
    return Stopped(f"{what}{where}; the same command goes on", exit_code or 128 + number)


@contextlib.contextmanager
def _stoppable() -> Iterator[list[int]]:
    """Raise `Stopped` at SIGINT and SIGTERM, where signals can be handled; yield those that have come."""
    signals: list[int] = []

    def stop(number: int, frame: object) -> None:
        signals.append(number)
        raise Stopped(f"signal {number}", 128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _followed(log: ComponentLog) -> Iterator[None]:
    """Attach a `ComponentLog` to TFX's logger and suppress all other output of it."""
    logger = logging.getLogger("absl")
    # Set through absl, not on its logger: code that restores absl's flags resets the logger's level.
    verbosity, propagate = absl_logging.get_verbosity(), logger.propagate
    absl_logging.set_verbosity(absl_logging.INFO)
    logger.addHandler(log)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(log)
        logger.propagate = propagate
        absl_logging.set_verbosity(verbosity)
