"""The log of single updates: against a training by hand in float64, and against kills."""

import numpy as np
import pytest
from helpers.attack import numpy_pgd
from helpers.resume import Crash, attempt, crashing
from helpers.run import snapshot_bits
from helpers.trainer import NumpyNet, batch, compiled, dense_net, still

from advtf.errors import UsageError
from advtf.training import dynamics
from advtf.training.callbacks import WeightStatistics
from advtf.training.checkpoint import CheckpointFolder
from advtf.training.dynamics import GradientDynamics

EPSILON, RATE = 0.1, 0.1
DIGITS = dict(
    model="mlp", width=1, attack_steps=2, epochs=4, steps_per_epoch=5, batch_size=32, schedule_unit="step",
    optimizer="sgd", lr=0.05, seed=7, periods=(), val_fraction=0.05,
)  # fmt: skip


def contents(path):
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def bits(run):
    return {name: (values.dtype, values.tobytes()) for name, values in contents(run.dynamics).items()}


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
        net.weights = [w - RATE * b for w, b in zip(net.weights, buffers, strict=True)]
        moved = np.sqrt(sum(((w - s) ** 2).sum() for w, s in zip(net.weights, start, strict=True)))
        rows.append((norm, error, moved))
    return np.array(rows)


def fit(trainer, log, x, y, epochs):
    trainer.fit(still(x, y, 12), epochs=epochs, callbacks=[log], shuffle=False, verbose=0)


def test_first_and_last_updates_equal_a_training_by_hand(tmp_path):
    trainer = compiled(epsilon=EPSILON, rate=RATE)
    x, y = batch(31)  # three batches, the last of 7
    batches = [(x[i : i + 12], y[i : i + 12]) for i in (0, 12, 24)]
    expected = by_hand(trainer.classifier.get_weights(), batches * 3)
    log = GradientDynamics(trainer.classifier, tmp_path / "d.npz", updates=4, total=9)
    fit(trainer, log, x, y, epochs=3)
    found = contents(tmp_path / "d.npz")
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
    fit(trainer, log, *batch(36), epochs=2)
    assert contents(tmp_path / "d.npz")["step"].tolist() == [1, 2, 3, 4, 5, 6]


def test_outside_the_windows_nothing_is_measured_or_written(tmp_path, monkeypatch):
    measured, written = [], []

    def write(path, write):
        written.append(trainer.optimizer.iterations.numpy())

    monkeypatch.setattr(dynamics, "write_atomically", write)
    trainer = compiled()
    log = GradientDynamics(trainer.classifier, tmp_path / "d.npz", updates=1, total=12)
    original = log._robust_count
    log._robust_count = lambda: measured.append(int(trainer.optimizer.iterations)) or original()
    fit(trainer, log, *batch(36), epochs=4)
    assert measured == [0, 1, 11, 12]  # before and after the first and the last update
    assert written == [1, 12]  # not at the ends of epochs that recorded nothing


@pytest.mark.slow
def test_kills_and_resumes_change_no_bit(tmp_path):
    whole = attempt(tmp_path / "whole", DIGITS, dynamics_steps=6).run
    assert contents(whole.dynamics)["step"].tolist() == [*range(1, 7), *range(15, 21)]
    stages = [  # where the process dies
        (GradientDynamics, "on_train_batch_end", 3),  # inside the first window and an epoch
        (CheckpointFolder, "save", 2),  # the file is ahead of the checkpoint
        (GradientDynamics, "_write", 1),  # at the end of the first window
        (WeightStatistics, "on_train_batch_end", 10),  # inside the last one
    ]
    for owner, name, call in stages:
        with crashing(owner, name, call), pytest.raises(Crash):
            attempt(tmp_path / "run", DIGITS, dynamics_steps=6)
    resumed = attempt(tmp_path / "run", DIGITS, dynamics_steps=6)
    assert resumed.reports and bits(resumed.run) == bits(whole)
    plain = attempt(tmp_path / "plain", DIGITS).run
    assert not plain.dynamics.exists()
    for run in (whole, resumed.run):
        assert snapshot_bits(run.snapshots) == snapshot_bits(plain.snapshots)


def test_a_log_can_begin_when_a_run_is_resumed_or_stop_there(tmp_path):
    with crashing(WeightStatistics, "on_train_batch_end", 4), pytest.raises(Crash):
        attempt(tmp_path / "run", DIGITS)
    with crashing(WeightStatistics, "on_train_batch_end", 5), pytest.raises(Crash):
        attempt(tmp_path / "run", DIGITS, dynamics_steps=8)
    attempt(tmp_path / "run", DIGITS)
    assert contents(tmp_path / "run" / "dynamics.npz")["step"].tolist() == [4, 5]  # up to an epoch's end


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
        fit(trainer, log, *batch(36), epochs=1)
