"""Run the pipeline on this machine: LocalDagRunner, with Beam's in-process runner."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shlex
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from absl import logging as absl_logging
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto.metadata_store_pb2 import Artifact
from tfx import v1 as tfx
from tfx.orchestration.portable import outputs_utils

from components.image_example_gen import summary
from components.image_example_gen.sources import SourceError, source_version
from components.image_example_gen.sources.files import is_remote
from components.image_example_gen.survey import survey
from components.run_report import folder
from components.tokenizer_importer import saved_tokenizer
from serving.export.atomic import write_atomic
from serving.wire.errors import one_line
from tfx_pipeline import console, lineage
from tfx_pipeline.config import Config, ImportedTokenizer
from tfx_pipeline.console import ComponentLog
from tfx_pipeline.pipeline import create_pipeline, imported_version
from trainers.training.errors import TrainingError
from trainers.vit_vqgan.perceptual import load_distance

# Not DirectRunner, which tries to download another runner before it starts.
RUNNER = "--runner=FnApiRunner"
# Workers are this process and need no package of TFX. TFX builds one for every Beam component, in 2.4 s and
# 49 MB of the temporary folder, unless a flag says where workers get their packages.
IN_PROCESS = "--sdk_container_image=in-process"


SURVEY_FILE = "data.json"
PATTERN = "*?[]\\"
# Linux allows for 4,096 bytes, of which the files of a run need some hundreds.
LONGEST_PATH = 3500
# A run of `digits --small` takes 30 MB; a larger one that fills the disk fails with that reason.
LEAST_FREE = 100 * 2**20
# Images that are opened before a run starts: a minute on a disk; over a network, where each may take 50 ms.
HEADERS, REMOTE_HEADERS = 200_000, 1_000


class RunError(RuntimeError):
    """A component failed; the message is one line for the user."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and the content of `metrics.json`."""

    directory: Path
    metrics: dict[str, Any]


def run(config: Config, directory: str, beam_args: tuple[str, ...] = ()) -> Run:
    """Run the whole graph into `directory`; unchanged components come from the cache.

    Args:
      config: the run's configuration.
      directory: the run's folder, created if missing. A stopped run resumes in it.
      beam_args: further flags for Beam; later ones win.

    Raises:
      SourceError: the images cannot be read, or a survey found a problem; nothing was started.
      TokenizerError: an imported tokenizer is missing or does not fit; nothing was started.
      RunError: a component failed; or a perceptual network is missing, and nothing was started. The models
        served before are untouched.
    """
    home = Path(os.path.realpath(directory))
    _check_paths(home, beam_args)
    surveyed = _survey(config, home / SURVEY_FILE)
    version = surveyed["fingerprint"]
    pipeline = create_pipeline(
        config,
        run_dir=str(home),
        dataset_version=version,
        tokenizer_version=imported_version(config),
        beam_pipeline_args=_beam_args(beam_args),
        # TFX's own function would create the folder before anything has been checked.
        metadata_connection_config=lineage.connection(home / "metadata.db"),
    )
    _require_models(config)
    home.mkdir(parents=True, exist_ok=True)
    write_atomic(home / SURVEY_FILE, json.dumps(surveyed, indent=1))
    click.echo("\n".join(surveyed["lines"]), err=True)
    with _followed() as log:
        try:
            tfx.orchestration.LocalDagRunner().run(pipeline)
        except Exception as error:
            name = log.fail()
            raise RunError(f"{name or 'the pipeline'} failed: {_reason(error)}") from error

    store = MetadataStore(lineage.connection(home / "metadata.db"))
    name = pipeline.pipeline_info.pipeline_name
    results = {
        component.name: lineage.last_result(store, name, component.name) for component in log.components
    }
    # A cached report was published when it was made, and another configuration's may have replaced it since.
    folder.publish(results["RunReport"].outputs["report"].uri, str(home))
    for component in ("Pusher.tokenizer", "Pusher.vim"):
        _push_again(results[component].outputs["pushed_model"])
    folder.add_components(
        str(home),
        [
            {"name": component.name, "state": component.state, "seconds": results[component.name].seconds}
            for component in log.components
        ],
    )
    return Run(home, json.loads((home / "metrics.json").read_text()))


def _check_paths(home: Path, beam_args: Sequence[str]) -> None:
    """Refuse what TFX, Beam or the disk cannot bear, before anything starts.

    Raises:
      RunError: with what must be otherwise.
    """
    if found := sorted(set(PATTERN) & set(str(home))):
        listed = " ".join(found)
        raise RunError(f"output must not have {listed} in its path, which is a pattern to TFX, got {home}")
    if len(os.fsencode(home)) > LONGEST_PATH:
        raise RunError(f"output must be a path of at most {LONGEST_PATH} bytes, got {len(os.fsencode(home))}")
    if home.exists() and not home.is_dir():
        raise RunError(f"output must be a folder, got the file {home}")
    there = next(parent for parent in (home, *home.parents) if parent.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise RunError(f"output must be a folder that can be written, got {home}")
    free = shutil.disk_usage(there).free
    if free < LEAST_FREE:
        raise RunError(f"output must have {LEAST_FREE // 2**20} MiB free, got {free // 2**20} MiB in {there}")
    # Beam starts its workers by a shell command without quotes, and waits for ever if that fails.
    if (
        any("multi_processing" in flag for flag in beam_args)
        and shlex.quote(sys.executable) != sys.executable
    ):
        raise RunError(
            "--beam multi_processing must have an environment without spaces or quotes in its path, "
            f"got {sys.executable}"
        )


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


def _beam_args(beam_args: Sequence[str]) -> list[str]:
    """The flags of Beam's in-process runner, or of the runner that the user's own flags name."""
    if any(flag.startswith("--runner") for flag in beam_args):
        return list(beam_args)
    return [RUNNER, IN_PROCESS, *beam_args]


def _require_models(config: Config) -> None:
    """Load the networks that are not trained here, so that a missing one stops the run at once."""
    if isinstance(config.stage1, ImportedTokenizer):
        saved_tokenizer.read(config.stage1.savedmodel, image_size=config.data.image_size)
    elif config.stage1.loss.perceptual:
        try:
            load_distance(config.stage1.perceptual)
        except TrainingError as error:
            raise RunError(str(error)) from error


def _push_again(pushed: Artifact) -> None:
    """Push a cached model again, as a new version, if another run has pushed since."""
    properties = pushed.custom_properties
    if not properties["pushed"].int_value:
        return
    destination = Path(properties["pushed_destination"].string_value)
    versions = [int(path.name) for path in destination.parent.glob("*") if path.name.isdecimal()]
    if max(versions, default=-1) == int(destination.name):
        return
    version = max([int(time.time()), *(version + 1 for version in versions)])
    draft = destination.with_name(f"pushing-{version}")  # no server takes this for a version
    shutil.copytree(pushed.uri, draft)
    draft.rename(destination.with_name(str(version)))


@contextlib.contextmanager
def _followed() -> Iterator[ComponentLog]:
    """Attach a `ComponentLog` to TFX's logger and suppress all other output of it."""
    logger, log = logging.getLogger("absl"), ComponentLog()
    # Set through absl, not on its logger: code that restores absl's flags resets the logger's level.
    verbosity, propagate = absl_logging.get_verbosity(), logger.propagate
    absl_logging.set_verbosity(absl_logging.INFO)
    logger.addHandler(log)
    logger.propagate = False
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.propagate = propagate
        absl_logging.set_verbosity(verbosity)


def _reason(error: BaseException) -> str:
    """What went wrong, in one line: Beam, TFX and AutoGraph wrap an executor's exception.

    An error of this project's own was written for the user; what caused it was not. Otherwise it is the
    innermost cause.
    """
    chain = list(_causes(error))
    return one_line(next(filter(_is_own, chain), chain[-1]))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, the outermost first."""
    following: BaseException | None = error
    while following is not None:
        yield following
        if following.__cause__ is not None or following.__suppress_context__:
            following = following.__cause__
        else:
            # What was being handled is the cause only where TFX cleaned up after it; elsewhere it may be a
            # lookup that failed as expected.
            following = following.__context__ if _in_clean_up(following) or _has_own(following) else None


def _has_own(error: BaseException) -> bool:
    context = error.__context__
    return context is not None and (_is_own(context) or _has_own(context))


def _is_own(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in ("components", "trainers", "serving", "tfx_pipeline")


def _in_clean_up(error: BaseException) -> bool:
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_filename == outputs_utils.__file__ for frame, _ in frames)
