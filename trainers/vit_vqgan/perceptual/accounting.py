"""What VGG16 up to relu5_3 costs (`trainers.accounting` says what is counted)."""

from __future__ import annotations

from trainers.accounting import Cost, convolution, kept, total

# Channels of VGG16's convolutions (Simonyan and Zisserman 2014, configuration D), a stage a row.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(*, image_size: int) -> Cost:
    """The convolutions of VGG16 on one image of S x S pixels; every ReLU keeps its output."""
    costs, inputs, side = [], 3, image_size
    for stage in STAGES:
        for filters in stage:
            costs += [convolution(inputs, filters, kernel=3, side=side), kept(filters * side**2)]
            inputs = filters
        side //= 2
    return total(costs)
