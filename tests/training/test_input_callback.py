"""The input landscape in the logs of a training: its numbers, its epochs, its one trace."""

import json

import keras
import numpy as np
import pytest
from helpers.resume import attempt
from helpers.run import epoch_values
from helpers.trainer import SHAPE, batch, compiled, dense_net, still

from advtf.attacks.pgd import fgsm, pgd
from advtf.data import sets as data
from advtf.data.augmentation import to_unit_float
from advtf.errors import UsageError
from advtf.landscape.inputs import InputMeter, input_measures
from advtf.training.callbacks import load_snapshot
from advtf.training.input_callback import LOGGED, InputLandscape
from advtf.training.logs import JsonLines
from advtf.training.run import build_classifier
from advtf.training.settings import resolve

SETTINGS = {"eigenvalues": 2, "reference": pgd(steps=4), "hs_examples": 3}


class Weights(keras.callbacks.Callback):
    """Keeps the classifier's weights of every epoch."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self.model.classifier.get_weights())


def fitted(tmp_path, callback, epochs=3, trainer=None):
    trainer, weights = trainer or compiled(), Weights()
    x, y = batch(12)
    loggers = [callback, weights, JsonLines(tmp_path / "metrics.jsonl")]
    trainer.fit(still(x, y, 4), epochs=epochs, callbacks=loggers, verbose=0, shuffle=False)
    return [
        json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ], weights.epochs


def test_logs_are_means_at_the_weights_of_the_epoch(tmp_path):
    (x, y), (x_val, y_val) = batch(7, seed=1), batch(5, seed=2)
    callback = InputLandscape(x, y, 0.1, fgsm(), x_val=x_val, y_val=y_val, batch_size=4, **SETTINGS)
    records, weights = fitted(tmp_path, callback)
    classifier = dense_net()
    meter = InputMeter(classifier, SHAPE, 0.1, attack=fgsm(), **SETTINGS)
    for record, of_epoch in zip(records, weights, strict=True):
        classifier.set_weights(of_epoch)
        for prefix, images in (("", (x, y)), ("val_", (x_val, y_val))):
            wanted = meter(*images).summary()
            for name in LOGGED:
                assert record[f"{prefix}{name}"] == pytest.approx(wanted[name]["mean"], rel=1e-3), name
    assert records[0]["ig"] != records[1]["ig"]


def test_every_other_epoch_one_trace_and_the_training_unmoved(tmp_path):
    traces, plain = [], compiled()

    def attack(*args):
        traces.append(args)
        return fgsm()(*args)

    (x, y), (x_val, y_val) = batch(7, seed=1), batch(5, seed=2)
    callback = InputLandscape(x, y, 0.1, attack, every=2, x_val=x_val, y_val=y_val, batch_size=4, **SETTINGS)
    records, weights = fitted(tmp_path, callback, epochs=4)
    assert len(traces) == 1
    assert ["ig" in record and "val_hs" in record for record in records] == [False, True, False, True]
    x, y = batch(12)
    plain.fit(still(x, y, 4), epochs=4, verbose=0, shuffle=False)
    for one, other in zip(weights[-1], plain.classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_has_no_mean_is_left_out(tmp_path):
    x, y = batch(5, seed=1)
    callback = InputLandscape(x, y, 0.0, fgsm(), **SETTINGS | {"hs_examples": 0})
    (record,), _ = fitted(tmp_path, callback, epochs=1)
    assert {"ig", "av", "ga"} <= record.keys() and not {"hs", "effectiveness", "val_ig"} & record.keys()


def test_any_model_and_float32_whatever_the_policy():
    x, y = batch(6, seed=1)
    image = keras.Input(SHAPE)
    hidden = keras.layers.Dense(5, "tanh", dtype="mixed_bfloat16")(keras.layers.Flatten()(image))
    model = keras.Model(image, keras.layers.Dense(3, dtype="float32")(hidden))
    precise = dense_net()
    precise.set_weights(model.get_weights())
    callback, logs = InputLandscape(x, y, 0.1, fgsm(), **SETTINGS), {}
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_end(0, logs)
    wanted = input_measures(precise, x, y, 0.1, attack=fgsm(), **SETTINGS).summary()
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
def test_a_run_logs_them_when_asked_to(tmp_path, objective):
    settings = dict(model="mlp", width=1, attack_steps=2, epochs=2, steps_per_epoch=2, batch_size=32,
                    periods=(), objective=objective)  # fmt: skip
    run = attempt(tmp_path / "run", settings, minutes=10, input_every=2, input_examples=6).run
    first, second = epoch_values(run.metrics)
    names = {f"{prefix}{name}" for prefix in ("", "val_") for name in LOGGED}
    assert not names & set(first) and names <= set(second)
    digits = data.load("digits", val_fraction=resolve(settings).val_fraction)
    classifier = build_classifier(resolve(settings), digits)
    load_snapshot(run.snapshots / "last.npz", classifier)
    x, y = to_unit_float(digits.validation.images[:6]).numpy(), digits.validation.labels[:6]
    wanted = input_measures(lambda x: classifier(x, training=False), x, y, 0.1, attack=pgd(steps=2)).summary()
    assert second["val_ig"] == pytest.approx(wanted["ig"]["mean"], rel=1e-5)
    assert second["val_hs"] == pytest.approx(wanted["hs"]["mean"], rel=1e-3)
    assert 0 < second["val_effectiveness"] <= 1.2
