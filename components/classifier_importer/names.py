"""The networks of keras.applications that can be imported, by name; readable without TensorFlow."""

from __future__ import annotations

from typing import NamedTuple

_FAMILIES = {
    "resnet": ("ResNet50", "ResNet101", "ResNet152"),
    "resnet_v2": ("ResNet50V2", "ResNet101V2", "ResNet152V2"),
    "densenet": ("DenseNet121", "DenseNet169", "DenseNet201"),
    "vgg16": ("VGG16",),
    "vgg19": ("VGG19",),
    "inception_v3": ("InceptionV3",),
    "inception_resnet_v2": ("InceptionResNetV2",),
    "xception": ("Xception",),
    "efficientnet_v2": tuple(f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")),
    "convnext": tuple(f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")),
}
# Name -> the module of keras.applications that prepares its images. EfficientNetB0 to B7 are left out: they
# divide by ImageNet's deviation only where Keras itself looks for the weights, and not those of a file.
NETWORKS = {name: family for family, names in _FAMILIES.items() for name in names}


class NetworkFiles(NamedTuple):
    """What names a network.

    Attributes:
      network: one of `NETWORKS`.
      weights: its file with its top, `.h5` or `.weights.h5`; "" for those that keras.applications keeps in
        its cache, or downloads.
      classes: a text file with the name of a class a line, in the network's order; "" for ImageNet's 1,000
        by their WordNet IDs.
    """

    network: str
    weights: str = ""
    classes: str = ""
