"""A Keras user's habits, with a trainer: saving, metrics, optimizers, callbacks and models of every kind."""

import contextlib
import copy
import csv

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import losses, numpy_pgd
from helpers.trainer import SHAPE, STILL, NumpyNet, batch, compiled, dense_net, still

from advtf.attacks.degraded import scaled
from advtf.attacks.losses import kl_divergence, margin
from advtf.attacks.pgd import fgsm, fgsm_n, pgd
from advtf.errors import UsageError
from advtf.storage.builders import recorded
from advtf.training import objectives, regularizers
from advtf.training.callbacks import EpsilonSchedule, RateSchedule
from advtf.training.checks import NonFiniteLoss
from advtf.training.optimizers import SGD, Adam
from advtf.training.trainer import AdversarialTrainer

RANDOM = pgd("linf", 2, 0.5)
SEED = np.array([3, 4], np.int64)


class Stopped(RuntimeError):
    """What a crash is in these tests."""


def dropout_net():
    start = keras.initializers.RandomNormal(stddev=0.5, seed=1)
    layers = [keras.layers.Flatten(), keras.layers.Dropout(0.3, seed=7)]
    return keras.Sequential([keras.Input(SHAPE), *layers, keras.layers.Dense(3, kernel_initializer=start)])


def new_trainer():
    trainer = AdversarialTrainer(dropout_net(), RANDOM, 0.2, objective=objectives.mart(2.0), seed=4)
    trainer.compile(Adam(0.01, l2=0.1))
    return trainer


def train(trainer, epochs, initial_epoch=0, callbacks=(), **settings):
    """Trains on three batches per epoch, at an ε that rises from epoch to epoch."""
    schedule = EpsilonSchedule(lambda epoch: 0.05 * epoch)
    return trainer.fit(
        still(*batch(12), 4),
        epochs=epochs,
        initial_epoch=initial_epoch,
        callbacks=[schedule, *callbacks],
        shuffle=False,
        verbose=0,
        **settings,
    )


def state(trainer):
    """All that a step reads: weights, ε, random states, and the optimizer's slots and counters."""
    return [np.array(variable) for variable in (*trainer.variables, *trainer.optimizer.variables)]


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


# Saving


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A trainer after two epochs in its files, its state then, and its state after four."""
    folder, trainer = tmp_path_factory.mktemp("saved"), new_trainer()
    train(trainer, 2)
    trainer.save(folder / "trainer.keras")
    trainer.save_weights(folder / "trainer.weights.h5")
    two = state(trainer)
    copied = copy.deepcopy(trainer)  # pickles and unpickles
    train(trainer, 4, initial_epoch=2)
    return {"folder": folder, "two": two, "four": state(trainer), "copied": copied}


def from_weights(saved):
    trainer = keras.models.clone_model(new_trainer())
    trainer.load_weights(saved["folder"] / "trainer.weights.h5")
    return trainer


COPIES = {
    "load_model": lambda saved: keras.models.load_model(saved["folder"] / "trainer.keras"),
    "clone_model and load_weights": from_weights,
    "deepcopy": lambda saved: saved["copied"],
}


@pytest.mark.parametrize(
    "way",
    [
        "load_model",
        pytest.param("clone_model and load_weights", marks=pytest.mark.slow),
        pytest.param("deepcopy", marks=pytest.mark.slow),
    ],
)
def test_a_copy_continues_with_the_same_bits(way, uninterrupted):
    trainer = COPIES[way](uninterrupted)
    assert_same(state(trainer), uninterrupted["two"])
    train(trainer, 4, initial_epoch=2)
    assert_same(state(trainer), uninterrupted["four"])


def test_backup_and_restore_continues_with_the_same_bits(uninterrupted, tmp_path):
    def stop(epoch, logs):
        raise Stopped

    folder = tmp_path / "backup"
    with contextlib.suppress(Stopped):
        crash = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: epoch < 2 or stop(epoch, logs)
        )
        train(new_trainer(), 4, callbacks=[keras.callbacks.BackupAndRestore(folder), crash])
    again = new_trainer()
    train(again, 4, callbacks=[keras.callbacks.BackupAndRestore(folder)])
    assert_same(state(again), uninterrupted["four"])


@recorded
def shifted(steps, attack):
    """An attack builder of one's own."""
    return lambda logits_fn, x, y, epsilon, seed: attack(logits_fn, x, y, epsilon / steps, seed)


@keras.saving.register_keras_serializable("tests")
def registered_attack(logits_fn, x, y, epsilon, seed):
    return tf.clip_by_value(x + epsilon, 0.0, 1.0)


ATTACKS = {
    "pgd": pgd("l2", 3, 0.3, "step", 2, margin),
    "fgsm_n": fgsm_n(),
    "degraded": scaled(RANDOM, 0.5),
    "built by the user": shifted(2, fgsm()),
    "registered by the user": registered_attack,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_built_again(name):
    trainer = keras.models.clone_model(AdversarialTrainer(dense_net(), ATTACKS[name], 0.2))
    x, y = batch(5)
    first, second = (attack(dense_net(), x, y, 0.2, SEED) for attack in (ATTACKS[name], trainer.attack))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - x).max() > 0.05 and trainer.eval_attack is trainer.attack


@keras.saving.register_keras_serializable("tests")
def registered_losses(logits_fn, batch):
    return tf.reduce_sum(logits_fn(batch.x_adv) ** 2, axis=1), {}


OBJECTIVES = {
    "adversarial": objectives.adversarial,
    "difference": objectives.adversarial_minus_standard(0.3),
    "trades": objectives.trades(3.0),
    "advlc": regularizers.advlc(0.2, 0.5, "l2"),
    "cure": regularizers.cure(0.1),
    "registered by the user": objectives.Objective(registered_losses, attacks=False),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_built_again(name):
    objective, x, y = OBJECTIVES[name], *batch(5)
    given = (
        {"attack": pgd(loss=kl_divergence), "eval_attack": RANDOM} if name == "trades" else {"attack": RANDOM}
    )
    trainer = keras.models.clone_model(
        AdversarialTrainer(dense_net(), epsilon=0.2, objective=objective, **given)
    )
    seen = objectives.Batch(tf.constant(x), tf.constant(1 - x), y, tf.constant(0.2), tf.constant(1.0), SEED)
    first, second = (made.losses(dense_net(), seen)[0] for made in (objective, trainer.objective))
    np.testing.assert_array_equal(first, second)
    assert (trainer.objective.attacks, trainer.objective.second_order) == (
        objective.attacks,
        objective.second_order,
    )
    assert (trainer.objective.attack_target is None) == (objective.attack_target is None)


class OwnLayer(keras.layers.Layer):
    """A layer that nobody has registered."""

    def call(self, x):
        return x + 0.0


def with_own_layer():
    return keras.Sequential([keras.Input(SHAPE), OwnLayer(), keras.layers.Flatten(), keras.layers.Dense(3)])


def own_function(*arguments):
    return arguments[1]


UNSAVABLE = {
    "attack": (lambda: {"attack": own_function}, "attack must .* Received: own_function"),
    "a changed attack": (lambda: {"attack": lambda *a: RANDOM(*a)}, "attack must .* Received: <lambda>"),
    "objective": (lambda: {"objective": own_function}, "objective must .* Received: own_function"),
    "loss of an attack": (
        lambda: {"attack": pgd(loss=own_function)},
        "loss of pgd must .* Received: own_function",
    ),
    "teachers": (
        lambda: {"objective": regularizers.kdsa([dense_net()] * 2)},
        "teachers of kdsa must .* Sequential",
    ),
    "layer": (lambda: {"classifier": with_own_layer()}, "classifier must .* Received: layer .*, a OwnLayer"),
}


@pytest.mark.parametrize("name", UNSAVABLE)
def test_what_cannot_be_saved_is_refused_before_training(name, tmp_path):
    given, message = UNSAVABLE[name]
    trainer = compiled(**given())
    before = trainer.get_weights()
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "x.keras")
    with pytest.raises(UsageError, match=message) as refused:
        trainer.fit(*batch(6), callbacks=[checkpoint], verbose=0)
    assert "register_keras_serializable" in str(refused.value) and "\n" not in str(refused.value)
    for save in (lambda: trainer.save(tmp_path / "x.keras"), lambda: keras.models.clone_model(trainer)):
        with pytest.raises(UsageError, match=message):
            save()
    assert_same(trainer.get_weights(), before)
    assert not list(tmp_path.iterdir())
    trainer.save_weights(tmp_path / "x.weights.h5")  # is always possible


def test_metrics_and_a_compiled_classifier_are_saved_with_the_trainer(tmp_path):
    (x, y), classifier = batch(8), dense_net()
    classifier.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    classifier.fit(x, y, verbose=0)  # trained in the standard way before
    trainer = AdversarialTrainer(classifier, RANDOM, 0.2)
    trainer.compile("sgd", metrics=[keras.metrics.SparseTopKCategoricalAccuracy(2)])
    trainer.save(tmp_path / "x.keras")
    loaded = keras.models.load_model(tmp_path / "x.keras")
    first, second = (model.evaluate(x, y, verbose=0, return_dict=True) for model in (trainer, loaded))
    assert first == second and "robust_sparse_top_k_categorical_accuracy" in first
    trainer.compile("sgd", metrics=[highest_two])
    with pytest.raises(UsageError, match=r"metrics must be known to Keras to be saved .* highest_two"):
        trainer.save(tmp_path / "x.keras")
    assert keras.models.load_model(tmp_path / "x.keras").optimizer.name == loaded.optimizer.name


def test_another_kind_of_file_is_refused(tmp_path):
    trainer = compiled()
    with pytest.raises(UsageError, match=r"saved as a \.keras file. Received: .*x\.h5"):
        trainer.save(tmp_path / "x.h5")
    with pytest.raises(UsageError, match=r"saved as a \.keras file"):
        trainer.fit(*batch(6), callbacks=keras.callbacks.ModelCheckpoint(tmp_path / "x.h5"), verbose=0)


def test_predict_export_and_summary_are_those_of_the_classifier(tmp_path, capsys):
    trainer, (x, _) = compiled(), batch(6)
    logits = NumpyNet(trainer.classifier.get_weights()).forward(x)[1]
    np.testing.assert_allclose(trainer.predict(x, batch_size=4, verbose=0), logits, atol=1e-5)
    trainer.export(tmp_path / "export", verbose=False)
    exported = tf.saved_model.load(tmp_path / "export")
    np.testing.assert_allclose(exported.serve(x), logits, atol=1e-5)
    trainer.summary()
    assert "53 (212.00 B)" in capsys.readouterr().out  # the parameters of the classifier, 6·5 + 5 + 5·3 + 3


# Metrics


def highest_two(y, logits):
    return tf.cast(tf.math.in_top_k(y, logits, 2), tf.float32)


def test_metrics_are_measured_on_clean_and_on_attacked_images():
    # Rate 0: the training measures the weights that are checked. Batches of 4, 4 and 2.
    trainer = AdversarialTrainer(dense_net(), STILL, 0.3)
    weighted = keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="nats")
    trainer.compile(SGD(0.0), metrics=["accuracy", highest_two], weighted_metrics=[weighted])
    (x, y), weight = batch(10), np.arange(10).astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(4)
    history = trainer.fit(data, validation_data=data, verbose=0, shuffle=False).history
    net = NumpyNet(trainer.classifier.get_weights())
    attacked = numpy_pgd(net.input_gradient, x, y, "linf", 0.3, 3, 0.15)
    for kind, images in (("clean", x), ("robust", attacked)):
        logits = net.forward(images)[1]
        rank = (logits > logits[np.arange(10), y][:, None]).sum(axis=1)
        expected = {"highest_two": (rank < 2).mean(), "nats": np.average(losses(logits, y), weights=weight)}
        for name, value in expected.items():
            assert history[f"{kind}_{name}"][0] == pytest.approx(value, rel=1e-5)
            assert history[f"val_{kind}_{name}"][0] == pytest.approx(value, rel=1e-5)
    assert trainer.metrics_names.count("clean_accuracy") == 1


NOT_COMPILED = {
    "loss": ({"loss": "sparse_categorical_crossentropy"}, "objective of a trainer is its loss"),
    "one-hot metric": ({"metrics": ["categorical_accuracy"]}, "Received: categorical_accuracy, which takes"),
    "binary metric": ({"metrics": [keras.metrics.AUC()]}, "Received: AUC, which takes"),
    "mean": ({"metrics": [keras.metrics.Mean()]}, "Received: Mean, which takes"),
    "probabilities": ({"metrics": [keras.metrics.SparseCategoricalCrossentropy()]}, "from_logits=False"),
    "unknown metric": ({"metrics": ["top5"]}, "must be known to Keras.*top5"),
    "nested metrics": ({"metrics": [["accuracy"]]}, "must be a list of metrics"),
    "same name": ({"metrics": [highest_two, highest_two]}, "clean_highest_two twice"),
    "loss scaling": (
        {"optimizer": keras.optimizers.SGD(loss_scale_factor=8.0)},
        "optimizer that scales the loss",
    ),
}


@pytest.mark.parametrize("name", NOT_COMPILED)
def test_refused_arguments_of_compile(name):
    arguments, message = NOT_COMPILED[name]
    with pytest.raises(UsageError, match=message) as refused:
        AdversarialTrainer(dense_net(), STILL, 0.1).compile(**arguments)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("settings", [{"gradient_accumulation_steps": 2}, {"steps_per_execution": 3}])
def test_what_fails_under_a_strategy_is_refused(settings):
    steps = settings.get("steps_per_execution", 1)
    accumulate = {"gradient_accumulation_steps": 2} if steps == 1 else {}
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        trainer = AdversarialTrainer(dense_net(), STILL, 0.1)
        with pytest.raises(UsageError, match="work without a strategy only"):
            trainer.compile(SGD(0.1, **accumulate), steps_per_execution=steps)


# Optimizers


@pytest.mark.parametrize("kind", [SGD, Adam, pytest.param(keras.optimizers.Adam, marks=pytest.mark.slow)])
def test_accumulated_gradients_are_one_step_on_the_larger_batch(kind):
    x, y = batch(24)

    def weights(size, **settings):
        trainer = AdversarialTrainer(dense_net(), STILL, 0.1)
        trainer.compile(kind(0.1, **settings))
        trainer.fit(still(x, y, size), epochs=2, shuffle=False, verbose=0)
        return trainer.classifier.get_weights(), trainer.optimizer

    (accumulated, optimizer), (whole, _) = weights(4, gradient_accumulation_steps=3), weights(12)
    for one, other in zip(accumulated, whole, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)
    assert int(optimizer.iterations) == 4


def test_every_accumulated_batch_has_its_own_random_starts():
    seeds = []

    def spy(logits_fn, x, y, epsilon, seed):
        seeds.append(tuple(seed.numpy()))
        return x

    trainer = AdversarialTrainer(dense_net(), spy, 0.1)
    trainer.compile(SGD(0.1, gradient_accumulation_steps=2), run_eagerly=True)
    trainer.fit(still(*batch(12), 3), shuffle=False, verbose=0)
    assert len(set(seeds)) == 4


def one_update(**settings):
    """Returns weights before and after one update at rate 0.5, and the hand-written gradients."""
    trainer = AdversarialTrainer(dense_net(), STILL, 0.1)
    trainer.compile(SGD(0.5, **settings))
    (x, y), before = batch(6), trainer.classifier.get_weights()
    net = NumpyNet(before)
    gradients, _ = net.backward(numpy_pgd(net.input_gradient, x, y, "linf", 0.1, 3, 0.05), y, np.ones(6) / 6)
    trainer.train_on_batch(x, y)
    return before, trainer.classifier.get_weights(), gradients


def test_clipped_gradients():
    for settings in ({"clipnorm": 0.1}, {"global_clipnorm": 0.1}, {"clipvalue": 0.02}):
        before, after, gradients = one_update(**settings)
        lengths = [np.linalg.norm(gradient) for gradient in gradients]
        clipped = {
            "clipnorm": [g * min(1, 0.1 / n) for g, n in zip(gradients, lengths, strict=True)],
            "global_clipnorm": [g * min(1, 0.1 / np.linalg.norm(lengths)) for g in gradients],
            "clipvalue": [np.clip(g, -0.02, 0.02) for g in gradients],
        }
        for old, new, step in zip(before, after, clipped[next(iter(settings))], strict=True):
            np.testing.assert_allclose(new, old - 0.5 * step, atol=2e-6)
        assert max(lengths) > 0.1


def test_moving_average_of_the_weights_replaces_them_at_the_end():
    trainer = AdversarialTrainer(dense_net(), STILL, 0.1)
    trainer.compile(SGD(0.5, use_ema=True, ema_momentum=0.8))
    seen = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(trainer.classifier.get_weights())
    )
    trainer.fit(still(*batch(12), 4), callbacks=[keep], shuffle=False, verbose=0)
    average = seen[0]
    for weights in seen[1:]:
        average = [0.8 * old + 0.2 * new for old, new in zip(average, weights, strict=True)]
    for got, expected in zip(trainer.classifier.get_weights(), average, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_steps_per_execution_changes_no_bit():
    trained = []
    for steps in (1, 2):
        trainer = AdversarialTrainer(dense_net(), RANDOM, 0.1)
        trainer.compile("adam", steps_per_execution=steps)
        trainer.fit(still(*batch(12), 4), epochs=2, shuffle=False, verbose=0)
        trained.append(trainer.get_weights())
    assert_same(*trained)
    with pytest.raises(UsageError, match="Received: steps_per_execution=2"):
        schedule = EpsilonSchedule(float, unit="step", steps_per_epoch=3)
        trainer.fit(still(*batch(12), 4), callbacks=[schedule], verbose=0)


# Callbacks


def test_callbacks_of_keras(tmp_path):
    trainer, (x, y) = compiled(rate=0.4), batch(12)
    stopping = keras.callbacks.EarlyStopping(
        monitor="val_robust_accuracy", patience=2, restore_best_weights=True
    )
    callbacks = [
        EpsilonSchedule(lambda epoch: 0.02 * epoch),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
        keras.callbacks.ReduceLROnPlateau(monitor="val_robust_accuracy", factor=0.5, patience=1),
        stopping,
        keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", monitor="val_robust_accuracy", save_best_only=True
        ),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TensorBoard(tmp_path / "board"),
    ]
    history = trainer.fit(x, y, 4, 12, 0, callbacks, validation_split=0.5, shuffle=False).history
    robust = history["val_robust_accuracy"]
    best = int(np.argmax(robust))
    # It stopped after two epochs that were no better than the best one: more counts as better.
    assert len(robust) == best + 3 < 12 and stopping.best == max(robust)
    loaded = keras.models.load_model(tmp_path / "best.keras")
    for model in (trainer, loaded):
        assert model.evaluate(x[6:], y[6:], verbose=0, return_dict=True)["robust_accuracy"] == robust[best]
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [float(row["val_robust_accuracy"]) for row in rows] == robust
    np.testing.assert_allclose(
        [float(row["epsilon"]) for row in rows], 0.02 * np.arange(len(rows)), rtol=1e-6
    )
    assert history["learning_rate"][0] == pytest.approx(0.36)
    assert list((tmp_path / "board").glob("*/events*"))


NOT_CALLED = {
    "no validation": (
        keras.callbacks.EarlyStopping("val_robust_accuracy"),
        "monitor=val_robust_accuracy needs validation data",
    ),
    "accuracy": (keras.callbacks.EarlyStopping("val_accuracy"), "Received: monitor=val_accuracy"),
    "unknown direction": (keras.callbacks.EarlyStopping("gradient_norm"), "Give mode='max' or mode='min'"),
}


NOT_CALLED |= {
    "ε of bytes": (EpsilonSchedule(lambda epoch: 8.0), "epsilon must .* 8 probably means 8/255"),
    "no ε": (EpsilonSchedule(lambda epoch: np.nan), "epsilon must .* Received: epsilon=nan"),
}


@pytest.mark.parametrize("name", NOT_CALLED)
def test_refused_callbacks(name):
    callback, message = NOT_CALLED[name]
    with pytest.raises(UsageError, match=message):
        compiled().fit(*batch(6), callbacks=callback, verbose=0)


def test_a_rate_with_a_schedule_of_its_own_has_no_callback():
    trainer = AdversarialTrainer(dense_net(), STILL, 0.1)
    trainer.compile(keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 10)))
    with pytest.raises(UsageError, match="Give the optimizer a plain learning rate"):
        trainer.fit(*batch(6), callbacks=RateSchedule(lambda epoch: 0.1), verbose=0)


def test_a_loss_that_is_not_finite_ends_fit():
    trainer = AdversarialTrainer(dense_net(), STILL, 0.1)
    trainer.compile(SGD(float("inf")))
    with pytest.raises(NonFiniteLoss, match="at step 2 "):
        trainer.fit(still(*batch(12), 3), verbose=0)
    own = keras.callbacks.TerminateOnNaN()  # who stops training in another way may
    assert np.isnan(trainer.fit(still(*batch(12), 3), callbacks=[own], verbose=0).history["loss"][-1])


# Models


@keras.saving.register_keras_serializable("tests")
class OwnModel(keras.Model):
    """A subclassed classifier that is built by its first call."""

    def __init__(self, classes=3, **kwargs):
        super().__init__(**kwargs)
        self.flatten, self.dense = keras.layers.Flatten(), keras.layers.Dense(classes)

    def call(self, x):
        return self.dense(self.flatten(x))


def subclassed():
    model = OwnModel()
    model(np.zeros((1, *SHAPE), np.float32))
    return model


def nested(trainable):
    inner = keras.Sequential(
        [keras.Input(SHAPE), keras.layers.Conv2D(4, 2), keras.layers.BatchNormalization()]
    )
    inner.trainable = trainable
    image = keras.Input(SHAPE)
    pixels = keras.layers.Rescaling(2.0, -1.0)(image)
    return keras.Model(image, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(inner(pixels))))


def of_policy():
    layers = [keras.layers.Flatten(), keras.layers.Dense(3, dtype="mixed_bfloat16")]
    return keras.Sequential([keras.Input(SHAPE), *layers])


MODELS = {
    "subclassed": subclassed,
    "nested": lambda: nested(True),
    "frozen backbone": lambda: nested(False),
    "dropout": dropout_net,
    "dtype policy": of_policy,
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "nested" else name for name in MODELS]
)
def test_models_of_every_kind(name):
    classifier, (x, y) = MODELS[name](), batch(12)
    trainer = compiled(classifier, RANDOM)
    frozen = [np.array(weight) for weight in classifier.non_trainable_weights]
    trainable = [np.array(weight) for weight in classifier.trainable_weights]
    trainer.fit(x, y, batch_size=4, verbose=0)
    assert all(
        np.abs(old - new).max() > 0 for old, new in zip(trainable, classifier.trainable_weights, strict=True)
    )
    if name == "frozen backbone":
        assert_same(frozen, [np.array(weight) for weight in classifier.non_trainable_weights])
    measured = trainer.evaluate(x, y, verbose=0, return_dict=True)
    if name != "dtype policy":  # evaluated in float32, predicted in bfloat16
        assert measured["clean_accuracy"] == pytest.approx(
            (trainer.predict(x, verbose=0).argmax(1) == y).mean()
        )
    twin = keras.models.clone_model(trainer)
    twin.set_weights(trainer.get_weights())
    assert twin.evaluate(x, y, verbose=0, return_dict=True) == measured


@pytest.mark.slow
def test_an_application_of_keras():
    backbone = keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, include_top=False, weights=None, pooling="avg"
    )
    image = keras.Input((32, 32, 3))
    trainer = compiled(keras.Model(image, keras.layers.Dense(3)(backbone(image))), RANDOM, epsilon=0.01)
    x, y = batch(8, shape=(32, 32, 3))
    history = trainer.fit(x, y, batch_size=4, verbose=0, validation_data=(x, y)).history
    assert np.isfinite(history["val_loss"][0])
    twin = keras.models.clone_model(trainer)
    twin.set_weights(trainer.get_weights())
    assert twin.evaluate(x, y, verbose=0) == trainer.evaluate(x, y, verbose=0)
