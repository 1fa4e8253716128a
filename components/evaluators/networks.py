"""The networks of an evaluator: the one in whose features it scores, and the one that recognizes classes.

The run's own classifier recognizes: it tells the class of samples, and rejects. Features come from it too, or
from a network that others have (`components.evaluators.network_names`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from apache_beam.utils import shared
from tfx.types import Artifact

from components.evaluators.features import (
    ClassifierFeatures,
    Extract,
    FeatureNetwork,
    Features,
)
from components.evaluators.lpips import Lpips
from components.evaluators.network_names import OWN, ProtocolError
from components.evaluators.protocols import FeatureProtocol, open_protocol
from components.saved_model import SavedModel
from serving.wire.errors import one_line


class NamedFeatures:
    """A network at a path, opened once to see what it is."""

    def __init__(self, text: str):
        self._text = text
        self._shared = shared.Shared()
        opened = self._open()
        self.name, self.has_probabilities = opened.name, opened.has_probabilities
        self._about = {"weights": opened.digest, "resize": opened.resize}

    def about(self) -> dict[str, Any]:
        """The digest of its weights, and its rule of resizing."""
        return self._about

    def load(self) -> Extract:
        """Load the network, once a process."""
        opened = self._open()
        # `Shared` forgets what nobody holds.
        return lambda levels: opened.extract(levels)

    def _open(self) -> FeatureProtocol:
        return self._shared.acquire(functools.partial(open_protocol, self._text))


def check(features: str, lpips: str, image_size: int) -> None:
    """Try the networks of an evaluation on a black image, before anything is paid for.

    Args:
      features: the name of the feature network.
      lpips: the folder of LPIPS' network; "" for none.
      image_size: pixels a side.

    Raises:
      ProtocolError: one is not there, or does not take such images.
    """
    black = np.zeros((1, image_size, image_size, 3), np.uint8)
    if features != OWN:
        _try(f"evaluation.features {features}", 2, lambda: open_protocol(features).extract(black).features)
    if lpips:
        _try(f"evaluation.reconstruction.lpips {lpips}", 1, lambda: Lpips(lpips).load()(black, black))


def _try(what: str, rank: int, ask: Callable[[], np.ndarray]) -> None:
    try:
        shape = ask().shape
    except ProtocolError:
        raise
    # A network that wants something else raises almost anything.
    except Exception as error:
        raise ProtocolError(f"{what} must take the run's images: {one_line(error)}") from error
    if len(shape) != rank or shape[0] != 1:
        raise ProtocolError(f"{what} must answer a row an image, got {list(shape)}")


def feature_network(name: str, recognizer: ClassifierFeatures) -> FeatureNetwork:
    """The feature network of this name: the recognizer itself, or one at a path."""
    return recognizer if name == OWN else NamedFeatures(name)


class Measured(NamedTuple):
    """What the networks of an evaluator compute of B images."""

    features: Features
    recognition: np.ndarray  # float32 [B, C], the recognizer's class probabilities


@dataclass(frozen=True)
class Networks:
    """The networks of an evaluator, which may be one and the same.

    Attributes:
      features: in whose features scores are measured.
      recognizer: which tells the classes of images.
    """

    features: FeatureNetwork
    recognizer: ClassifierFeatures

    @classmethod
    def of(cls, inputs: Mapping[str, list[Artifact]], features: str) -> Networks:
        """The networks of an evaluator with these input artifacts and this name of a feature network."""
        recognizer = ClassifierFeatures(SavedModel.of(inputs["classifier"]))
        return cls(feature_network(features, recognizer), recognizer)

    def load(self) -> Callable[[np.ndarray], Measured]:
        """Load both; the result takes 8-bit images uint8 [B, S, S, 3]."""
        recognize = self.recognizer.load()
        # Where it is the recognizer, its answer serves twice.
        extract = None if self.features is self.recognizer else self.features.load()

        def measure(levels: np.ndarray) -> Measured:
            answer = recognize(levels)
            return Measured(extract(levels) if extract else answer, answer.probabilities)

        return measure

    def tells(self, class_names: tuple[str, ...]) -> bool:
        """Whether the recognizer tells these classes; without labels it tells others, or rotations."""
        return bool(class_names) and self.recognizer.class_names == class_names

    @property
    def scores_classes(self) -> bool:
        """Whether there is an Inception Score: of rotations it would say that all images are upright."""
        own = self.features is self.recognizer
        return self.features.has_probabilities and not (own and self.recognizer.tells_rotations)

    def protocol(self, class_names: tuple[str, ...], held_out_accuracy: float) -> dict[str, Any]:
        """What scores depend on, for `evaluation.json`.

        Args:
          class_names: of the data.
          held_out_accuracy: of the recognizer, on the eval split.
        """
        told = self.tells(class_names)
        recognizer = {
            "network": self.recognizer.name,
            **{key: value for key, value in self.recognizer.about().items() if key != "resize"},
            "classes": "rotations" if self.recognizer.tells_rotations else len(self.recognizer.class_names),
            **({"held_out_accuracy": held_out_accuracy} if told else {}),
        }
        return {"features": self.features.name, **self.features.about(), "recognizer": recognizer}


def hits(recognition: np.ndarray, labels: np.ndarray) -> tuple[int, int]:
    """How many of B images the recognizer gives their label, and how many have one.

    Args:
      recognition: class probabilities [B, C].
      labels: int64 [B], -1 without a label.
    """
    labelled = labels >= 0
    return int((recognition.argmax(axis=1) == labels)[labelled].sum()), int(labelled.sum())
