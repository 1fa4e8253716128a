"""The logistic losses of tensorflow-gan, without the rest of tensorflow-gan.

Its 2.1.0 does not import on TensorFlow 2.16: the package derives classes from `tf.estimator`, which is
gone, and pulls in Keras 2. The losses need none of it. So they are imported from their own file, with bare
packages in place of those whose `__init__` would import everything; afterwards `sys.modules` is as it was,
and nobody else's `import tensorflow_gan` meets the stand-ins.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

PACKAGES = ("tensorflow_gan", "tensorflow_gan.python", "tensorflow_gan.python.losses")


def _losses() -> types.ModuleType:
    """tensorflow-gan's module of losses on plain tensors."""
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
    """Takes every module of tensorflow-gan out of `sys.modules` and returns them."""
    names = [name for name in sys.modules if name.partition(".")[0] == PACKAGES[0]]
    return {name: sys.modules.pop(name) for name in names}


_module = _losses()
modified_generator_loss = _module.modified_generator_loss
modified_discriminator_loss = _module.modified_discriminator_loss
