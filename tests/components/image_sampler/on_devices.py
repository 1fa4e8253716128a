"""Draw on four logical devices and on one, in a process of its own: devices are set up once a process."""

import sys

import numpy as np
import tensorflow as tf

from components.image_sampler.drawer import Drawer
from components.sampled_set import SamplingPlan
from serving.export.sampling_params import SamplingParams


def main(model: str, program: str) -> None:
    """Compare tokens and pictures of 10 images."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
    devices = [device.name for device in tf.config.list_logical_devices("CPU")]
    plan = SamplingPlan(10, 3, 1.0, SamplingParams(seed=3, guidance_scale=2.0))
    numbers = np.arange(10)
    for beside in ("", program):
        alone = Drawer(model, beside, plan, 12)(numbers)
        together = Drawer(model, beside, plan, 12, tf.distribute.MirroredStrategy(devices))(numbers)
        np.testing.assert_array_equal(alone[0], together[0])
        assert alone[1] == together[1]
        print(alone[0].sum(), len(alone[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])
