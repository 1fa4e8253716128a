import tensorflow as tf

from serving import images
from serving.export import read_metadata
from tests import stand_ins


def picture(level: float) -> tf.Tensor:
    return tf.fill([1, 12, 20, 3], level)


def test_tokenizer_signatures_round_trip(tmp_path):
    stand_ins.write_tokenizer(str(tmp_path))
    model = tf.saved_model.load(str(tmp_path))
    image_bytes = images.encode_batch(picture(0.4))

    tokens = model.signatures["encode"](image_bytes=image_bytes)["tokens"]
    assert tokens.numpy().tolist() == [[6] * stand_ins.TOKENS]
    png = model.signatures["decode"](tokens=tokens)["image_bytes"]
    assert model.signatures["encode"](image_bytes=png)["tokens"].numpy().tolist() == tokens.numpy().tolist()
    pixels = model.signatures["decode_pixels"](tokens=tokens)["pixels"]
    assert pixels.shape == (1, stand_ins.SIZE, stand_ins.SIZE, 3)
    assert read_metadata(model) == stand_ins.metadata("tokenizer")


def test_generator_signatures(tmp_path):
    stand_ins.write_generator(str(tmp_path))
    model = tf.saved_model.load(str(tmp_path))

    def generate(class_id, seed):
        n = len(class_id)
        return model.signatures["generate"](
            class_id=tf.constant(class_id),
            seed=tf.constant(seed, tf.int64),
            temperature=tf.ones([n]),
            top_k=tf.zeros([n], tf.int32),
            top_p=tf.ones([n]),
            guidance=tf.ones([n]),
        )["tokens"].numpy()

    print(generate([0, 1, 2], [0, 1, 2]))
