"""State files: what they hold, how they fail, and a training continued inside an epoch."""

import os
import signal
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from advtf.attacks.pgd import pgd
from advtf.errors import UsageError
from advtf.training.callbacks import WeightStatistics
from advtf.training.checkpoint import (
    Checkpoint,
    CheckpointFolder,
    TrainingInterrupted,
    assign,
    load_state,
    save_state,
    stop_on_signals,
)
from advtf.training.optimizers import Adam
from advtf.training.trainer import AdversarialTrainer

STEPS = 4  # per epoch


def variables(count=12, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(3, 2), (), (5,)]
    return [
        keras.Variable(rng.standard_normal(shapes[i % 3]).astype("float32"), name="w") for i in range(count)
    ]


def values(members):
    return [np.asarray(member) for member in members]


def assert_same_bits(left, right):
    assert [a.tobytes() for a in left] == [b.tobytes() for b in right]


# Files


def test_state_comes_back_bit_for_bit_in_order(tmp_path):
    saved = variables()
    saved[1].assign(np.nextafter(np.float32(1), np.float32(2)))
    counter = keras.Variable(2**40 + 1, dtype="int64", name="iterations", trainable=False)
    meta = {"step": 7, "best": -np.inf, "deeper": {"list": [1, 2.5, None]}}
    save_state(tmp_path / "a.npz", {"model": saved, "optimizer": [counter]}, meta)
    groups, record = load_state(tmp_path / "a.npz")
    assert record == meta and sorted(groups) == ["model", "optimizer"]
    assert_same_bits(groups["model"], values(saved))
    assert groups["optimizer"][0].dtype == np.int64 and groups["optimizer"][0] == 2**40 + 1
    other = variables(seed=1)
    assign(other, groups["model"], "the state")
    assert_same_bits(values(other), values(saved))


@pytest.mark.parametrize("moment", ["write", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, moment):
    path = tmp_path / "a.npz"
    save_state(path, {"model": variables()}, {"step": 1})
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"write": (np, "savez"), "replace": (os, "replace")}[moment], fail)
    with pytest.raises(OSError, match="No space left"):
        save_state(path, {"model": variables(seed=1)}, {"step": 2})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.npz"]


def test_damage_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "a.npz"
    saved = variables(3)
    save_state(path, {"model": saved}, {"step": 1})
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    noticed = 0
    for trial in range(600):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            del damaged[rng.integers(len(whole)) :]
        else:  # every second flip in the directory of the archive, where zipfile trusts what it reads
            damaged[rng.integers(len(whole) // 2 * (trial % 3 - 1), len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            groups, meta = load_state(path)
        except UsageError as error:
            assert "\n" not in str(error) and "a.npz" in str(error)
            noticed += 1
        else:
            assert meta == {"step": 1}
            assert_same_bits(groups["model"], values(saved))
    assert noticed > 400


@pytest.mark.parametrize("content", [b"", b"PK", b"text", "npy", "foreign", None])
def test_what_is_no_state_file_is_refused(tmp_path, content):
    path = tmp_path / "a.npz"
    if content == "npy":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    elif content == "foreign":
        np.savez(path, weights=np.zeros(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="state file is required"):
        load_state(path)


@pytest.mark.parametrize("change", ["fewer", "shape"])
def test_what_does_not_fit_assigns_nothing(change):
    target = variables()
    before = values(target)
    arrays = [array + 1 for array in before]
    arrays = arrays[:-1] if change == "fewer" else [*arrays[:-1], np.zeros((5, 1), np.float32)]
    with pytest.raises(UsageError, match="the state does not fit this model"):
        assign(target, arrays, "the state")
    assert_same_bits(values(target), before)


# Folders


def test_only_the_newest_files_stay(tmp_path):
    folder = CheckpointFolder(tmp_path / "new" / "checkpoints")
    assert folder.load_newest() is None
    for step in (9, 10, 11, 100000):
        folder.save(step, {"model": variables(3, seed=step)}, {"callbacks": {}})
    assert [path.name for path in folder.paths()] == ["step-0000000011.npz", "step-0000100000.npz"]
    groups, meta = folder.load_newest()
    assert meta["step"] == 100000
    assert_same_bits(groups["model"], values(variables(3, seed=100000)))


def test_a_damaged_newest_file_is_passed_over_aloud(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for step in (1, 2):
        folder.save(step, {"model": variables(3)}, {})
    newest = folder.paths()[-1]
    newest.write_bytes(newest.read_bytes()[:-40])
    (tmp_path / ".step-0000000003.npz.partial").write_bytes(b"killed while writing")
    reports = []
    assert folder.load_newest(reports.append)[1]["step"] == 1
    assert len(reports) == 1 and newest.name in reports[0] and "Falling back" in reports[0]
    for path in folder.paths():
        path.write_bytes(b"")
    with pytest.raises(UsageError, match="Received: 2 damaged"):
        folder.load_newest(reports.append)


# The callback


def trainer():
    image = keras.Input((4, 4, 1))
    start = keras.initializers.RandomNormal(seed=3)
    h = keras.layers.BatchNormalization()(keras.layers.Conv2D(2, 3, kernel_initializer=start)(image))
    logits = keras.layers.Dense(3, kernel_initializer=start)(keras.layers.Flatten()(h))
    made = AdversarialTrainer(keras.Model(image, logits), pgd(steps=2), 0.1, seed=5)
    made.compile(Adam(0.05))
    return made


def batches(start=0):
    rng = np.random.default_rng(0)
    x, y = rng.random((8, 5, 4, 4, 1), np.float32), rng.integers(0, 3, (8, 5)).astype("int32")
    return tf.data.Dataset.from_tensor_slices((x[start:], y[start:]))


class Recorder(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.epochs = {}

    def on_epoch_end(self, epoch, logs=None):
        self.epochs[epoch] = dict(logs)


def fit(folder, made, stop_at=None, minutes=None, start=0, steps=STEPS, epochs=2, extra=()):
    statistics, recorder = WeightStatistics(made.classifier), Recorder()
    stop = (lambda: int(made.optimizer.iterations) >= stop_at) if stop_at else (lambda: False)
    checkpoint = Checkpoint(CheckpointFolder(folder), {"statistics": statistics}, STEPS, minutes, stop)
    done = checkpoint.restore(made)
    assert done == start
    try:
        made.fit(
            batches(start),
            initial_epoch=start // STEPS,
            epochs=epochs,
            steps_per_epoch=steps,
            callbacks=[*extra, statistics, recorder, checkpoint],
            shuffle=False,
            verbose=0,
        )
    finally:
        made.recorded = recorder.epochs
    return made


def state_of(made):
    return values([*made.variables, *made.optimizer.variables])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("checkpoints"), trainer())


@pytest.mark.parametrize("stop_at", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_stopped_epoch_continues_with_the_same_bits_and_metrics(tmp_path, uninterrupted, stop_at):
    with pytest.raises(TrainingInterrupted, match=f"saved at step {stop_at}"):
        fit(tmp_path, trainer(), stop_at=stop_at)
    assert [p.name for p in CheckpointFolder(tmp_path).paths()] == [f"step-{stop_at:010d}.npz"]
    if stop_at < STEPS:
        first = fit(tmp_path, trainer(), start=stop_at, steps=STEPS - stop_at, epochs=1)
        assert first.recorded == {0: uninterrupted.recorded[0]}
    resumed = fit(tmp_path, trainer(), start=STEPS)
    assert resumed.recorded == {1: uninterrupted.recorded[1]}
    assert_same_bits(state_of(resumed), state_of(uninterrupted))


class StepsOf40Seconds(keras.callbacks.Callback):
    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def on_train_batch_begin(self, batch, logs=None):
        self.seconds[0] += 40


def test_checkpoints_come_at_epoch_ends_and_by_the_clock(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(CheckpointFolder, "save", lambda self, step, *_: saved.append(step))
    fit(tmp_path, trainer(), minutes=None)
    assert saved == [4, 8]
    saved.clear()
    fit(tmp_path, trainer(), minutes=1e-9)
    assert saved == [1, 2, 3, 4, 5, 6, 7, 8]  # not twice where an epoch ends
    saved.clear()
    seconds = [0.0]
    monkeypatch.setattr("advtf.training.checkpoint.time.monotonic", lambda: seconds[0])
    fit(tmp_path, trainer(), minutes=2, extra=[StepsOf40Seconds(seconds)])
    assert saved == [3, 4, 7, 8]


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    CheckpointFolder(tmp_path).save(1, {"model": variables(), "optimizer": [], "metrics": []}, {})
    with pytest.raises(UsageError, match="the checkpoint does not fit this model"):
        fit(tmp_path, trainer())


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    made = trainer()
    CheckpointFolder(tmp_path).save(1, {"classifier": made.classifier.variables}, {"name": "last"})
    with pytest.raises(UsageError, match="Received: 0 arrays"):
        fit(tmp_path, made)


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request_and_handlers_come_back(number, capfd):
    before = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted) as stopped, stop_on_signals() as received:
        signal.raise_signal(number)
        assert received == [number]
        assert signal.getsignal(number) is before  # a second one acts at once
        raise TrainingInterrupted("saved at step 3")
    assert stopped.value.signal == number and str(stopped.value) == "saved at step 3"
    assert signal.getsignal(number) is before
    assert f"{signal.Signals(number).name}: saving a checkpoint" in capfd.readouterr().out


def test_a_signal_that_nobody_polled_still_interrupts():
    with pytest.raises(TrainingInterrupted, match="complete") as stopped, stop_on_signals():
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.signal == signal.SIGTERM


def test_other_errors_pass_and_silence_is_silent(capfd):
    with pytest.raises(zipfile.BadZipFile), stop_on_signals():
        raise zipfile.BadZipFile
    with stop_on_signals() as received:
        pass
    assert received == [] and capfd.readouterr().out == ""
