"""The logistic losses of tensorflow-gan, imported without the rest of the package.

tensorflow-gan 2.1.0 does not import on TensorFlow 2.16: it derives classes from `tf.estimator`, which was
removed, and imports Keras 2. The losses need neither, so they are imported from their own file, with empty
packages in place of those whose `__init__` would import everything. Afterwards `sys.modules` is restored, so
that no other `import tensorflow_gan` gets the stand-ins.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

PACKAGES = ("tensorflow_gan", "tensorflow_gan.python", "tensorflow_gan.python.losses")


def _losses() -> types.ModuleType:
    """Import tensorflow-gan's module of losses on plain tensors."""
    specification = importlib.util.find_spec(PACKAGES[0])
    if specification is None or specification.origin is None:
        raise ModuleNotFoundError(f"{PACKAGES[0]} is not installed", name=PACKAGES[0])
    site_packages = Path(specification.origin).parent.parent
    kept = _forget()
    for name in PACKAGES:
        package = types.ModuleType(name)
        package.__path__ = [str(site_packages.joinpath(*name.split(".")))]
        sys.modules[name] = package
    try:
        return importlib.import_module("tensorflow_gan.python.losses.losses_impl")
    finally:
        _forget()
        sys.modules.update(kept)


def _forget() -> dict[str, types.ModuleType]:
    """Remove every module of tensorflow-gan from `sys.modules` and return them."""
    names = [name for name in sys.modules if name.partition(".")[0] == PACKAGES[0]]
    return {name: sys.modules.pop(name) for name in names}


_module = _losses()
modified_generator_loss = _module.modified_generator_loss
modified_discriminator_loss = _module.modified_discriminator_loss
