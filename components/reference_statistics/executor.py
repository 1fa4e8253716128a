"""ReferenceStatistics' executor: computes and stores what real images are in the features of a network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import tensorflow as tf
from tfx.dsl.components.base import base_beam_executor
from tfx.types import Artifact, artifact_utils

from components.evaluators import examples, features, files, moments_file, scores
from components.evaluators.examples import ImageShard
from components.evaluators.features import FeatureNetwork, Features
from components.evaluators.networks import Measured, Networks, hits
from components.metrics.moments import Moments, MomentsFn
from components.reference_statistics import stored
from components.reference_statistics.stored import RealImages
from serving.export.atomic import atomic_path, make_folder

HITS = "hits"


class Executor(base_beam_executor.BaseBeamExecutor):
    """Executor of ReferenceStatistics."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Compute features and moments of both splits, and the recognizer's accuracy on held-out images.

        Args:
          input_dict: `examples`, `classifier`.
          output_dict: `reference` (`components.reference_statistics.stored`).
          exec_properties: `image_size`, `batch_size`, `features` (a name of
            `components.evaluators.network_names`), `features_version`.

        Raises:
          ValueError: a split is empty.
          ProtocolError: the feature network is not there.
        """
        real = input_dict["examples"]
        reference = artifact_utils.get_single_instance(output_dict["reference"])
        reference.split_names = artifact_utils.encode_split_names(list(stored.SPLITS))
        counts = {split: examples.count(real, split) for split in stored.SPLITS}
        found = {split: examples.image_shards(real, split) for split in stored.SPLITS}
        networks = Networks.of(input_dict, exec_properties["features"])
        about = networks.features.about()
        dataset = examples.dataset(real).fingerprint
        accuracy_path = os.path.join(reference.uri, "accuracy.json")
        with self._make_beam_pipeline() as pipeline:
            for split in stored.SPLITS:
                make_folder(os.path.join(reference.uri, f"Split-{split}"))
                shards = found[split]
                # How well classes are recognized is asked of held-out images.
                asked = networks if split == "eval" else networks.features
                write = WriteReal(asked, exec_properties, reference.uri, split, len(shards))
                made = (
                    pipeline
                    | f"Shards {split}" >> beam.Create(list(enumerate(shards)))
                    | f"Spread {split}" >> beam.Reshuffle()
                    | f"Write {split}" >> beam.ParDo(write).with_outputs(HITS, main="images")
                )
                moments = made.images | f"Moments {split}" >> scores.Combine("features.features", MomentsFn())
                _ = moments | f"Store {split}" >> beam.Map(
                    _store,
                    stored.moments_path(reference.uri, split),
                    (networks.features.name, about["weights"]),
                    {"path": f"{split} split", "count": counts[split], "fingerprint": dataset},
                )
                if split == "eval":
                    scores.write_scores(
                        pipeline, accuracy_path, dict, accuracy=made[HITS] | scores.Accuracy()
                    )
        files.write_json(
            os.path.join(reference.uri, stored.REFERENCE_FILE),
            {
                "features": networks.features.name,
                **about,
                "dimensions": len(moments_file.read(stored.moments_path(reference.uri, "train")).mean),
                "counts": counts,
                "files": {split: [shard.records for shard in shards] for split, shards in found.items()},
                "dataset": dataset,
                **scores.take_scores(accuracy_path),
            },
        )


def _store(moments: Moments, path: str, network: tuple[str, str], about: dict[str, Any]) -> None:
    moments_file.write(path, moments, network, about)


class WriteReal(beam.DoFn):
    """(number, `ImageShard`) -> `RealImages`, which are also written to the file of this number.

    Where a recognizer is asked too, `HITS` has (images that get their label, images with one).
    """

    def __init__(
        self,
        asked: Networks | FeatureNetwork,
        exec_properties: dict[str, Any],
        uri: str,
        split: str,
        shards: int,
    ):
        self._asked = asked
        self._image_size = exec_properties["image_size"]
        self._batch_size = exec_properties["batch_size"]
        self._place = uri, split
        self._shards = shards

    def setup(self) -> None:
        """Load what is asked."""
        self._answer = self._asked.load()

    def process(self, numbered: tuple[int, ImageShard]) -> Iterator[RealImages | beam.pvalue.TaggedOutput]:
        """Compute one file; it appears whole or not at all."""
        number, shard = numbered
        path = stored.shard_path(*self._place, number, self._shards)
        # Drafts stay outside the split's folder, because readers take every file in it.
        with atomic_path(path, self._place[0]) as draft, tf.io.TFRecordWriter(draft) as writer:
            for batch in examples.read_shard(shard, self._batch_size):
                pixels = features.decode(tf.constant(batch.image_bytes), self._image_size)
                levels = features.to_8_bits(pixels.numpy())
                answer = self._answer(levels)
                if isinstance(answer, Measured):
                    yield beam.pvalue.TaggedOutput(HITS, hits(answer.recognition, batch.labels))
                    answer = answer.features
                vectors = Features(answer.features, answer.probabilities[:, :0])
                images = RealImages(batch.places, vectors, stored.thumbnails(levels))
                writer.write(stored.serialize(images))
                yield images
