"""The command `export-samples`: sampled images as the .npz that evaluators elsewhere read."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from serving.cli.files import check_output
from serving.cli.options import RUN
from serving.export.atomic import atomic_path
from tfx_pipeline.config import pipeline_name
from tfx_pipeline.options import one_line_errors

if TYPE_CHECKING:  # which import Beam and TensorFlow, that a wrong option need not wait for
    from components.sampled_set import SampledSet

EVALUATOR = "GenerationEvaluator"


def export(folder: str, numbers: Sequence[int] | None, output: str) -> int:
    """Write sampled images as ADM's evaluator reads them (Dhariwal and Nichol 2021).

    `arr_0` has the images, uint8 [K, S, S, 3]; `arr_1` their classes, int64 [K], if the model has any. Images
    are written one by one: 50,000 of 256 pixels are 9.8 GB.

    Args:
      folder: an artifact of sampled images.
      numbers: those to take; None for all.
      output: the file.

    Returns:
      How many images were written.

    Raises:
      ValueError: the artifact has no sidecar of sampled images, or not all of `numbers`.
      DamagedFile: one of its files is damaged.
    """
    from components.sampled_set import SampledSet

    sampled = SampledSet.read(folder)
    count = sampled.plan.candidates if numbers is None else len(numbers)
    wanted = None if numbers is None else frozenset(numbers)
    labels: list[int] = []

    def rows() -> Iterator[bytes]:
        for image, label in _images(folder, sampled, wanted):
            labels.append(label)
            yield image.tobytes()

    shape = (count, sampled.image_size, sampled.image_size, 3)
    with (
        atomic_path(output) as draft,
        # Not compressed, as `numpy.savez`: ADM's evaluator reads it piece by piece.
        zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        _write_array(archive, "arr_0", shape, np.uint8, rows)
        if len(labels) != count:
            raise ValueError(f"{folder} must have {count} of the wanted images, got {len(labels)}")
        if sampled.class_names:
            _write_array(
                archive, "arr_1", (count,), np.int64, lambda: iter([np.array(labels, np.int64).tobytes()])
            )
    return count


def _images(
    folder: str, sampled: SampledSet, wanted: frozenset[int] | None
) -> Iterator[tuple[np.ndarray, int]]:
    """Images in the order of their numbers' places, and their classes."""
    import tensorflow as tf

    from components.sampled_set import SAMPLES
    from components.tfrecords import read_records

    files = sorted(tf.io.gfile.glob(f"{folder}/Split-{SAMPLES}/*"))
    for file, count in zip(files, sampled.records_in(SAMPLES, files), strict=True):
        for record in read_records(file, count):
            feature = tf.train.Example.FromString(record).features.feature
            if wanted is None or feature["image/number"].int64_list.value[0] in wanted:
                (png,) = feature["image/encoded"].bytes_list.value
                label = feature["image/label"].int64_list.value
                yield tf.io.decode_png(png, channels=3).numpy(), label[0] if label else 0


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    dtype: type[np.generic],
    parts: Callable[[], Iterator[bytes]],
) -> None:
    header: dict[str, Any] = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": shape,
    }
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts():
            file.write(part)


def of_run(directory: Path) -> tuple[str, list[int] | None]:
    """The newest scored samples of a run on this machine, and the numbers of those that rejection kept.

    Raises:
      ClickException: the folder has no finished run.
    """
    from components.evaluators import files
    from components.evaluators.generation.executor import KEPT_FILE
    from tfx_pipeline import lineage

    try:
        metrics = json.loads((directory / "metrics.json").read_text())
        pipeline = pipeline_name(metrics["run"]["configuration"]["name"])
        store = lineage.open_store(directory / "metadata.db")
        # Of one execution: a later run may have been killed before it scored what it drew.
        scored = lineage.last_result(store, pipeline, EVALUATOR)
        samples, evaluation = scored.inputs["samples"].uri, scored.outputs["evaluation"].uri
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise click.ClickException(f"--run must be the folder of a finished run, got {directory}") from error
    kept = Path(evaluation, KEPT_FILE)
    return samples, files.read_arrays(str(kept))["numbers"].tolist() if kept.exists() else None


@click.command("export-samples")
@click.option("--run", "directory", default=RUN, metavar="DIR", help="Folder of the run.")
@click.option("--samples", metavar="URI", help="An artifact of ImageSampler, instead of a run.")
@click.option("--output", required=True, metavar="FILE.npz", help="File for images and classes.")
def command(directory: str, samples: str | None, output: str) -> None:
    """Write the scored samples as an .npz: arr_0 images, arr_1 classes, as ADM's evaluator reads them."""
    check_output(Path(output), (".npz",))
    from serving.export.records import DamagedFile
    from tfx_pipeline.lineage import LineageError

    with one_line_errors(ValueError, DamagedFile, LineageError):
        folder, numbers = (samples, None) if samples else of_run(Path(directory))
        count = export(folder, numbers, output)
    click.echo(f"{output}: {count:,} images")
