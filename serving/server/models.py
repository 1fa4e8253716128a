"""All models of a server: those below a folder, or of a configuration file, as they change."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Collection

import grpc
import tensorflow as tf

from serving.export.versions import no_model
from serving.server import model_config
from serving.server.model import Model, Retries, VersionStatus
from serving.server.model_config import ModelConfig
from serving.wire.errors import RequestError, ServingError, not_found, one_line


class ModelRepository:
    """Every model below one folder, or of a configuration file, which may change."""

    def __init__(self, source: str, retries: Retries = Retries()):
        """Load the versions.

        Args:
          source: a folder, or a `--model_config_file`.
          retries: of versions that do not load.

        Raises:
          ServingError: there is no model, or none that loads, or the file is wrong.
        """
        self._source = source
        self._retries = retries
        self._is_file = os.path.isfile(source)
        self._read: tuple[int, int] | None = None
        # What a file or HandleReloadConfigRequest has named; a folder names its own.
        self._given: list[ModelConfig] = []
        # Where models may be, as whoever started the server has said: a client may not name others.
        self._folders = [] if self._is_file else [source]
        self._models: dict[str, Model] = {}
        # No longer named, and in memory until their last requests are done.
        self._closed: list[Model] = []
        # A look at the folder and a reload may come at the same time.
        self._refreshing = threading.Lock()
        news = self.refresh()
        if not self._models:
            raise ServingError(no_model(source))
        if not any(status.state == "AVAILABLE" for status in news):
            reason = news[0].error if news else "there is no version"
            raise ServingError(f"no model in {source} loads: {reason}")
        self.first_news = news

    def refresh(self) -> list[VersionStatus]:
        """Look at the folder or the file again; return the versions that became available or failed.

        Raises:
          ServingError: the file is wrong; what is served stays.
        """
        with self._refreshing:
            return self._follow(self._named())

    def reload(self, configs: list[ModelConfig]) -> list[RequestError]:
        """Serve these models and no others, as HandleReloadConfigRequest asks, until the file changes.

        Returns:
          Why versions that were asked for are not served, also if an earlier look has found it: which of the
          two comes first must not decide what the caller reads.

        Raises:
          RequestError: PERMISSION_DENIED if a folder is none of the file's, and in none of these or of the
            served folder: a client may choose among models, and not read what else is on this machine.
        """
        with self._refreshing:
            for config in configs:
                if not any(_is_in(config.folder, folder) for folder in self._folders):
                    raise RequestError(
                        grpc.StatusCode.PERMISSION_DENIED,
                        f"base_path of {config.name} must be in a folder that is served, got {config.folder}",
                    )
            self._given = configs
            self._follow(configs)
            return [error for config in configs for error in self._models[config.name].refused()]

    def _named(self) -> list[ModelConfig]:
        if not self._is_file:
            return self._given or model_config.below(self._source)
        state = os.stat(self._source)
        stamp = state.st_mtime_ns, state.st_ino
        if stamp != self._read:
            # Before it is read: a wrong file is reported once.
            self._read = stamp
            self._given = model_config.read(self._source)
            self._folders = [one.folder for one in self._given]
        return self._given

    def _follow(self, configs: list[ModelConfig]) -> list[VersionStatus]:
        for config in configs:
            if config.name in self._models:
                self._models[config.name].configure(config)
            else:
                self._models[config.name] = Model(config, self._retries)
        # A folder that is gone may come back; what a file no longer names does not.
        if self._given:
            for name in set(self._models) - {config.name for config in configs}:
                self._closed.append(self._models.pop(name))
                self._closed[-1].close()
        self._closed = [model for model in self._closed if not model.collected()]
        news: list[VersionStatus] = []
        for name, model in list(self._models.items()):
            try:
                news += model.refresh()
            # One folder that cannot be read must not keep the others from following their versions.
            except (OSError, tf.errors.OpError) as error:
                print(f"cannot look for versions of {name}: {one_line(error)}", file=sys.stderr, flush=True)
        return news

    @property
    def names(self) -> Collection[str]:
        """The names of all models."""
        return self._models.keys()

    def model(self, name: str) -> Model:
        """Return the model of that name.

        Raises:
          RequestError: NOT_FOUND if there is none.
        """
        if name not in self._models:
            raise not_found(f"model must be one of {', '.join(sorted(self._models))}, got {name!r}")
        return self._models[name]


def _is_in(folder: str, root: str) -> bool:
    if "://" in folder or "://" in root:
        return ".." not in folder.split("/") and f"{folder}/".startswith(f"{root.rstrip('/')}/")
    return f"{os.path.realpath(folder)}{os.sep}".startswith(f"{os.path.realpath(root)}{os.sep}")
