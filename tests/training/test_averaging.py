"""Averaged weights: the arithmetic of the averages, and whole trainings that validate and save them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.resume import Crash, attempt, crashing, trained_snapshot
from helpers.run import epoch_values, snapshot_bits
from helpers.trainer import batch, compiled, dense_net, still

from advtf.data.arrays import to_unit_float
from advtf.errors import UsageError
from advtf.landscape.batch_statistics import BatchStatistics
from advtf.training import results
from advtf.training.averaging import WeightAverage, WeightAveraging
from advtf.training.callbacks import Snapshots, WeightStatistics
from advtf.training.run import STATISTICS_IMAGES
from advtf.training.settings import TrainConfig

SETTINGS = dict(
    model="mlp", width=1, attack_steps=2, epochs=4, steps_per_epoch=5, batch_size=32, periods=(), lr=0.01,
    averaging="swa", swa_start=2,
)  # fmt: skip


class Recorder(keras.callbacks.Callback):
    """Keeps the weights after every step."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier, self.weights = classifier, []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append([w.numpy() for w in self.classifier.trainable_weights])


def averaged(tmp_path, kind, epochs=3, decay=0.7, **when):
    """A trained average, and the weights after each of 3 steps an epoch."""
    trainer = compiled(dense_net())
    average = WeightAverage(trainer.classifier, kind, decay)
    recorder = Recorder(trainer.classifier)
    snapshots = Snapshots(tmp_path, [epochs], prefix=f"{kind}_")
    averaging = WeightAveraging(average, snapshots=snapshots, **when)
    trainer.fit(
        still(*batch(12), 4), epochs=epochs, callbacks=[recorder, averaging], verbose=0, shuffle=False
    )
    return average, recorder.weights


def test_swa_is_the_arithmetic_mean_of_the_weights(tmp_path):
    average, weights = averaged(tmp_path, "swa", start=3, every=2)
    entered = [np.stack(layer) for layer in zip(*weights[2::2], strict=True)]  # after steps 3, 5, 7 and 9
    assert average.count == 4
    for found, layer in zip(average.variables, entered, strict=True):
        np.testing.assert_allclose(found.numpy(), layer.astype(np.float64).mean(axis=0), rtol=1e-6, atol=1e-8)


def test_ema_is_the_recursion_and_begins_at_the_first_weights(tmp_path):
    average, weights = averaged(tmp_path, "ema", start=0, every=1)
    expected = [w.astype(np.float64) for w in weights[0]]
    for step in weights[1:]:
        expected = [0.7 * old + 0.3 * new for old, new in zip(expected, step, strict=True)]
    for found, wanted in zip(average.variables, expected, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6, atol=1e-8)


def test_the_first_average_has_the_bits_of_the_weights():
    classifier = dense_net()
    average = WeightAverage(classifier, "swa")
    for variable in average.variables:
        variable.assign(np.full(variable.shape, 3e8, np.float32))
    average.update()
    for found, weight in zip(average.variables, classifier.trainable_weights, strict=True):
        assert found.numpy().tobytes() == weight.numpy().tobytes()


def test_the_weights_come_back_even_after_an_error():
    classifier = keras.Sequential([keras.Input((2, 3, 1)), keras.layers.BatchNormalization()])
    before = [w.numpy().tobytes() for w in classifier.weights]
    average = WeightAverage(classifier, "ema")
    average.variables[0].assign([7.0])
    with pytest.raises(RuntimeError, match="inside"), average.applied():
        assert classifier.trainable_weights[0].numpy().tolist() == [7.0]
        classifier.layers[0].moving_mean.assign([5.0])
        raise RuntimeError("inside")
    assert [w.numpy().tobytes() for w in classifier.weights] == before


def test_averages_are_built_of_what_makes_sense():
    with pytest.raises(UsageError, match="kind"):
        WeightAverage(dense_net(), "mean")
    with pytest.raises(UsageError, match="decay"):
        WeightAverage(dense_net(), "ema", 1.5)
    net = keras.Sequential([keras.Input((2, 3, 1)), keras.layers.BatchNormalization()])
    with pytest.raises(UsageError, match="images are required"):
        WeightAveraging(WeightAverage(net, "swa"), start=0, every=1, snapshots=None)


# Whole trainings


def flat(classifier):
    return np.concatenate([w.numpy().ravel() for w in classifier.trainable_weights]).astype(np.float64)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return attempt(tmp_path_factory.mktemp("averaging") / "run", SETTINGS, minutes=10).run


def test_a_training_with_average_has_the_bits_of_one_without(tmp_path, whole):
    plain = {name: value for name, value in SETTINGS.items() if name not in ("averaging", "swa_start")}
    run = attempt(tmp_path / "run", plain, minutes=10).run
    bits = {name: value for name, value in snapshot_bits(whole.snapshots).items() if "swa" not in name}
    without_logs = {
        name: {array: value for array, value in arrays.items() if array != "__meta__"}
        for name, arrays in bits.items()
    }
    for name, arrays in snapshot_bits(run.snapshots).items():
        assert without_logs[name] == {a: v for a, v in arrays.items() if a != "__meta__"}
    kept = [{n: v for n, v in r.items() if not n.startswith("swa_")} for r in epoch_values(whole.metrics)]
    assert kept == epoch_values(run.metrics)


def test_the_average_is_validated_saved_and_measured(whole):
    config = TrainConfig.of(SETTINGS)
    records = epoch_values(whole.metrics)
    assert ["swa_val_robust_accuracy" in record for record in records] == [False, True, True, True]
    best = max(records[1:], key=lambda record: record["swa_val_robust_accuracy"])
    _, record, _ = trained_snapshot(whole, "swa_best", config)
    assert (record["name"], record["epoch"]) == ("swa_best", best["epoch"])
    classifier, record, digits = trained_snapshot(whole, "swa_last", config)
    assert record["epoch"] == 4
    clean = digits.validation
    logits = classifier(to_unit_float(clean.images), training=False).numpy()
    accuracy = (logits.argmax(-1) == clean.labels).mean()
    assert records[-1]["swa_val_clean_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    loaded = results.load_classifiers(config, whole, digits)
    assert list(loaded) == ["last", "best", "swa_last", "swa_best"]
    np.testing.assert_array_equal(flat(loaded["swa_last"][0]), flat(classifier))
    errors = results.measure(loaded, config, digits)
    gaps = results.robust_overfitting(results.summarise(errors, loaded, "validation"))
    wanted = errors["swa_last"].robust_error - errors["swa_best"].robust_error
    assert gaps["swa_last"] == pytest.approx(wanted) and set(gaps) == {"last", "swa_last"}


@pytest.mark.slow
def test_death_at_any_stage_changes_no_bit_of_the_average(tmp_path, whole):
    for owner, name, call in (
        (WeightStatistics, "on_train_batch_end", 13),  # inside the second averaged epoch
        (WeightAverage, "applied", 1),  # before the average is validated
        (Snapshots, "_save", 2),  # between its snapshots and the weights' own
    ):
        with crashing(owner, name, call), pytest.raises(Crash):
            attempt(tmp_path / "run", SETTINGS)
    last = attempt(tmp_path / "run", SETTINGS).run
    assert snapshot_bits(last.snapshots) == snapshot_bits(whole.snapshots)
    assert epoch_values(last.metrics) == epoch_values(whole.metrics)


@pytest.mark.slow
def test_batch_norm_has_the_statistics_of_the_average(tmp_path):
    settings = dict(
        model="resnet18", width=1, attack_steps=1, epochs=2, steps_per_epoch=2, batch_size=16, periods=(),
        averaging="ema", ema_decay=0.5, lr=0.05,
    )  # fmt: skip
    run = attempt(tmp_path / "run", settings, minutes=10).run
    classifier, _, digits = trained_snapshot(run, "ema_last", TrainConfig.of(settings))
    norms = [layer for layer in classifier.layers if isinstance(layer, keras.layers.BatchNormalization)]
    found = [(n.moving_mean.numpy(), n.moving_variance.numpy()) for n in norms]
    images = to_unit_float(digits.train.images[:STATISTICS_IMAGES]).numpy()
    BatchStatistics(classifier, batch_size=500)(images)
    for norm, (mean, variance) in zip(norms, found, strict=True):
        np.testing.assert_allclose(mean, norm.moving_mean.numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance, norm.moving_variance.numpy(), rtol=1e-4, atol=1e-5)
    assert found and tf.reduce_all([np.isfinite(mean).all() for mean, _ in found])


# Settings


def test_the_start_of_swa_is_an_epoch_or_a_fraction():
    starts = {0: 0, 0.25: 50, 0.1225: 25, 60: 60}
    for given, epoch in starts.items():
        config = TrainConfig.of(dict(dataset="cifar10", averaging="swa", swa_start=given, epochs=200))
        assert config.swa_start_epoch == epoch


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(swa_start=3), "swa_start needs averaging=swa"),
        (dict(averaging="ema", swa_every=3), "swa_every needs averaging=swa"),
        (dict(averaging="swa", ema_decay=0.9), "ema_decay needs averaging=ema"),
        (dict(averaging="swa", swa_start=30, epochs=30, periods=()), "below epochs=30"),
        (dict(averaging="swa", swa_start=1.5), "whole epoch"),
        (dict(select_on="test", val_fraction=0.1), "use --val_fraction=0"),
    ],
)
def test_contradictions_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig.of(settings)
