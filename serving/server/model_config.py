"""Which models and versions a server serves: a folder of models, or TF Serving's `--model_config_file`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.export.versions import model_names
from serving.wire.errors import ServingError, one_line


@dataclass(frozen=True)
class Policy:
    """Which versions of a model are served.

    Attributes:
      latest: the newest ones that load, so many; None for all.
      specific: these and no others, if there are any.
    """

    latest: int | None = 1
    specific: tuple[int, ...] = ()

    def candidates(self, on_disk: Iterable[int]) -> list[int]:
        """The versions that may be served of those on disk, the newest first."""
        return [version for version in on_disk if not self.specific or version in self.specific]

    @property
    def most(self) -> int | None:
        """How many of the candidates are served; None for all that load."""
        return None if self.specific else self.latest


@dataclass(frozen=True)
class ModelConfig:
    """A model.

    Attributes:
      name: that requests ask for.
      folder: its versions.
      policy: which of them.
      labels: names of versions.
    """

    name: str
    folder: str
    policy: Policy = Policy()
    labels: Mapping[str, int] = field(default_factory=dict)


def below(base: str) -> list[ModelConfig]:
    """The models of a folder, the newest version of each."""
    return [ModelConfig(name, os.path.join(base, name)) for name in model_names(base)]


def read(path: str) -> list[ModelConfig]:
    """Read a `--model_config_file`.

    Raises:
      ServingError: it cannot be read, or asks for what there is not.
    """
    return of_message(read_message(path), path)


def read_message(path: str) -> model_server_config_pb2.ModelServerConfig:
    """Read a `--model_config_file` as it is."""
    message = model_server_config_pb2.ModelServerConfig()
    try:
        with open(path, encoding="utf-8") as file:
            return text_format.Parse(file.read(), message)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise ServingError(f"{path} must hold a ModelServerConfig, got {one_line(error)}") from error


def of_message(message: model_server_config_pb2.ModelServerConfig, where: str) -> list[ModelConfig]:
    """The models of a ModelServerConfig.

    Raises:
      ServingError: it names none, one twice or one without a folder, or a label of a version that is not
        served; `where` names it.
    """
    found: list[ModelConfig] = []
    for given in message.model_config_list.config:
        if not given.name or not given.base_path:
            raise ServingError(f"{where} must give every model a name and a base_path, got {given.name!r}")
        policy = _policy(given.model_version_policy, f"model_version_policy of {given.name} in {where}")
        labels = dict(given.version_labels)
        served = policy.specific or labels.values()
        if wrong := next((label for label, version in labels.items() if version not in served), ""):
            raise ServingError(
                f"{where} must serve the version {labels[wrong]} that label {wrong} of {given.name} names, "
                f"got versions {', '.join(map(str, policy.specific))}"
            )
        found.append(ModelConfig(given.name, given.base_path, policy, labels))
    names = [one.name for one in found]
    if not found or len(set(names)) < len(names):
        raise ServingError(f"{where} must have models of different names, got {', '.join(names) or 'none'}")
    return found


def _policy(given: Any, where: str) -> Policy:
    kind = given.WhichOneof("policy_choice")
    if kind == "specific":
        if not given.specific.versions:
            raise ServingError(f"{where} must name versions, got none")
        return Policy(specific=tuple(given.specific.versions))
    if kind == "all":
        return Policy(latest=None)
    return Policy(latest=max(given.latest.num_versions, 1))
