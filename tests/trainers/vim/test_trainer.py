import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from serving.export import compiled, images
from serving.export.sampling_params import SamplingParams
from tests import stand_ins
from tests.trainers import events
from tests.trainers.examples import write_images, write_tokens
from tests.trainers.training.replicas import Arguments
from tests.trainers.vim.test_sampler import ask
from trainers.training import loop
from trainers.training.config import Optimizer, Train
from trainers.training.step import TrainState, loss_gradients, training_step
from trainers.vim import trainer
from trainers.vim.config import Model, Stage2
from trainers.vim.model import VIM

pytestmark = pytest.mark.slow

SIZE = {"blocks": 2, "heads": 2, "width": 32, "hidden": 64}


def test_vim_overfits_eight_sequences_and_samples_them_greedily():
    keras.utils.set_random_seed(0)
    tokens = tf.random.stateless_uniform([8, 6], seed=[4, 4], maxval=50, dtype=tf.int32)
    model = VIM(Model(transformer=SIZE, dropout=0.0), tokens=6, codebook_size=50, classes=8)
    state = TrainState(model, Train(steps=150, batch_size=8, optimizer=Optimizer(learning_rate=1e-2)))
    batch = {"tokens": tokens, "label": tf.range(8)}
    step = tf.function(
        training_step(
            [state], loss_gradients(state, lambda batch: trainer.losses(model, batch, training=True))
        )
    )
    assert float(step(batch)["loss"]) == pytest.approx(np.log(50), rel=0.01)
    for _ in range(149):
        step(batch)
    np.testing.assert_array_equal(ask(model, range(8), range(8), temperature=0.0), tokens)


def test_random_order_loss_is_the_likelihood_of_the_permuted_tokens():
    options = Model(transformer=SIZE, dropout=0.0, random_order={"anneal_from": 0, "anneal_until": 9})
    model = VIM(options, tokens=6, codebook_size=50, classes=2)
    tokens = tf.random.stateless_uniform([3, 6], seed=[4, 4], maxval=50, dtype=tf.int32)
    order = tf.argsort(tf.random.stateless_uniform([3, 6], seed=[5, 5]))
    batch = {"tokens": tokens, "label": tf.constant([0, 1, 0]), "order": order}
    logits = model(tokens, batch["label"], order=order).numpy()
    chosen = [
        tf.nn.log_softmax(logits[row, place])[tokens[row, order[row, place]]]
        for row in range(3)
        for place in range(6)
    ]
    loss = float(trainer.losses(model, batch, training=False)["loss"])
    assert loss == pytest.approx(-np.mean(chosen), rel=1e-4)


def train(folder, examples, **options) -> list[dict[str, float]]:
    stage = Stage2(
        model=Model(
            transformer={**SIZE, "blocks": 1},
            class_dropout=0.2,
            random_order={"anneal_from": 2, "anneal_until": 8},
        ),
        train=Train(
            steps=8,
            batch_size=4,
            steps_per_call=2,
            log_every=2,
            checkpoint_every=4,
            optimizer=Optimizer(learning_rate=1e-2),
        ),
        **options,
    )
    arguments = Arguments(
        folder,
        examples,
        stage,
        base_model=str(folder.parent / "tokenizer"),
        image_size=stand_ins.SIZE,
    )
    trainer.run_fn(arguments)
    lines = (folder / "run" / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def export_nothing(monkeypatch) -> None:
    """Leave the export out, which costs as much as the training, where only training is compared."""
    monkeypatch.setattr(trainer, "export_generator", lambda *arguments, **options: None)


def test_on_the_fly_tokens_train_like_cached_tokens(tmp_path, monkeypatch):
    stand_ins.write_tokenizer(str(tmp_path / "tokenizer"))
    pictures = write_images(tmp_path / "images", records=10)
    # Without augmentation a crop is the centre crop, so both runs get the same tokens in the same order.
    rows = []
    for path in sorted(tf.io.gfile.glob(pictures["train"])):
        for record in tf.data.TFRecordDataset(path):
            feature = tf.train.Example.FromString(record.numpy()).features.feature
            pixels = images.decode_batch(
                tf.constant(feature["image/encoded"].bytes_list.value), stand_ins.SIZE
            )
            label = feature["image/label"].int64_list.value[0]
            rows.append((stand_ins.encode(pixels)[0].numpy().tolist(), label))
    # `write_tokens` writes its rows alternately to two files.
    write_tokens(tmp_path / "tokens", [row for pair in zip(rows[:5], rows[5:], strict=True) for row in pair])

    on_the_fly = train(
        tmp_path / "on_the_fly",
        tmp_path / "images",
        tokens="on_the_fly",
        sampler={"compiled": True},
        logged_samples=3,
    )
    export_nothing(monkeypatch)
    cached = train(tmp_path / "cached", tmp_path / "tokens")
    assert [entry["step"] for entry in cached] == [2, 4, 6, 8]
    for one, other in zip(cached, on_the_fly, strict=True):
        for name in ("loss", "accuracy", "eval_loss"):
            assert one.get(name, 0.0) == pytest.approx(other.get(name, 0.0), rel=1e-5)

    # Another tokenizer gives other tokens for the same images: the run must not resume from the first one.
    stand_ins.write_tokenizer(str(tmp_path / "tokenizer"), ("other", "classes"))
    train(tmp_path / "on_the_fly", tmp_path / "images", tokens="on_the_fly")
    assert len(list((tmp_path / "on_the_fly" / "checkpoints").iterdir())) == 2

    model = str(tmp_path / "on_the_fly" / "model")
    generator = tf.saved_model.load(model)
    assert {"generate", "generate_linear", "complete", "score", "features"} <= set(generator.signatures)

    # TensorBoard's samples are of classes in turn and seeds 0, 1, 2, as the exported model draws them.
    inputs = SamplingParams().inputs(np.array([0, 1, 0]), np.arange(3))
    sampled = [
        tf.io.decode_png(png) for png in generator.signatures["generate"](**tensors(inputs))["image_bytes"]
    ]
    # The second training logged none.
    logs = [path / "held_out" for path in (tmp_path / "on_the_fly" / "logs").iterdir()]
    (logs,) = [path for path in logs if "samples" in events.values(path)]
    for step in (4, 8):
        logged = events.picture(logs, "samples", step)
        assert logged.shape == (2 * stand_ins.SIZE, 2 * stand_ins.SIZE, 3)
    first, second = (logged[: stand_ins.SIZE, at : at + stand_ins.SIZE] for at in (0, stand_ins.SIZE))
    for one, other in zip(sampled, (first, second, logged[stand_ins.SIZE :, : stand_ins.SIZE]), strict=True):
        np.testing.assert_allclose(one, other, atol=1)

    program = tf.saved_model.load(compiled.beside(model))
    for scale in (1.0, 2.0):
        params = SamplingParams(guidance_scale=scale)
        asked = (params, np.array([0, 1, 1]), np.arange(3))
        drawn = compiled.drawn_by(program, params)(**tensors(compiled.inputs(*asked)))
        served = generator.signatures["generate"](**tensors(SamplingParams.inputs(*asked)))
        np.testing.assert_array_equal(drawn["tokens"], served["tokens"])
        pngs = [tf.io.decode_png(png) for png in served["image_bytes"]]
        np.testing.assert_array_equal(drawn["levels"], tf.stack(pngs))


def tensors(inputs):
    return {name: tf.constant(values) for name, values in inputs.items()}


def test_resume_is_bit_exact(tmp_path, monkeypatch):
    # Dropout, class dropout and random orders must all continue where they stopped.
    stand_ins.write_tokenizer(str(tmp_path / "tokenizer"))
    rows = [
        (row, row[0] % 2) for row in np.random.default_rng(0).integers(0, stand_ins.CODES, [16, 4]).tolist()
    ]
    write_tokens(tmp_path / "tokens", rows)
    export_nothing(monkeypatch)
    train(tmp_path / "whole", tmp_path / "tokens")

    save = loop.Checkpointer.save

    def save_the_first(keeper, step, consecutive_skips, *, best):
        if step > 4:
            raise KeyboardInterrupt
        save(keeper, step, consecutive_skips, best=best)

    with monkeypatch.context() as stopped:
        stopped.setattr(loop.Checkpointer, "save", save_the_first)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "stopped", tmp_path / "tokens")
    train(tmp_path / "stopped", tmp_path / "tokens")

    whole, resumed = last_checkpoint(tmp_path / "whole"), last_checkpoint(tmp_path / "stopped")
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)


def last_checkpoint(folder) -> dict[str, np.ndarray]:
    (checkpoints,) = (folder / "checkpoints").iterdir()
    reader = tf.train.load_checkpoint(str(checkpoints / "ckpt-8"))
    names = [name for name in reader.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
    return {name: reader.get_tensor(name) for name in names if "save_counter" not in name}
