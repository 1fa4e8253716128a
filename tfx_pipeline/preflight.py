"""What is known to be wrong before anything is imported that takes seconds: paths, files, the disk."""

from __future__ import annotations

import glob
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from components.image_example_gen.source_kinds import matching_here, parse_source
from serving.export.atomic import is_remote
from tfx_pipeline import run_lock
from tfx_pipeline.beam import runners
from tfx_pipeline.config import Config, ImportedTokenizer, PretrainedClassifier
from trainers.training.config import PUSHED

PATTERN = "*?[]\\"
# Linux allows for 4,096 bytes, of which the files of a run need some hundreds.
LONGEST_PATH = 3500
# A run of `digits --small` takes 30 MB; a larger one that fills the disk fails with that reason.
LEAST_FREE = 100 * 2**20


class RunError(RuntimeError):
    """A run that cannot start, or of which a component failed; the message is one line for the user."""


def check_run(config: Config, home: Path, beam_args: Sequence[str] = ()) -> None:
    """Refuse what TFX, Beam or the disk cannot bear, and inputs that are not there.

    Args:
      config: the run's configuration.
      home: the run's folder, without links.
      beam_args: flags for Beam.

    Raises:
      RunError: with what must be otherwise.
      RunningError: another run uses the folder.
    """
    check_paths(home, config.beam.all_flags(beam_args))
    check_inputs(config)
    if problem := _perceptual_problem(config):
        raise RunError(problem)
    if (home / run_lock.FILE).exists():
        run_lock.check_free(home)


def check_inputs(
    config: Config, *, source: bool = True, tokenizer: bool = True, classifier: bool = True
) -> None:
    """Refuse files and folders of this machine that the configuration names and that are missing.

    Args:
      config: the run's configuration.
      source: whether images must be there.
      tokenizer: whether an imported tokenizer must be there.
      classifier: whether the files of a pretrained classifier must be there.

    Raises:
      RunError: the first that is missing.
    """
    for problem in (
        _source_problem(config.data.source) if source else "",
        _tokenizer_problem(config) if tokenizer else "",
        _classifier_problem(config) if classifier else "",
        _warm_start_problem(config),
    ):
        if problem:
            raise RunError(problem)


def check_paths(home: Path, beam_args: Sequence[str]) -> None:
    """Refuse an output folder that a run could not use.

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
    # It gives all outputs of a step to one of them, in Beam 2.74 and 2.77: files of a run would hold each
    # other's records.
    if any("dask" in runner.lower() for runner in runners(beam_args)):
        raise RunError("--beam must name a runner that keeps the outputs of a step apart, got Dask's")
    # Beam starts its workers by a shell command without quotes, and waits for ever if that fails.
    if (
        any("multi_processing" in flag for flag in beam_args)
        and shlex.quote(sys.executable) != sys.executable
    ):
        raise RunError(
            "--beam multi_processing must have an environment without spaces or quotes in its path, "
            f"got {sys.executable}"
        )


def _source_problem(source: str) -> str:
    kind, place = parse_source(source)
    wanted = kind.form.partition(":")[2]
    if is_remote(place) or wanted not in _THERE:
        return ""
    path = os.path.abspath(os.path.expanduser(place))
    there, form = _THERE[wanted]
    return "" if there(path) else f"{source.partition(':')[0]}:{path} must {form}, got {_found(path)}"


def _tokenizer_problem(config: Config) -> str:
    stage1 = config.stage1
    return _no_model("stage1.savedmodel", stage1.savedmodel) if isinstance(stage1, ImportedTokenizer) else ""


def _classifier_problem(config: Config) -> str:
    if isinstance(config.classifier, PretrainedClassifier):
        for key in ("weights", "classes"):
            path = getattr(config.classifier, key)
            if path and not is_remote(path) and not os.path.isfile(path):
                return f"classifier.{key} must be a file that exists, got {path}"
    return ""


def _warm_start_problem(config: Config) -> str:
    for section in ("stage1", "stage2", "classifier"):
        train = getattr(getattr(config, section), "train", None)
        folder = train.warm_start if train else None
        if folder and folder != PUSHED and not is_remote(folder) and not os.path.isdir(folder):
            return f"{section}.train.warm_start must be a folder that exists, got {folder!r}"
    return ""


def _perceptual_problem(config: Config) -> str:
    stage1 = config.stage1
    if (
        isinstance(stage1, ImportedTokenizer)
        or not stage1.loss.perceptual
        or not stage1.perceptual.savedmodel
    ):
        return ""
    return _no_model("stage1.perceptual.network", stage1.perceptual.savedmodel)


def _no_model(key: str, path: str) -> str:
    if is_remote(path) or os.path.isfile(os.path.join(path, "saved_model.pb")):
        return ""
    return f"{key} must be the folder of a SavedModel, got {path}"


_THERE = {
    "DIR": (os.path.isdir, "be a folder"),
    "FILE": (os.path.isfile, "be a file"),
    "PATTERN": (matching_here, "match a file"),
}


def _found(path: str) -> str:
    if os.path.isdir(path):
        return "a folder"
    return "a file" if os.path.exists(path) else "a missing path" if not glob.has_magic(path) else "none"
