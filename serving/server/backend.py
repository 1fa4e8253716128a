"""What the handlers of both REST protocols need."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from serving.server import image_limit
from serving.server.batching import Arrays, Call
from serving.server.bodies import Bodies
from serving.server.json_process import JsonProcess
from serving.server.models import ModelRepository
from serving.server.observation import Observer
from serving.server.scheduler import Scheduler
from serving.server.servable import Servable, specs_of


@dataclass(frozen=True)
class Backend:
    """The models, and how requests are read and run.

    Attributes:
      repository: the models to serve.
      scheduler: runs them.
      observer: is told of each request.
      bodies: reads bodies within bounds.
      json: reads and writes JSON.
      max_image_pixels: an image with more is refused.
    """

    repository: ModelRepository
    scheduler: Scheduler
    observer: Observer
    bodies: Bodies
    json: JsonProcess
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
