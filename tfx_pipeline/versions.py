"""Versions of what a run reads from outside, so that the cache notices when it has changed."""

from __future__ import annotations

from dataclasses import dataclass

from components.classifier_importer import network
from components.evaluators import lpips, protocols
from components.evaluators.network_names import OWN
from components.tokenizer_importer import saved_tokenizer
from tfx_pipeline.config import Config, ImportedTokenizer, PretrainedClassifier


@dataclass(frozen=True)
class Versions:
    """Fingerprints; "" for what the configuration does not name.

    Attributes:
      dataset: of the source of images.
      tokenizer: of an imported tokenizer.
      classifier: of the files of a pretrained classifier.
      features: of the feature network.
      lpips: of the network of LPIPS.
    """

    dataset: str
    tokenizer: str = ""
    classifier: str = ""
    features: str = ""
    lpips: str = ""

    @classmethod
    def of(cls, config: Config, dataset: str) -> Versions:
        """Read the fingerprints of everything but the images.

        Raises:
          TokenizerError: the imported tokenizer is missing.
          ClassifierError: a file of the pretrained classifier is missing.
          ProtocolError: another network is not there.
        """
        return cls(dataset, tokenizer(config), classifier(config), features(config), perceptual(config))


def tokenizer(config: Config) -> str:
    """The version of an imported tokenizer.

    Raises:
      TokenizerError: it is missing.
    """
    stage1 = config.stage1
    return saved_tokenizer.version(stage1.savedmodel) if isinstance(stage1, ImportedTokenizer) else ""


def classifier(config: Config) -> str:
    """The version of a pretrained classifier.

    Raises:
      ClassifierError: a file of it is missing.
    """
    own = config.classifier
    return network.version(own.files) if isinstance(own, PretrainedClassifier) else ""


def features(config: Config) -> str:
    """The version of the feature network.

    Raises:
      ProtocolError: it is missing.
    """
    name = config.evaluation.features
    return "" if name == OWN else protocols.version(name)


def perceptual(config: Config) -> str:
    """The version of the network of LPIPS.

    Raises:
      ProtocolError: it is missing.
    """
    folder = config.evaluation.reconstruction.lpips
    return lpips.version(folder) if folder else ""
