"""What the handlers of all protocols need."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from dataclasses import dataclass

from serving.server import image_limit
from serving.server.batching import Arrays, Call
from serving.server.bodies import Bodies
from serving.server.json_process import JsonProcess
from serving.server.model import Model, version_of
from serving.server.models import ModelRepository
from serving.server.observation import Observer, Seen
from serving.server.scheduler import Scheduler
from serving.server.servable import DEFAULT_SIGNATURE, Servable, specs_of


@dataclass(frozen=True)
class Backend:
    """The models, and how they are run.

    Attributes:
      repository: the models to serve.
      scheduler: runs them.
      observer: is told of each request.
      max_image_pixels: an image with more is refused.
    """

    repository: ModelRepository
    scheduler: Scheduler
    observer: Observer
    max_image_pixels: int

    def call(
        self, servable: Servable, signature_name: str, inputs: Arrays, wanted: Collection[str] = ()
    ) -> Call:
        """The call of a request, checked; all outputs if none are `wanted`.

        Raises:
          RequestError: INVALID_ARGUMENT if signature, inputs or outputs are not the model's.
        """
        signature = servable.signature(signature_name)
        signature.check_inputs(specs_of(inputs))
        image_limit.check(inputs, self.max_image_pixels)
        return Call(servable, signature, inputs, servable.wanted(signature, wanted))

    def lease_signature(
        self, name: str, version: str | None, seen: Seen, stack: contextlib.ExitStack
    ) -> tuple[Model, Servable, str]:
        """What a model of the Open Inference Protocol names: our model, its version, and its signature.

        Raises:
          RequestError: NOT_FOUND or INVALID_ARGUMENT: there is none.
        """
        signature = DEFAULT_SIGNATURE
        # The name of a model may have a dot itself.
        if name not in self.repository.names and "." in name:
            name, _, signature = name.rpartition(".")
        model = self.repository.model(name)
        seen.model = model.name
        servable = stack.enter_context(model.lease(version_of(version), None))
        seen.version = servable.version
        servable.signature(signature)
        return model, servable, signature


@dataclass(frozen=True)
class WebBackend(Backend):
    """The same over REST.

    Attributes:
      bodies: reads bodies within bounds.
      json: reads and writes JSON.
    """

    bodies: Bodies
    json: JsonProcess
