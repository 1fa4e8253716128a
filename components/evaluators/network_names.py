"""The names of feature networks, readable without TensorFlow: the configuration checks them first.

| name | network | features; probabilities |
|---|---|---|
| `classifier` | the run's own, in a pipeline | pooled; softmax |
| `classifier:PATH` | the classifier SavedModel of any run | pooled; softmax |
| `inception_2015:FILE.pb` | Inception of 2015-12-05, frozen (Dhariwal and Nichol 2021) | `pool_3`; softmax |
| `inception_fid:PATH#OUTPUT` | torch-fidelity's port of it | OUTPUT; softmax |
| `dinov2:PATH#OUTPUT` | DINOv2, of normalized images (Stein et al. 2023) | OUTPUT; none |
| `clip:PATH#OUTPUT` | CLIP's image tower, likewise (Jayasumana et al. 2024) | OUTPUT; none |
| `savedmodel:PATH#OUTPUT` | any SavedModel, from uint8 [B, H, W, 3] to OUTPUT [B, D] | OUTPUT; none |
| `onnx:FILE.onnx#OUTPUT` | any ONNX file, likewise | OUTPUT; none |

PATH is the folder of a SavedModel, or an ONNX file (`.onnx`).
"""

from __future__ import annotations

from typing import NamedTuple

OWN = "classifier"
_FORMS = {
    "classifier": "PATH",
    "inception_2015": "FILE.pb",
    "inception_fid": "PATH#OUTPUT",
    "dinov2": "PATH#OUTPUT",
    "clip": "PATH#OUTPUT",
    "savedmodel": "PATH#OUTPUT",
    "onnx": "FILE.onnx#OUTPUT",
}
# The kinds of any network, which differ in what holds it.
_ANY = ("savedmodel", "onnx")
ONNX = ".onnx"
FORMS = ", ".join(f"{name}:{form}" for name, form in _FORMS.items())


class ProtocolError(ValueError):
    """A feature network that is unknown or not there; the message is one line."""


class NetworkName(NamedTuple):
    """A name in its parts: `kind` and `path`, and for some the `output` of a signature."""

    kind: str
    path: str
    output: str = ""


def parse(text: str) -> NetworkName:
    """Parse a name with a path.

    Raises:
      ProtocolError: it has none of the forms.
    """
    kind, _, place = text.partition(":")
    form = _FORMS.get(kind)
    if form is None or not place:
        raise ProtocolError(f"features must be one of {FORMS}, got {text!r}")
    if "#" not in form:
        return NetworkName(kind, place)
    path, _, output = place.rpartition("#")
    if not path or not output or (kind in _ANY and path.endswith(ONNX) != (kind == "onnx")):
        raise ProtocolError(f"features must be {kind}:{form}, got {text!r}")
    return NetworkName(kind, path, output)
