"""Callbacks: what they put into variables, logs and files, against values computed here in float64."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import numpy_pgd
from helpers.resume import Crash, attempt, crashing
from helpers.run import epoch_values, snapshot_bits
from helpers.trainer import SHAPE, NumpyNet, batch, compiled, dense_net, still

from advtf.attacks.pgd import fgsm, pgd
from advtf.data import sets
from advtf.data.arrays import to_unit_float
from advtf.errors import UsageError
from advtf.landscape.inputs import InputMeter, input_measures
from advtf.training.callbacks import (
    LANDSCAPE_MEASURES,
    EpsilonSchedule,
    GradientDynamics,
    InputLandscape,
    PeriodicReset,
    RateSchedule,
    Snapshots,
    WeightStatistics,
    load_snapshot,
)
from advtf.training.checkpoint import CheckpointFolder, load_state
from advtf.training.checks import NonFiniteLoss, StopOnNonFiniteLoss
from advtf.training.logs import JsonLines
from advtf.training.optimizers import SGD
from advtf.training.run import build_classifier
from advtf.training.settings import TrainConfig
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
    callbacks = [EpsilonSchedule(epsilon, unit, STEPS), RateSchedule(rate, unit, STEPS), probe]
    fit(trainer(), callbacks, epochs=3)
    positions = np.arange(9) // 3 if unit == "epoch" else np.arange(9) / 3
    expected = [tuple(np.float32([epsilon(p), rate(p)]).tolist()) for p in positions]
    assert probe.steps == expected
    last_of_epochs = expected[2::3]
    assert [(logs["epsilon"], logs["learning_rate"]) for logs in probe.epochs] == last_of_epochs


def test_step_schedules_go_on_inside_a_resumed_epoch():
    made = trainer()
    made.optimizer.iterations.assign(STEPS + 2)  # Keras counts its batches from 0 again
    probe = Probe(both)
    fit(made, [EpsilonSchedule(lambda position: position / 10, "step", STEPS), probe], 2, initial_epoch=1)
    assert [round(10 * step[0] * STEPS) for step in probe.steps] == [5, 6, 7]


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


# Weight statistics


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


# Gradient dynamics

EPSILON, LEARNING_RATE = 0.1, 0.1
DYNAMICS_RUN = dict(
    model="mlp", width=1, attack_steps=2, epochs=4, steps_per_epoch=5, batch_size=32, schedule_unit="step",
    optimizer="sgd", lr=0.05, seed=7, periods=(), val_fraction=0.05,
)  # fmt: skip


def arrays_of(path):
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def dynamics_bits(run):
    return {name: (values.dtype, values.tobytes()) for name, values in arrays_of(run.dynamics).items()}


def by_hand(weights, batches):
    """Rows (gradient norm, robust error, distance) of adversarial SGD with momentum 0.9 and L2 0.01."""
    net, buffers, rows = NumpyNet(weights), [0.0] * 4, []
    start = net.weights
    for x, y in batches:
        x_adv = numpy_pgd(net.input_gradient, x, y, "linf", EPSILON, 3, 0.5 * EPSILON)
        error = 100 * np.mean(net.forward(x_adv)[1].argmax(axis=1) != y)
        gradients, _ = net.backward(x_adv, y, np.full(len(y), 1 / len(y)))
        norm = np.sqrt(sum((g**2).sum() for g in gradients))
        buffers = [0.9 * b + g + 0.01 * w for b, g, w in zip(buffers, gradients, net.weights, strict=True)]
        net.weights = [w - LEARNING_RATE * b for w, b in zip(net.weights, buffers, strict=True)]
        moved = np.sqrt(sum(((w - s) ** 2).sum() for w, s in zip(net.weights, start, strict=True)))
        rows.append((norm, error, moved))
    return np.array(rows)


def fit_with(log, trainer, x, y, epochs):
    trainer.fit(still(x, y, 12), epochs=epochs, callbacks=[log], shuffle=False, verbose=0)


def test_first_and_last_updates_equal_a_training_by_hand(tmp_path):
    trainer = compiled(epsilon=EPSILON, rate=LEARNING_RATE)
    x, y = batch(31)  # three batches, the last of 7
    batches = [(x[i : i + 12], y[i : i + 12]) for i in (0, 12, 24)]
    expected = by_hand(trainer.classifier.get_weights(), batches * 3)
    log = GradientDynamics(trainer.classifier, tmp_path / "d.npz", updates=4, total=9)
    fit_with(log, trainer, x, y, epochs=3)
    found = arrays_of(tmp_path / "d.npz")
    recorded = [0, 1, 2, 3, 5, 6, 7, 8]
    assert found["step"].tolist() == [index + 1 for index in recorded]
    assert (int(found["updates"]), int(found["total"])) == (4, 9)
    np.testing.assert_allclose(found["epsilon"], EPSILON)
    np.testing.assert_allclose(found["gradient_norm"], expected[recorded, 0], rtol=1e-4)
    np.testing.assert_allclose(found["robust_error"], expected[recorded, 1], atol=1e-9)
    np.testing.assert_allclose(found["distance"], expected[recorded, 2], rtol=1e-5)
    assert 0 < found["robust_error"].min() < found["robust_error"].max() < 100


def test_windows_that_meet_record_every_update_once(tmp_path):
    trainer = compiled()
    log = GradientDynamics(trainer.classifier, tmp_path / "d.npz", updates=50, total=6)
    fit_with(log, trainer, *batch(36), epochs=2)
    assert arrays_of(tmp_path / "d.npz")["step"].tolist() == [1, 2, 3, 4, 5, 6]


def test_the_file_is_written_where_something_was_recorded_only(tmp_path):
    path, changes = tmp_path / "d.npz", []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            changes.append(path.stat().st_mtime_ns)

    trainer = compiled()
    log = GradientDynamics(trainer.classifier, path, updates=1, total=12)
    trainer.fit(still(*batch(36), 12), epochs=4, callbacks=[log, Watch()], shuffle=False, verbose=0)
    assert changes[0] == changes[1] == changes[2] < changes[3]  # epochs 2 and 3 recorded nothing
    assert arrays_of(path)["step"].tolist() == [1, 12]


@pytest.mark.slow
def test_kills_and_resumes_change_no_bit(tmp_path):
    whole = attempt(tmp_path / "whole", DYNAMICS_RUN, dynamics_steps=6).run
    assert arrays_of(whole.dynamics)["step"].tolist() == [*range(1, 7), *range(15, 21)]
    stages = [  # where the process dies
        (GradientDynamics, "on_train_batch_end", 3),  # inside the first window and an epoch
        (CheckpointFolder, "save", 2),  # the file is ahead of the checkpoint
        (GradientDynamics, "_write", 1),  # at the end of the first window
        (WeightStatistics, "on_train_batch_end", 10),  # inside the last one
    ]
    for owner, name, call in stages:
        with crashing(owner, name, call), pytest.raises(Crash):
            attempt(tmp_path / "run", DYNAMICS_RUN, dynamics_steps=6)
    resumed = attempt(tmp_path / "run", DYNAMICS_RUN, dynamics_steps=6)
    assert resumed.reports and dynamics_bits(resumed.run) == dynamics_bits(whole)
    plain = attempt(tmp_path / "plain", DYNAMICS_RUN).run
    assert not plain.dynamics.exists()
    for run in (whole, resumed.run):
        assert snapshot_bits(run.snapshots) == snapshot_bits(plain.snapshots)


@pytest.mark.slow
def test_a_log_can_begin_when_a_run_is_resumed_or_stop_there(tmp_path):
    with crashing(WeightStatistics, "on_train_batch_end", 4), pytest.raises(Crash):
        attempt(tmp_path / "run", DYNAMICS_RUN)
    with crashing(WeightStatistics, "on_train_batch_end", 5), pytest.raises(Crash):
        attempt(tmp_path / "run", DYNAMICS_RUN, dynamics_steps=8)
    attempt(tmp_path / "run", DYNAMICS_RUN)
    assert arrays_of(tmp_path / "run" / "dynamics.npz")["step"].tolist() == [4, 5]  # up to an epoch's end


@pytest.mark.parametrize("wrong", [dict(updates=0), dict(updates=1.5), dict(total=0)])
def test_lengths_are_checked(tmp_path, wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(UsageError, match=f"Received: {name}={value}"):
        GradientDynamics(dense_net(), tmp_path / "d.npz", **(dict(updates=2, total=9) | wrong))


def test_several_updates_per_execution_are_refused(tmp_path):
    trainer = compiled()
    trainer.compile(trainer.optimizer, steps_per_execution=3)
    log = GradientDynamics(trainer.classifier, tmp_path / "d.npz", updates=2, total=9)
    with pytest.raises(UsageError, match="Received: steps_per_execution=3"):
        fit_with(log, trainer, *batch(36), epochs=1)


# The input landscape

METER = {"eigenvalues": 2, "reference": pgd(steps=4), "hs_examples": 3}


class Weights(keras.callbacks.Callback):
    """Keeps the classifier's weights of every epoch."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self.model.classifier.get_weights())


def logged_epochs(tmp_path, callback, epochs=3, trainer=None):
    trainer, weights = trainer or compiled(), Weights()
    x, y = batch(12)
    loggers = [callback, weights, JsonLines(tmp_path / "metrics.jsonl")]
    trainer.fit(still(x, y, 4), epochs=epochs, callbacks=loggers, verbose=0, shuffle=False)
    return [
        json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ], weights.epochs


def test_logs_are_means_at_the_weights_of_the_epoch(tmp_path):
    (x, y), (x_val, y_val) = batch(7, seed=1), batch(5, seed=2)
    callback = InputLandscape(x, y, 0.1, fgsm(), x_val=x_val, y_val=y_val, batch_size=4, **METER)
    records, weights = logged_epochs(tmp_path, callback)
    classifier = dense_net()
    meter = InputMeter(classifier, SHAPE, 0.1, attack=fgsm(), **METER)
    for record, of_epoch in zip(records, weights, strict=True):
        classifier.set_weights(of_epoch)
        for prefix, images in (("", (x, y)), ("val_", (x_val, y_val))):
            wanted = meter(*images).summary()
            for name in LANDSCAPE_MEASURES:
                assert record[f"{prefix}{name}"] == pytest.approx(wanted[name]["mean"], rel=1e-3), name
    assert records[0]["ig"] != records[1]["ig"]


def test_every_other_epoch_one_trace_and_the_training_unmoved(tmp_path):
    traces, plain = [], compiled()

    def attack(*args):
        traces.append(args)
        return fgsm()(*args)

    (x, y), (x_val, y_val) = batch(7, seed=1), batch(5, seed=2)
    callback = InputLandscape(x, y, 0.1, attack, every=2, x_val=x_val, y_val=y_val, batch_size=4, **METER)
    records, weights = logged_epochs(tmp_path, callback, epochs=4)
    assert len(traces) == 1
    assert ["ig" in record and "val_hs" in record for record in records] == [False, True, False, True]
    x, y = batch(12)
    plain.fit(still(x, y, 4), epochs=4, verbose=0, shuffle=False)
    for one, other in zip(weights[-1], plain.classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_what_has_no_mean_is_left_out(tmp_path):
    x, y = batch(5, seed=1)
    callback = InputLandscape(x, y, 0.0, fgsm(), **METER | {"hs_examples": 0})
    (record,), _ = logged_epochs(tmp_path, callback, epochs=1)
    assert {"ig", "av", "ga"} <= record.keys() and not {"hs", "effectiveness", "val_ig"} & record.keys()


def test_any_model_and_float32_whatever_the_policy():
    x, y = batch(6, seed=1)
    image = keras.Input(SHAPE)
    hidden = keras.layers.Dense(5, "tanh", dtype="mixed_bfloat16")(keras.layers.Flatten()(image))
    model = keras.Model(image, keras.layers.Dense(3, dtype="float32")(hidden))
    precise = dense_net()
    precise.set_weights(model.get_weights())
    callback, logs = InputLandscape(x, y, 0.1, fgsm(), **METER), {}
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_end(0, logs)
    wanted = input_measures(precise, x, y, 0.1, attack=fgsm(), **METER).summary()
    assert logs["ig"] == pytest.approx(wanted["ig"]["mean"], rel=1e-5)
    assert model.layers[2].compute_dtype == "bfloat16"


def test_mistakes_are_told_at_construction():
    x, y = batch(5)
    for arguments, message in (
        ({"every": 0}, "every"),
        ({"x_val": x}, "given together"),
        ({"x_val": x[:, :1], "y_val": y}, "one shape"),
        ({"eigenvalues": 0}, "eigenvalues"),
        ({"y": y[:3]}, "at least one"),
    ):
        given = {"x": x, "y": y, "epsilon": 0.1, "attack": fgsm()} | arguments
        with pytest.raises(UsageError, match=message):
            InputLandscape(**given)


def test_wrong_second_derivatives_are_refused_when_training_begins():
    x, y = batch(5)
    image = keras.Input(SHAPE)
    normal = keras.layers.LayerNormalization(name="norm")(keras.layers.Flatten()(image))
    model = keras.Model(image, keras.layers.Dense(3)(normal))
    for settings in ({"hs_examples": 0}, {}):
        callback = InputLandscape(x, y, 0.1, fgsm(), **settings)
        callback.set_model(model)
        if settings:
            callback.on_train_begin()
        else:
            with pytest.raises(UsageError, match="norm, a LayerNormalization"):
                callback.on_train_begin()


@pytest.mark.parametrize("objective", ["at", "trades"])
@pytest.mark.slow
def test_a_run_logs_them_when_asked_to(tmp_path, objective):
    settings = dict(model="mlp", width=1, attack_steps=2, epochs=2, steps_per_epoch=2, batch_size=32,
                    periods=(), objective=objective)  # fmt: skip
    run = attempt(tmp_path / "run", settings, minutes=10, input_every=2, input_examples=6).run
    first, second = epoch_values(run.metrics)
    names = {f"{prefix}{name}" for prefix in ("", "val_") for name in LANDSCAPE_MEASURES}
    assert not names & set(first) and names <= set(second)
    digits = sets.load("digits", val_fraction=TrainConfig.of(settings).val_fraction)
    classifier = build_classifier(TrainConfig.of(settings), digits)
    load_snapshot(run.snapshots / "last.npz", classifier)
    x, y = to_unit_float(digits.validation.images[:6]).numpy(), digits.validation.labels[:6]
    wanted = input_measures(lambda x: classifier(x, training=False), x, y, 0.1, attack=pgd(steps=2)).summary()
    assert second["val_ig"] == pytest.approx(wanted["ig"]["mean"], rel=1e-5)
    assert second["val_hs"] == pytest.approx(wanted["hs"]["mean"], rel=1e-3)
    assert 0 < second["val_effectiveness"] <= 1.2


# Non-finite losses


def test_a_loss_that_is_not_finite_ends_training_at_that_step():
    made, probe = trainer(SGD(math.inf)), Probe()  # the first update leaves no finite weight
    with pytest.raises(NonFiniteLoss, match=r"loss=nan at step 2 .*Lower the learning rate") as stopped:
        fit(made, [StopOnNonFiniteLoss(), probe], epochs=1)
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
