"""What measures computes without TF32, and what trains as it was asked to: seen from inside the network.

TensorFlow reads the switch of TF32 when an operation starts, and XLA when it compiles. A network that looks
at the switch whenever it is traced or run sees what a GPU would do, without one.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.trainer import compiled

import advtf
from advtf.attacks.pgd import fgsm, pgd
from advtf.classifiers.classifier import as_classifier
from advtf.classifiers.reference_logits import ReferenceLogits
from advtf.runtime import Runtime
from advtf.training.averaging import WeightAverage, WeightAveraging
from advtf.training.callbacks import InputLandscape, Snapshots
from advtf.training.curve import CurveSettings, train_curve

SWITCH = tf.config.experimental
SHAPE, CLASSES, EPSILON, ATTACK = (6, 6, 1), 3, 0.1, fgsm()
X = np.random.default_rng(0).random((6, *SHAPE), np.float32)
Y = np.array([0, 1, 2, 0, 1, 2], np.int32)
FEW = {"queries": 20, "pgd_steps": 2}
seen = {"traced": set(), "run": set()}


@keras.saving.register_keras_serializable("tests")
class Witness(keras.layers.Layer):
    """Hands its input on, and notes whether TF32 is on when it is traced or run."""

    def call(self, x):
        self.look("traced")
        # Added and not only waited for, because whoever takes a graph apart may leave out what nobody reads.
        return x + tf.ensure_shape(tf.py_function(lambda: self.look("run"), [], x.dtype), [])

    def look(self, when):
        seen[when].add(SWITCH.tensor_float_32_execution_enabled())
        return 0.0


@pytest.fixture(autouse=True)
def tf32():
    """Switches TF32 on, as it is on a GPU unless somebody switches it off; looks that it is on afterwards."""
    before = SWITCH.tensor_float_32_execution_enabled()
    SWITCH.enable_tensor_float_32_execution(True)
    clear()
    yield
    left = SWITCH.tensor_float_32_execution_enabled()
    SWITCH.enable_tensor_float_32_execution(before)
    assert left


def clear():
    for states in seen.values():
        states.clear()


def network(norm=False, seed=1):
    layers = keras.layers
    normalised = [layers.BatchNormalization(name="norm")] if norm else []
    dense = layers.Dense(CLASSES, kernel_initializer=keras.initializers.GlorotUniform(seed=seed))
    inner = [Witness(), *normalised, layers.ReLU(), layers.Flatten(), dense]
    model = keras.Sequential([keras.Input(SHAPE), *inner])
    clear()  # building it has traced it
    return model


def movable(**settings):
    found = as_classifier(network(**settings), movable=True)
    clear()
    return found


def batches():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)


def vector(classifier):
    return np.ones(classifier.parameters.size, np.float32)


def objective(classifier):
    return advtf.AdversarialObjective(classifier, X, Y, ATTACK, EPSILON)


def hessian(method, *arguments):
    classifier = movable()
    operator = advtf.HessianOperator(classifier, X, Y)
    getattr(operator, method)(*(arguments or [vector(classifier)] * (method == "__call__")))


def eigenpairs(solver, *arguments):
    operator = advtf.HessianOperator(movable(), X, Y)
    solver(operator, operator.dimension, *arguments)


def similarity(method, *arguments):
    compared = advtf.PerturbationSimilarity(movable(), X, Y, ATTACK, EPSILON)
    getattr(compared, method)(*arguments, **({"seed": 0} if method == "along" else {}))


def surface():
    classifier = movable()
    around = lambda a: vector(classifier) * a  # noqa: E731
    advtf.loss_surface(objective(classifier), classifier.parameters, around, [[0.0, 0.5]])


def curve():
    ends = movable(), movable(seed=2)
    train_curve(*ends, X, Y, ATTACK, EPSILON, CurveSettings(epochs=1, batch_size=3))


def scanner():
    classifier = movable(norm=True)
    advtf.CurveScanner(classifier, (X, Y), (X, Y), ATTACK, EPSILON).measure(vector(classifier))


def export(folder):
    advtf.export_classifier(network(), folder / "export", sample=X)


def analyze(folder):
    few = {"runs": 1, "offsets": (0.1,), "attack_steps": 1}
    advtf.analyze(network(), X, Y, x_test=X, y_test=Y, study="similarity", epsilon=EPSILON, **few)


def validated(folder):
    average = WeightAverage(network(), "ema")
    trainer = compiled(average.classifier, ATTACK)
    trainer.attack = lambda logits_fn, x, y, epsilon, seed: x
    callback = WeightAveraging(
        average,
        start=0,
        every=1,
        snapshots=Snapshots(folder, [1], prefix="ema_"),
        images=X,
        validate=lambda: trainer.evaluate(batches(), verbose=0, return_dict=True),
    )
    callback.set_model(trainer)
    average.update()
    callback.on_epoch_end(0, {})


def input_landscape(folder):
    callback = InputLandscape(
        X, Y, EPSILON, pgd("linf", 1), classifier=network(), hs_examples=1, eigenvalues=1
    )
    callback.set_model(None)
    callback.on_train_begin()
    callback.on_epoch_end(0, {})


# Every public name whose call measures, and a call of it. They run eagerly, traced, or both.
MEASURES = {
    "AdversarialObjective": [
        lambda folder: objective(movable())(),
        lambda folder: objective(movable()).clean(),
        lambda folder: objective(movable()).examples(),
    ],
    "AdversarialTrainer": [
        lambda folder: compiled(network()).evaluate(batches(), verbose=0),
        lambda folder: compiled(network()).test_on_batch(X, Y),
    ],
    "BatchStatistics": [lambda folder: advtf.BatchStatistics(network(norm=True))(X)],
    "CurveScanner": [lambda folder: scanner()],
    "HessianOperator": [
        lambda folder: hessian("__call__"),
        lambda folder: hessian("gradient"),
        lambda folder: hessian("loss"),
    ],
    "InputLandscape": [input_landscape],
    "PerturbationSimilarity": [
        lambda folder: similarity("along", np.ones(111), [0.1]),
        lambda folder: similarity("between_starts", 0, 1),
    ],
    "WeightAveraging": [validated],
    "adversarial_examples": [
        lambda folder: advtf.adversarial_examples(movable(), X, Y, ATTACK, EPSILON, seed=0)
    ],
    "analyze": [analyze],
    "as_classifier": [lambda folder: advtf.as_classifier(network(), X, Y)],
    "as_subject": [lambda folder: advtf.as_subject(network())],
    "convert_state_dict": [  # where it compares with reference logits
        lambda folder: ReferenceLogits(folder, X, np.ones((6, CLASSES))).difference(network(), SHAPE)
    ],
    "dead_units": [lambda folder: advtf.dead_units(network(), X)],
    "evaluate": [lambda folder: advtf.evaluate(network(), X, Y, ["pgd", "square"], EPSILON, **FEW)],
    "export_classifier": [export],
    "input_measures": [
        lambda folder: advtf.input_measures(
            network(), X, Y, EPSILON, attack=ATTACK, hs_examples=1, eigenvalues=1
        )
    ],
    "lanczos": [lambda folder: eigenpairs(advtf.lanczos, 1)],
    "loss_surface": [lambda folder: surface()],
    "power_iteration": [lambda folder: eigenpairs(advtf.power_iteration, 1)],
    "random_loss": [lambda folder: advtf.random_loss(movable(), X, Y, ATTACK, EPSILON, draws=1)],
    "robust_error": [lambda folder: advtf.robust_error(network(), batches(), ATTACK, EPSILON)],
    "spectral_density": [
        lambda folder: eigenpairs(lambda *given: advtf.spectral_density(*given, steps=2, probes=1))
    ],
    "train_curve": [lambda folder: curve()],  # it has no precision of its own
}
# Every other public name: it trains, attacks or transforms in its caller's arithmetic, if it computes.
OTHERS = """
    Adam Checkpoint CheckpointFolder CurveSettings EpsilonSchedule GradientDynamics JsonLines
    PeriodicReset RateSchedule SGD Snapshots StopOnNonFiniteLoss StrengthSchedule TensorBoard UsageError
    WeightAverage WeightStatistics adversarial adversarial_minus_standard advlc apgd apgd_targeted
    build_ensemble build_model consistency cure epsilon_schedule evaluation_batches fab
    fab_distances fgsm fgsm_n from_arrays gradalign igr kdsa load_classifier load_data load_snapshot
    load_torch logitalign mart noisy parameter_count pgd rate_schedule reset_slots softplus_twin
    square standard trades training_batches
""".split()  # noqa: SIM905


def test_every_public_name_is_said_to_measure_or_not():
    """A new one that measures must do so within `advtf.runtime.true_float32`, and gets a call above."""
    assert sorted([*MEASURES, *OTHERS]) == advtf.__all__


# They measure by what is measured above, which is tested each time.
SLOWLY = ("CurveScanner", "InputLandscape", "WeightAveraging", "random_loss")


def calls():
    for name, several in MEASURES.items():
        marks = [pytest.mark.slow] if name in SLOWLY else []
        yield from (pytest.param(call, id=name, marks=marks) for call in several)


@pytest.mark.parametrize("call", calls())
def test_measured_without_tf32(call, tmp_path):
    call(tmp_path)
    assert seen == {"traced": {False}, "run": {False}}


@pytest.mark.parametrize("wanted", [False, True])
def test_training_computes_as_asked_and_validates_without_tf32(wanted):
    trainer = compiled(network(), lambda logits_fn, x, y, epsilon, seed: x)
    states = []
    trainer.eval_attack = lambda logits_fn, x, y, epsilon, seed: logits_fn(x)[:, :1, None, None] * 0 + x
    runtime = Runtime("a GPU", None, "float32", "auto", tf32=wanted)
    note = keras.callbacks.LambdaCallback(
        on_test_begin=lambda logs: (states.append(dict(run=set(seen["run"]))), clear()),
        on_test_end=lambda logs: (states.append(dict(run=set(seen["run"]))), clear()),
    )
    with runtime.training():
        trainer.fit(batches(), epochs=2, validation_data=batches(), callbacks=[note], verbose=0)
    assert [state["run"] for state in states] == [{wanted}, {False}] * 2
    assert SWITCH.tensor_float_32_execution_enabled()
