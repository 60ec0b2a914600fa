"""`advtf.evaluate`, the function: classifiers, numbers, warnings, mistakes."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import Linear, norms
from helpers.evaluate import EPSILON, EXPORT, FEW, digits, export_digits

from advtf import evaluate
from advtf.classifiers.classifier import as_classifier
from advtf.classifiers.ensemble import build_ensemble
from advtf.classifiers.export import load_classifier
from advtf.errors import UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with one export."""
    return export_digits(tmp_path_factory.mktemp("evaluate"))


@pytest.mark.parametrize(
    ("suite", "label"),
    [("screen", "Screen"), pytest.param("autoattack", "AutoAttack", marks=pytest.mark.slow)],
)
def test_the_library_call(suite, label):
    model, x, y = digits()
    found = evaluate(model, x, y, attacks=["pgd", suite], epsilon=EPSILON, epsilon_grid=(0.04, 0.12), **FEW)
    clean = model.predict_on_batch(x).argmax(axis=1) != y
    assert found.clean_error == 100 * clean.mean()
    assert found.clean_error < found.attacks["pgd"].error <= found.robust_error < 100
    np.testing.assert_array_equal(
        found.worst_case.wrong, found.attacks["pgd"].wrong | found.attacks[suite].wrong
    )
    predicted = model.predict_on_batch(found.adversarial).argmax(axis=1)
    np.testing.assert_array_equal(predicted != y, found.worst_case.wrong)
    assert norms("linf", found.adversarial - x).max() <= EPSILON + 1e-6
    assert list(found.curve) == [0.0, 0.04, EPSILON, 0.12]
    assert list(found.curve.values()) == sorted(found.curve.values(), reverse=True)
    assert found.curve[0.0] == 100 - found.clean_error and found.curve[EPSILON] == 100 - found.robust_error
    title, head, row = str(found).splitlines()
    assert title == "Error in % of 64 images (linf, ε 0.08)"
    assert head.split() == ["model", "clean", "PGD", label, "worst", "case"]
    assert [float(v) for v in row.split()[-4:]] == [
        round(v, 2)
        for v in (found.clean_error, *(a.error for a in found.attacks.values()), found.robust_error)
    ]
    record = json.loads(json.dumps(found.to_json()))
    parts = record["attacks"][suite]["components"]
    assert sum(part["broken"] for part in parts.values()) == len(record["attacks"][suite]["broken"])
    assert record["worst_case"]["broken"] == np.flatnonzero(found.worst_case.broken).tolist()


def normalised_network():
    """A small convolutional network with BatchNorm statistics far from 0 and 1."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(6, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(4),
        ]
    )
    rng = np.random.default_rng(0)
    model.set_weights(
        [rng.normal(size=weight.shape) for weight in model.get_weights()[:3]]
        + [
            rng.normal(size=6),
            rng.uniform(0.5, 2.0, 6),
            *(rng.normal(size=w.shape) for w in model.get_weights()[5:]),
        ]
    )
    return model


@pytest.mark.parametrize("attacks", ["apgd_ce", pytest.param("screen,square", marks=pytest.mark.slow)])
def test_folded_batch_norm_breaks_the_same_examples(attacks):
    model, x = normalised_network(), np.random.default_rng(1).uniform(size=(24, 8, 8, 1)).astype(np.float32)
    y = model.predict_on_batch(x).argmax(axis=1).astype(np.int32)
    assert as_classifier(model, x).attack_view() and not as_classifier(lambda x: model(x), x).attack_view()
    # Nothing is folded in a function.
    found = [
        evaluate(kind, x, y, attacks, 0.06, checks=False, **FEW)
        for kind in (model, lambda x: model(x, training=False))
    ]
    np.testing.assert_array_equal(*(one.worst_case.broken for one in found))
    np.testing.assert_array_equal(
        found[0].worst_case.wrong, model.predict_on_batch(found[0].adversarial).argmax(axis=1) != y
    )
    assert 0.1 < found[0].worst_case.broken.mean() < 0.95


def test_without_a_radius_the_error_is_the_clean_one():
    model, x, y = digits()
    found = evaluate(model, x, y, ["apgd_ce", "square"], 0.0, checks=False, **FEW)
    assert found.robust_error == found.clean_error > 0
    assert found.attacks["square"].spent.forward == 0


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_same_seed_same_result_and_a_larger_ball_is_worse(norm):
    model, x, y = digits()
    epsilon = {"linf": 0.05, "l2": 0.25}[norm]
    attack = functools.partial(evaluate, model, x, y, "apgd_ce,square", epsilon, norm, checks=False, **FEW)
    first, again = attack(), attack(epsilon_grid=(2 * epsilon,))
    assert first.robust_error == again.robust_error
    assert first.adversarial.tobytes() == again.adversarial.tobytes()
    assert again.curve[2 * epsilon] < again.curve[epsilon] == 100 - first.robust_error


@pytest.mark.slow
def test_every_kind_of_classifier_gives_the_same_numbers(folder):
    model, x, y = digits()
    classifiers = [model, folder / EXPORT, str(folder / EXPORT), [model], build_ensemble([model])]
    classifiers.append(lambda x: model(x, training=False))
    errors = {
        evaluate(classifier, x, y, "pgd", EPSILON, checks=False, **FEW).robust_error
        for classifier in classifiers
    }
    assert len(errors) == 1


def test_uint8_images_are_scaled():
    model, x, y = digits()
    whole = np.round(255 * x).astype(np.uint8)
    found = evaluate(model, whole, y, "pgd", EPSILON, checks=False, **FEW)
    assert found.clean_error == 100 * (model.predict_on_batch(whole / np.float32(255)).argmax(1) != y).mean()


def test_probabilities_are_refused_or_taken_as_such(tmp_path):
    model, x, y = digits()
    softmax = keras.Sequential([model, keras.layers.Softmax()])
    softmax.build(model.input_shape)
    softmax.export(str(tmp_path / "softmax"), verbose=False)
    same = evaluate(model, x, y, "pgd", EPSILON, checks=False, **FEW)
    taken = {"outputs": "probabilities", "checks": False, **FEW}
    for classifier in (softmax, tmp_path / "softmax"):
        with pytest.raises(UsageError, match="remove the softmax, or say outputs=probabilities"):
            evaluate(classifier, x, y, "pgd", EPSILON, **FEW)
        found = evaluate(classifier, x, y, "pgd", EPSILON, **taken)
        assert abs(found.robust_error - same.robust_error) <= 100 / 64
        assert "logarithms of probabilities" in found.warnings[0]
    with pytest.raises(UsageError, match="use outputs=logits"):
        evaluate(model, x, y, "pgd", EPSILON, outputs="probabilities", **FEW)


@pytest.mark.slow
def test_a_loaded_softmax_is_attacked_like_its_path(tmp_path):
    model, x, y = digits()
    softmax = keras.Sequential([model, keras.layers.Softmax()])
    softmax.build(model.input_shape)
    softmax.export(str(tmp_path / "softmax"), verbose=False)
    loaded = load_classifier(tmp_path / "softmax", outputs="probabilities")
    # It returns logarithms already, so neither word may take another one.
    results = [
        evaluate(classifier, x, y, "pgd", EPSILON, outputs=outputs, checks=False, **FEW)
        for classifier, outputs in [
            (tmp_path / "softmax", "probabilities"),
            (loaded, "probabilities"),
            (loaded, "logits"),
        ]
    ]
    for found in results:
        np.testing.assert_array_equal(found.adversarial, results[0].adversarial)
        assert "logarithms of probabilities" in found.warnings[0]


@pytest.mark.slow
def test_warnings_reach_the_result():
    model, x, y = digits()
    found = evaluate(lambda x: 1e4 * model(x), x, y, "pgd,square", EPSILON, **FEW)
    assert any("gradients are zero" in line for line in found.warnings)
    assert any("square broke" in line for line in found.warnings)
    quiet = evaluate(model, x, y, "apgd_ce", EPSILON, **FEW)
    assert quiet.warnings == ()


def test_only_square_attacks_what_has_no_gradient():
    model, x, y = digits()

    def rounded(x):
        return tf.stop_gradient(model(x))

    with pytest.raises(UsageError, match="Use --attacks=square"):
        evaluate(rounded, x, y, "pgd,square", EPSILON)
    assert evaluate(rounded, x, y, "square", EPSILON, **FEW).robust_error > 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": "apgd_d"}, "Did you mean 'apgd_dlr'"),
        ({"epsilon": 8}, "8 probably means 8/255"),
        ({"epsilon_grid": (0.1, 2.0)}, "epsilon_grid must be"),
        ({"epsilon_grid": "0.1,x"}, "epsilon_grid must be radii"),
        ({"epsilon_grid": 0.1}, "epsilon_grid must be radii"),
        ({"eps": 0.1}, "must be given as epsilon"),
        ({"stepss": 3}, "Did you mean 'steps'"),
        ({"x": np.zeros((0, 8, 8, 1), np.float32), "y": np.zeros(0, int)}, "not empty"),
        ({"x": np.zeros((4, 9, 9, 1), np.float32)}, "must accept images"),
        ({"x": np.full((4, 8, 8, 1), 255.0)}, "Divide by 255"),
        ({"y": np.array([0, 1, 2, 12])}, r"labels must be in \[0, 10\)"),
        ({"y": np.array([0, 1, 2])}, "equal lengths"),
        ({"classifier": "nowhere/model"}, "must be the folder of a SavedModel"),
        ({"classifier": 3}, "must be a Keras model"),
        ({"classifier": lambda x: x}, "must return"),
        (
            {"classifier": lambda x: tf.reshape(x, [-1, 64])[:, :1]},
            r"\(4, 1\) .* Return \[0, z\] for a single",
        ),
        ({"classifier": lambda x: tf.reshape(x, [-1, 64])[:, :3], "attacks": "apgd_t"}, "at least 4 classes"),
    ],
)
def test_bad_calls(changes, message):
    model, x, _ = digits()
    call = {"classifier": model, "x": x[:4], "y": np.array([0, 1, 2, 1]), "attacks": "pgd", "epsilon": 0.1}
    with pytest.raises(UsageError, match=message):
        evaluate(**{**call, **changes})


def reach_of(model, x, y, epsilon, dual):
    """Returns max_k z_k − z_y + ε‖w_k − w_y‖, the lead of a wrong class in the ball, away from 0 and 1."""
    kernel, rows = model.kernel.astype(np.float64), np.arange(len(y))
    lead = model.logits(x) - model.logits(x)[rows, y][:, None]
    reach = lead + epsilon * np.linalg.norm(kernel[:, None, :] - kernel[:, y][:, :, None], ord=dual, axis=0)
    reach[rows, y] = -np.inf
    return reach.max(axis=1)


@pytest.mark.parametrize(
    ("classes", "norm", "dual", "epsilon"),
    [
        (4, "linf", 1, 0.05),
        pytest.param(3, "l2", 2, 0.12, marks=pytest.mark.slow),
        pytest.param(3, "linf", 1, 0.05, marks=pytest.mark.slow),
        pytest.param(4, "l2", 2, 0.12, marks=pytest.mark.slow),
    ],
)
def test_linear_models_reach_the_closed_form(classes, norm, dual, epsilon):
    model = Linear(shape=(3, 3, 1), classes=classes, seed=2)
    x, _ = model.batch(200, low=0.3, high=0.7)
    y = model.logits(x).argmax(axis=1).astype(np.int32)
    reach = reach_of(model, x, y, epsilon, dual)
    clear = np.abs(reach) > 1e-3
    found = evaluate(model, x, y, "screen", epsilon, norm, checks=False, steps=20)
    np.testing.assert_array_equal(found.worst_case.broken[clear], (reach > 0)[clear])
    assert 20 < found.robust_error < 80


def test_autoattack_on_two_classes_reaches_the_closed_form():
    model = Linear(shape=(3, 3, 1), classes=2, seed=10)
    x, _ = model.batch(60, low=0.3, high=0.7)
    y = model.logits(x).argmax(axis=1).astype(np.int32)
    reach = reach_of(model, x, y, 0.05, 1)
    clear, said = np.abs(reach) > 1e-3, []
    few = {"checks": False, "steps": 10, "queries": 60}
    found = evaluate(model, x, y, "autoattack", 0.05, epsilon_grid=[0.02], say=said.append, **few)
    np.testing.assert_array_equal(found.worst_case.broken[clear], (reach > 0)[clear])
    assert 20 < found.robust_error < 80
    assert [part.name for part in found.attacks["autoattack"].components] == ["apgd_ce", "fab_t", "square"]
    assert found.curve[0.02] == pytest.approx(100 * np.mean(reach_of(model, x, y, 0.02, 1) <= 0))
    (change,) = found.to_json()["left_out"]
    assert (change["suite"], change["attack"], change["stand_in"]) == ("autoattack", "apgd_t", None)
    assert said[0] == change["reason"] == str(found).splitlines()[-1]
