"""Callbacks: what they put into variables, logs and files, against values computed here."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from advtf.attacks.pgd import pgd
from advtf.errors import UsageError
from advtf.training.callbacks import (
    EpsilonSchedule,
    NonFiniteLoss,
    PeriodicReset,
    RateSchedule,
    Snapshots,
    StopOnNonFiniteLoss,
    WeightStatistics,
    load_snapshot,
)
from advtf.training.checkpoint import load_state
from advtf.training.optimizers import SGD
from advtf.training.trainer import AdversarialTrainer

STEPS = 3  # per epoch
RATE = 0.125


def trainer(optimizer=None, epsilon=0.0):
    image = keras.Input((2, 2, 1))
    start = keras.initializers.RandomNormal(seed=3)
    logits = keras.layers.Dense(3, kernel_initializer=start)(keras.layers.Flatten()(image))
    made = AdversarialTrainer(keras.Model(image, logits), pgd(steps=1), epsilon)
    made.compile(optimizer or SGD(RATE, momentum=0.5))
    return made


def images(epochs, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((epochs * STEPS, 4, 2, 2, 1), np.float32)
    return x, rng.integers(0, 3, x.shape[:2]).astype("int32")


def fit(made, callbacks, epochs=2, data=None, initial_epoch=0):
    batches = tf.data.Dataset.from_tensor_slices(data or images(epochs - initial_epoch))
    made.fit(
        batches,
        initial_epoch=initial_epoch,
        epochs=epochs,
        steps_per_epoch=STEPS,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    )
    return made


class Probe(keras.callbacks.Callback):
    """Keeps what `read(model)` returns at each step and the logs of each epoch; listed last."""

    def __init__(self, read=lambda model: None):
        super().__init__()
        self.read, self.steps, self.epochs = read, [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.steps.append(self.read(self.model))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(dict(logs))


# Schedules


def both(model):
    return float(model.epsilon), float(model.optimizer.learning_rate)


@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_schedules_carry_exact_values(unit):
    def epsilon(position):
        return position / 4

    def rate(position):
        return 1 / (1 + position)

    probe = Probe(both)
    chain = [EpsilonSchedule(epsilon, unit, STEPS), RateSchedule(rate, unit, STEPS), probe]
    fit(trainer(), chain, epochs=3)
    positions = np.arange(9) // 3 if unit == "epoch" else np.arange(9) / 3
    expected = [tuple(np.float32([epsilon(p), rate(p)]).tolist()) for p in positions]
    assert probe.steps == expected
    last_of_epochs = expected[2::3]
    assert [(logs["epsilon"], logs["learning_rate"]) for logs in probe.epochs] == last_of_epochs


def test_step_schedules_go_on_inside_a_resumed_epoch():
    made = trainer()
    made.optimizer.iterations.assign(STEPS + 2)  # Keras counts its batches from 0 again
    probe = Probe(both)
    fit(made, [EpsilonSchedule(lambda position: position, "step", STEPS), probe], 2, initial_epoch=1)
    assert [round(step[0] * STEPS) for step in probe.steps] == [5, 6, 7]


def test_a_schedule_that_cannot_work_is_refused():
    with pytest.raises(UsageError, match="steps_per_epoch is required"):
        EpsilonSchedule(lambda _: 0.1, "step")
    with pytest.raises(UsageError, match="Did you mean 'epoch'"):
        RateSchedule(lambda _: 0.1, "epochs")


# Periods


def momenta(model):
    slots = model.optimizer.variables[2:]
    return [float(np.abs(np.asarray(slot)).sum()) for slot in slots]


def test_slots_are_zero_at_the_start_of_later_periods_only():
    probe = Probe(momenta)
    made = fit(trainer(), [PeriodicReset([2]), probe], epochs=4)
    assert momenta(made) and all(all(slots) for slots in (probe.steps[1], probe.steps[9]))
    zero = [step for step, slots in enumerate(probe.steps) if not any(slots)]
    assert zero == [0, 2 * STEPS]
    assert int(made.optimizer.iterations) == 4 * STEPS and float(made.optimizer.learning_rate) == RATE


def test_an_optimizer_that_cannot_be_reset_is_refused_at_the_start():
    probe = Probe()
    with pytest.raises(UsageError, match="cannot be reset"):
        fit(trainer(keras.optimizers.Adam(0.1)), [PeriodicReset([1]), probe])
    assert probe.steps == []


# Statistics


def softmax_gradient(weights, bias, x, y):
    """∇ of the mean cross-entropy of a linear model, in float64."""
    x = x.reshape(len(x), -1).astype(np.float64)
    logits = x @ weights + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return x.T @ p / len(y), p.mean(0)


def test_statistics_equal_numpy():
    made = trainer(SGD(RATE))
    weights, bias = (np.asarray(w, np.float64) for w in made.classifier.trainable_variables)
    start = np.concatenate([weights.ravel(), bias])
    probe, data = Probe(), images(2)
    fit(made, [WeightStatistics(made.classifier), probe], data=data)
    for epoch in range(2):
        norms = []
        for x, y in list(zip(*data, strict=True))[epoch * STEPS : (epoch + 1) * STEPS]:
            dw, db = softmax_gradient(weights, bias, x, y)
            norms.append(math.sqrt(np.square(dw).sum() + np.square(db).sum()))
            weights, bias = weights - RATE * dw, bias - RATE * db
        moved = np.linalg.norm(np.concatenate([weights.ravel(), bias]) - start)
        assert probe.epochs[epoch]["gradient_norm"] == pytest.approx(np.mean(norms), rel=1e-5)
        assert probe.epochs[epoch]["distance_from_init"] == pytest.approx(moved, rel=1e-5)


def test_statistics_continue_from_their_state():
    statistics = WeightStatistics(trainer().classifier)
    statistics.restore(json.loads(json.dumps({"total": 1.5, "count": 3})))
    assert statistics.state() == {"total": 1.5, "count": 3}
    logs = {}
    statistics.on_epoch_end(0, logs)
    assert logs == {"gradient_norm": 0.5, "distance_from_init": 0.0}


# Non-finite losses


def test_a_loss_that_is_not_finite_ends_training_at_that_step():
    x, y = images(1)
    x[1, 0, 0, 0, 0] = np.nan
    made, probe = trainer(), Probe()
    with pytest.raises(NonFiniteLoss, match=r"loss=nan at step 2 .*Lower --lr") as stopped:
        fit(made, [StopOnNonFiniteLoss(), probe], epochs=1, data=(x, y))
    assert len(probe.steps) == 2 and probe.epochs == [] and "\n" not in str(stopped.value)


def test_finite_losses_pass():
    assert int(fit(trainer(), [StopOnNonFiniteLoss()], epochs=1).optimizer.iterations) == STEPS


# Snapshots


def run_snapshots(folder, ends, scores, made, state=None):
    """Ends epochs with these validation robustnesses; each epoch's weights hold its number."""
    snapshots = Snapshots(folder, ends)
    snapshots.set_model(made)
    if state:
        snapshots.restore(state)
    for epoch, score in enumerate(scores, start=1):
        for variable in made.classifier.variables:
            variable.assign(np.full(variable.shape, epoch))
        snapshots.on_epoch_end(epoch - 1, {} if score is None else {"val_robust_accuracy": score})
    return snapshots


def epochs_of(folder):
    """name -> (epoch in the record, epoch in the weights)."""
    found = {}
    for path in sorted(folder.iterdir()):
        groups, meta = load_state(path)
        assert meta["name"] == path.stem
        held = {float(value) for array in groups["classifier"] for value in array.ravel()}
        found[path.stem] = (meta["epoch"], *held)
    return found


def test_period_ends_best_and_last_are_kept(tmp_path):
    snapshots = run_snapshots(tmp_path / "new", [2, 3, 5], [0.1, 0.4, 0.3, 0.4, 0.2], trainer())
    expected = {"best": (2, 2), "last": (5, 5), "period1": (2, 2), "period2": (3, 3), "period3": (5, 5)}
    assert epochs_of(tmp_path / "new") == expected  # a later equal does not replace the best
    assert snapshots.state() == {"best": 0.4}


def test_one_period_and_no_validation_leave_the_last_only(tmp_path):
    snapshots = run_snapshots(tmp_path, [2], [None, None], trainer())
    assert epochs_of(tmp_path) == {"last": (2, 2)}
    assert json.loads(json.dumps(snapshots.state()))["best"] == -math.inf


def test_a_resumed_run_remembers_its_best(tmp_path):
    run_snapshots(tmp_path, [9], [0.3, 0.5], trainer(), state={"best": 0.4})
    assert epochs_of(tmp_path) == {"best": (2, 2)}


def test_a_snapshot_loads_into_the_same_architecture_only(tmp_path):
    made = fit(trainer(), [Snapshots(tmp_path, [1])], epochs=1)
    fresh = trainer().classifier
    record = load_snapshot(tmp_path / "last.npz", fresh)
    assert (record["name"], record["epoch"]) == ("last", 1) and record["logs"]["loss"] > 0
    for loaded, trained in zip(fresh.variables, made.classifier.variables, strict=True):
        assert np.asarray(loaded).tobytes() == np.asarray(trained).tobytes()
    other = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])
    with pytest.raises(UsageError, match=r"last\.npz does not fit"):
        load_snapshot(tmp_path / "last.npz", other)
    with pytest.raises(UsageError, match=r"missing\.npz"):
        load_snapshot(tmp_path / "missing.npz", fresh)
