"""Epoch records in metrics.jsonl and TensorBoard: exact values, their order, and a resumed run."""

import importlib.util
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

from advtf.errors import UsageError
from advtf.storage import jsonl
from advtf.training import logs


class Report(keras.callbacks.Callback):
    """Adds values to the logs as the schedule callbacks do."""

    def on_epoch_end(self, epoch, logs=None):
        logs.update(gradient_norm=2.0**epoch, learning_rate=0.5, epsilon=0.1 * epoch)


class Clock(keras.callbacks.Callback):
    """A clock that goes on by the given seconds in each epoch's training, validation and other callbacks."""

    def __init__(self, training, validation, others):
        super().__init__()
        self.now, self.seconds = 10.0, (training, validation, others)

    def on_epoch_begin(self, epoch, logs=None):
        self.now += 40  # between two epochs
        self.training, self.validation, self.others = (part[epoch] for part in self.seconds)

    def on_test_begin(self, logs=None):
        self.now += self.training

    def on_test_end(self, logs=None):
        self.now += self.validation

    def on_epoch_end(self, epoch, logs=None):
        self.now += self.others


def tiny_model(steps_per_execution=1):
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss, steps_per_execution=steps_per_execution)
    return model


def fit(model, callbacks, *, epochs=2, initial_epoch=0, validation=True):
    rng = np.random.default_rng(0)
    x, y = rng.random((12, 2, 2, 1), np.float32), np.arange(12) % 3
    return model.fit(
        x, y, batch_size=4, epochs=epochs, initial_epoch=initial_epoch, callbacks=callbacks, verbose=0,
        shuffle=False, validation_data=(x[:5], y[:5]) if validation else None,
    ).history  # fmt: skip


def scalars(log_dir):
    events = EventAccumulator(str(log_dir), size_guidance={IMAGES: 0})
    events.Reload()
    return {tag: events.Tensors(tag) for tag in events.Tags()["tensors"]}


def values(entries):
    return {entry.step: float(tf.make_ndarray(entry.tensor_proto)) for entry in entries}


def test_record_has_the_agreed_order_and_json_values():
    given = {
        "distance_from_init": np.float32(3.0),
        "val_robust_accuracy": 0.25,
        "robust_accuracy": math.nan,
        "val_clean_accuracy": 0.5,
        "loss": math.inf,
        "learning_rate": tf.constant(0.5),
        "clean_accuracy": 0.75,
        "epsilon": 0.1,
    }
    record = logs.epoch_record(3, np.int64(30), given, seconds=1.23456, images_per_second=99.96)
    assert json.dumps(record, allow_nan=False) == (
        '{"epoch": 3, "step": 30, "epsilon": 0.1, "learning_rate": 0.5, "loss": null, '
        '"clean_accuracy": 0.75, "robust_accuracy": null, "val_clean_accuracy": 0.5, "val_'
        'robust_accuracy": 0.25, "distance_from_init": 3.0, "seconds": 1.235, "images_per_second": 100.0}'
    )


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_lines_of_a_validated_run(tmp_path, monkeypatch, steps_per_execution):
    clock = Clock(training=[2, 4], validation=[3, 6], others=[55, 50])
    monkeypatch.setattr(logs, "perf_counter", lambda: clock.now)
    path = tmp_path / "metrics.jsonl"
    callbacks = [clock, Report(), logs.JsonLines(path, examples_per_step=4)]
    history = fit(tiny_model(steps_per_execution), callbacks)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [list(record) for record in records] == 2 * [
        ["epoch", "step", "epsilon", "learning_rate", "loss", "val_loss", "gradient_norm", "seconds"]
        + ["images_per_second"]
    ]
    assert [record["epoch"] for record in records] == [1, 2]
    assert [record["step"] for record in records] == [3, 6]
    assert [record["loss"] for record in records] == history["loss"]
    assert [record["val_loss"] for record in records] == history["val_loss"]
    assert [record["seconds"] for record in records] == [5, 10]  # not the 55 s of other callbacks
    assert [record["images_per_second"] for record in records] == [12 / 2, 12 / 4]


def test_without_validation_the_clock_runs_to_the_end_of_the_epoch(tmp_path, monkeypatch):
    clock = Clock(training=[0], validation=[0], others=[6])
    monkeypatch.setattr(logs, "perf_counter", lambda: clock.now)
    callbacks = [clock, logs.JsonLines(tmp_path / "m", examples_per_step=4)]
    fit(tiny_model(), callbacks, epochs=1, validation=False)
    (record,) = jsonl.read(tmp_path / "m")
    assert (record["seconds"], record["images_per_second"]) == (6, 2)
    assert "val_loss" not in record


def test_resumed_run_leaves_the_file_of_an_uninterrupted_one(tmp_path):
    path, straight = tmp_path / "metrics.jsonl", tmp_path / "straight.jsonl"
    keras.utils.set_random_seed(0)
    model = tiny_model()
    fit(model, [logs.JsonLines(path)], epochs=1)
    with open(path, "a") as file:
        file.write('{"epoch": 2, "loss": 0.5}\n{"epoch": 3, "st')
    jsonl.truncate(path, 1)
    fit(model, [logs.JsonLines(path)], epochs=3, initial_epoch=1)
    keras.utils.set_random_seed(0)
    fit(tiny_model(), [logs.JsonLines(straight)], epochs=3)
    resumed, whole = ([r | {"seconds": 0} for r in jsonl.read(p)] for p in (path, straight))
    assert resumed == whole
    assert len(list(tmp_path.iterdir())) == 2


def shown(log_dir):
    """The values by epoch of every tag, by the name that the number has in metrics.jsonl."""
    prefixes = {"train": "", "validation": "val_"}
    return {
        prefix + tag.split("/")[-1]: values(entries)
        for folder, prefix in prefixes.items()
        if (log_dir / folder).exists()
        for tag, entries in scalars(log_dir / folder).items()
    }


@pytest.mark.parametrize(
    ("name", "folder", "shown"),
    [
        ("robust_accuracy", "train", "robustness/robust_accuracy"),
        ("val_robust_accuracy", "validation", "robustness/robust_accuracy"),
        ("ema_val_robust_accuracy", "validation_ema", "robustness/robust_accuracy"),
        ("swa_val_loss", "validation_swa", "optimization/loss"),
        ("epsilon", "train", "schedule/epsilon"),
        ("learning_rate", "train", "schedule/learning_rate"),
        ("gradient_norm", "train", "optimization/gradient_norm"),
        ("val_hs", "validation", "measures/hs"),
        ("valuation", "train", "measures/valuation"),
    ],
)
def test_tensorboard_shows_training_and_validation_in_one_chart(name, folder, shown):
    assert logs.tag(name) == (folder, shown)


def test_tensorboard_holds_the_numbers_of_the_file(tmp_path):
    model, path, board = tiny_model(), tmp_path / "m", tmp_path / "board"
    callbacks = [Report(), logs.JsonLines(path, 4), logs.TensorBoard(board, examples_per_step=4)]
    fit(model, callbacks, epochs=2)
    fit(model, callbacks, epochs=3, initial_epoch=2)
    records, found = jsonl.read(path), shown(board)
    assert set(found) == set(records[0]) - {"epoch"}
    for name in set(found) - {"seconds", "images_per_second"}:
        expected = {record["epoch"]: record[name] for record in records}
        assert found[name] == pytest.approx(expected, rel=1e-6), name
    assert {t.split("/")[0] for t in scalars(board / "train")} == {"schedule", "optimization", "speed"}


def test_continued_run_repeats_no_epoch_in_tensorboard(tmp_path):
    """A kill leaves epochs after the checkpoint and half a record; the next run makes these epochs again."""
    board = logs.TensorBoard(tmp_path)
    record = logs.epoch_record(1, 1, {"loss": 9.0, "val_loss": 8.0}, seconds=1)
    for epoch in (1, 2, 3):
        board.write(record | {"epoch": epoch, "loss": float(epoch)})
    board.on_train_end()
    for path in tmp_path.rglob(logs.EVENT_FILES):
        whole = path.read_bytes()
        path.write_bytes(whole + whole[-40:-7])
    logs.truncate_events(tmp_path, 2)
    board.write(record | {"epoch": 3, "loss": 30.0})
    board.on_train_end()
    for folder, name, expected in (("train", "loss", [1, 2, 30]), ("validation", "loss", [8, 8, 8])):
        entries = scalars(tmp_path / folder)[f"optimization/{name}"]
        assert [entry.step for entry in entries] == [1, 2, 3]
        assert [float(tf.make_ndarray(entry.tensor_proto)) for entry in entries] == expected
    assert not list(tmp_path.rglob("*.partial"))
    logs.truncate_events(tmp_path / "none", 0)


def test_tensorboard_skips_values_that_are_not_finite(tmp_path):
    board = logs.TensorBoard(tmp_path)
    board.write(logs.epoch_record(1, 1, {"loss": math.nan, "epsilon": 0.5}, seconds=1))
    board.on_train_end()
    assert set(shown(tmp_path)) == {"step", "epsilon", "seconds"}


def test_tensorboard_images_and_histograms(tmp_path):
    x = np.full((9, 2, 2, 1), 0.5, np.float32)
    x[8] = 0  # the ninth is not shown, nor does it count for the factor
    board = logs.TensorBoard(
        tmp_path,
        (x, np.arange(9)),
        lambda a, y: a + 0.1 * (y[:, None, None, None] - 4.0) / 4,
        histograms=True,
    )
    model = tiny_model()
    fit(model, [board], epochs=1)
    tensors = scalars(tmp_path / "train")
    assert {f"weights/{weight.path}" for weight in model.trainable_weights} <= set(tensors)
    assert values(tensors["examples/perturbation_factor"]) == {1: pytest.approx(5.0)}
    for name, expected in {
        "clean": np.full(8, 127.5),
        "adversarial": 255 * (0.5 + 0.1 * (np.arange(8) - 4) / 4),
        "perturbation": 255 * (0.5 + 0.5 * (np.arange(8) - 4) / 4),
    }.items():
        _, _, *encoded = tf.make_ndarray(tensors[f"examples/{name}"][0].tensor_proto)
        shown = [tf.io.decode_png(image).numpy() for image in encoded]
        assert [image.shape for image in shown] == 8 * [(2, 2, 1)]
        np.testing.assert_allclose([image[0, 0, 0] for image in shown], expected, atol=1)


@pytest.mark.parametrize(
    "epochs, shown", [(3, [1, 2, 3]), (10, [*range(1, 11)]), (25, [*range(3, 25, 3), 25])]
)
def test_tensorboard_attacks_images_in_about_ten_epochs(tmp_path, epochs, shown):
    board = logs.TensorBoard(tmp_path, (np.full((1, 2, 2, 1), 0.5, np.float32), np.zeros(1)), lambda a, y: a)
    board.set_params({"epochs": epochs})
    for epoch in range(1, epochs + 1):
        board.write(logs.epoch_record(epoch, epoch, {"loss": 1.0}, seconds=1))
    board.on_train_end()
    tensors = scalars(tmp_path / "train")
    assert list(values(tensors["examples/perturbation_factor"])) == shown
    assert tensors["optimization/loss"][-1].step == epochs  # the reader keeps ten


def test_missing_tensorboard_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install tensorboard"):
        logs.TensorBoard(tmp_path)


@pytest.mark.parametrize(
    ("sample", "adversary", "message"),
    [
        ((np.zeros((2, 4, 4, 1)), np.zeros(2)), None, "adversary=None"),
        (None, lambda x, y: x, "sample_images=None"),
        ((np.zeros((2, 4, 4)), np.zeros(2)), lambda x, y: x, r"x.shape=\(2, 4, 4\)"),
        ((np.zeros((2, 4, 4, 1)), np.zeros(3)), lambda x, y: x, r"y.shape=\(3,\)"),
    ],
)
def test_bad_samples_are_refused(tmp_path, sample, adversary, message):
    with pytest.raises(UsageError, match=message):
        logs.TensorBoard(tmp_path, sample, adversary)
