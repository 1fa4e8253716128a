"""Parameters of a compiled pipeline: one file serves many runs, each with its own folder, data and seed.

The graph is built once, with a stand-in for each value. A task whose properties hold a stand-in gets the
parameter as an input, and the entry point puts the run's value in its place. Kubeflow could replace
`{{$.inputs.parameters['x']}}` inside texts itself, but in some releases its driver does and in others its
launcher, in one of them in random order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RUN_FOLDER, SERVING_FOLDER, DATASET_VERSION, SEED = (
    "run_folder",
    "serving_folder",
    "dataset_version",
    "seed",
)

# What no configuration has: paths, a word and a number.
STAND_INS: Mapping[str, Any] = {
    RUN_FOLDER: "/__run_folder__",
    SERVING_FOLDER: "/__serving_folder__",
    DATASET_VERSION: "__dataset_version__",
    SEED: 1_873_400_231,
}
# A task's input for a parameter: KFP's own prefix, apart from the component's properties.
PREFIX = "pipelinechannel--"
# As KFP names them.
TYPES: Mapping[str, str] = {
    RUN_FOLDER: "STRING",
    SERVING_FOLDER: "STRING",
    DATASET_VERSION: "STRING",
    SEED: "NUMBER_INTEGER",
}


def used_in(properties: Mapping[str, Any]) -> list[str]:
    """The names of the parameters that execution properties depend on."""
    used = [name for name, stand_in in STAND_INS.items() if _replaced(properties, stand_in, "") != properties]
    # Where the folder for a server is not given, it is in the run's.
    return [RUN_FOLDER, *used] if SERVING_FOLDER in used and RUN_FOLDER not in used else used


def fill(properties: Mapping[str, Any], values: Mapping[str, str | int]) -> dict[str, Any]:
    """Put values in the places of their stand-ins.

    Args:
      properties: a component's execution properties.
      values: of the parameters in `used_in`, at least. Texts are put into JSON as they are: they must hold
        neither quotes nor backslashes, unless they are a property alone.

    Raises:
      ValueError: a parameter is missing.
    """
    for name, stand_in in STAND_INS.items():
        if name in values:
            properties = _replaced(properties, stand_in, values[name])
    if left := used_in(properties):
        raise ValueError(f"parameters must hold {', '.join(left)}, got {', '.join(sorted(values)) or 'none'}")
    return dict(properties)


def _replaced(properties: Mapping[str, Any], stand_in: str | int, value: str | int) -> dict[str, Any]:
    def of(one: Any) -> Any:
        if isinstance(one, str):
            return one.replace(str(stand_in), str(value))
        return value if one == stand_in else one

    return {key: of(one) for key, one in properties.items()}
