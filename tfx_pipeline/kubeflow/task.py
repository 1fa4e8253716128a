"""What the container of a task has to know; compiled into its command line.

Kubeflow's launcher tells a container less than TFX's executors need: neither which outputs are its
nor the types of its inputs. So the compiler writes both down, and the entry point reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

# The artifact types of Kubeflow's own that the entry point fills, for the Pipelines UI to draw.
METRICS, PAGE = "system.Metrics", "system.HTML"


@dataclass(frozen=True)
class Task:
    """One task of a compiled pipeline.

    Attributes:
      name: the task's key in the pipeline, of letters, digits and hyphens.
      executor: dotted path of the class of its executor.
      inputs: artifact types by input, such as `tfx.Model`, or the dotted path of a class of one's own.
      outputs: artifact types by output; those of `METRICS` and `PAGE` are not the executor's.
      parameters: KFP parameter types of the executor's properties: JSON has no integers of its own.
      folders: the parts of the run's folder that a retry goes on from, such as `checkpoints/vim`; for a
        pusher, the models in the folder for a server whose versions are counted.
      reads: the models in the folder for a server of which the task reads the newest version.
      code: fingerprint of the code it runs. Kubeflow's cache key has the whole command line, and so this.
    """

    name: str
    executor: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    parameters: Mapping[str, str]
    folders: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    code: str = ""

    def to_json(self) -> str:
        """The task as compact JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Task:
        """The task that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "folders": tuple(fields["folders"]), "reads": tuple(fields["reads"])})
