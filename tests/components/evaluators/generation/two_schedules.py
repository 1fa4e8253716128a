"""A generator whose pictures tell which of its signatures was called."""

import tensorflow as tf

from tests import stand_ins


def write_two_schedules(directory, class_names):
    """Write a generator: `generate` returns black images, `generate_linear` grey ones of `guidance_scale`."""

    class Generator(tf.Module):
        def draw(self, level):
            pixels = tf.tile(level[:, None, None, None], [1, stand_ins.SIZE, stand_ins.SIZE, 3])
            pngs = tf.map_fn(
                lambda image: tf.io.encode_png(tf.cast(image, tf.uint8)),
                pixels,
                fn_output_signature=tf.string,
            )
            return {"image_bytes": pngs, "tokens": tf.zeros([tf.shape(level)[0], stand_ins.TOKENS], tf.int32)}

    specs = {
        name: tf.TensorSpec([None], dtype, name)
        for name, dtype in {
            "class_id": tf.int32,
            "seed": tf.int64,
            "temperature": tf.float32,
            "top_k": tf.int32,
            "top_p": tf.float32,
            "guidance_scale": tf.float32,
        }.items()
    }
    model = Generator()
    metadata = stand_ins.metadata("generator", class_names).to_json()
    constant = tf.function(lambda **inputs: model.draw(0.0 * inputs["guidance_scale"]))
    linear = tf.function(lambda **inputs: model.draw(inputs["guidance_scale"]))
    tf.saved_model.save(
        model,
        directory,
        signatures={
            "generate": constant.get_concrete_function(**specs),
            "generate_linear": linear.get_concrete_function(**specs),
            "metadata": tf.function(lambda: {"metadata": tf.constant(metadata)}).get_concrete_function(),
        },
    )
