"""L_ε(θ) and the robust error against sums by hand, at weights that move, in any batching."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import losses

from advtf.attacks.pgd import fgsm, pgd
from advtf.attacks.robust_error import robust_error
from advtf.classifiers.classifier import as_classifier
from advtf.errors import UsageError
from advtf.landscape.objective import AdversarialObjective, adversarial_examples
from advtf.models import build

SHAPE, EPSILON = (3, 3, 1), 0.1


def linear(classes=2, seed=0):
    classifier = as_classifier(build("linear", SHAPE, classes, seed=seed), movable=True)
    classifier.parameters.assign(4 * classifier.parameters.value())
    return classifier


def data(n=7, classes=2, low=0.2, high=0.8):
    rng = np.random.default_rng(1)
    return rng.uniform(low, high, (n, *SHAPE)).astype(np.float32), rng.integers(0, classes, n)


def worst_case(classifier, x, y):
    """Losses and mistakes of a two-class linear model at its worst images of the l∞ ball, in float64."""
    kernel = classifier.model.get_layer("logits").kernel.numpy().astype(float)
    bias = classifier.model.get_layer("logits").bias.numpy().astype(float)
    lead = kernel[:, 1] - kernel[:, 0]
    towards = np.where(y == 0, 1, -1)[:, None]
    images = x.reshape(len(x), -1) + EPSILON * towards * np.sign(lead)
    logits = images @ kernel + bias
    return losses(logits, y), logits.argmax(axis=1) != y, images.reshape(x.shape)


@pytest.mark.parametrize("size", [1, 3, 250])
def test_linear_model_in_closed_form_at_moving_weights(size):
    classifier, (x, y) = linear(), data()
    objective = AdversarialObjective(classifier, x, y, fgsm(), EPSILON, batch_size=size)
    for scale in (1.0, -2.0):  # the worst case turns with the weights: the attack must be made anew
        with classifier.parameters.at(scale * classifier.parameters.value()):
            wanted, wrong, images = worst_case(classifier, x, y)
            measured = objective()
            assert measured.loss == pytest.approx(wanted.mean(), rel=1e-6)
            assert measured.error == pytest.approx(100 * wrong.mean())
            assert measured.examples == 7
            np.testing.assert_allclose(objective.examples(), images, atol=1e-6)
            clean = classifier.logits_fn(x).numpy()
            assert objective.clean().loss == pytest.approx(losses(clean, y).mean(), rel=1e-6)
            assert objective.clean().error == pytest.approx(100 * (clean.argmax(axis=1) != y).mean())


def test_agrees_with_an_evaluation_and_counts_mended_mistakes():
    classifier, (x, y) = linear(classes=4), data(20, classes=4)

    def mend(logits_fn, x, y, epsilon, seed):
        return tf.zeros_like(x)

    for attack in (pgd(steps=3), mend):
        batches = [(x[i : i + 8], y[i : i + 8]) for i in range(0, 20, 8)]
        expected = robust_error(classifier.logits_fn, batches, attack, EPSILON, seed=5)
        measured = AdversarialObjective(classifier, x, y, attack, EPSILON, seed=5, batch_size=8)
        assert measured().error == expected.robust_error
        assert measured.clean().error == expected.clean_error


def test_epsilon_zero_is_the_clean_objective():
    classifier, (x, y) = linear(), data()
    objective = AdversarialObjective(classifier, x, y, pgd(), 0.0)
    assert objective() == objective.clean()
    assert np.array_equal(objective.examples(), x)


def test_random_starts_depend_on_seed_and_batch_only():
    classifier, (x, y) = linear(), data(6, low=0.5, high=0.5)
    attack = pgd(steps=1, relative_step=1e-6)  # where it starts, it ends
    objective = AdversarialObjective(classifier, x, y, attack, EPSILON, seed=3, batch_size=3)
    examples = objective.examples()
    assert examples.dtype == np.float32 and np.array_equal(examples, objective.examples())
    assert objective() == objective() != objective(seed=4)
    again = adversarial_examples(classifier.logits_fn, x, y, attack, EPSILON, seed=3, batch_size=3)
    assert np.array_equal(examples, again)
    assert not np.allclose(examples[:3], examples[3:], atol=1e-3)
    assert not np.allclose(examples, objective.examples(seed=4), atol=1e-3)
    assert np.abs(examples - x).max() <= EPSILON + 1e-6


def test_loss_is_that_of_its_own_examples():
    classifier, (x, y) = linear(classes=3), data(classes=3)
    objective = AdversarialObjective(classifier, x, y, pgd(steps=2), EPSILON, batch_size=4)
    logits = classifier.logits_fn(objective.examples()).numpy()
    assert objective().loss == pytest.approx(losses(logits, y).mean(), rel=1e-6)


@pytest.mark.slow
def test_compiled_values_agree():
    classifier, (x, y) = linear(), data()
    plain = AdversarialObjective(classifier, x, y, fgsm(), EPSILON)()
    compiled = AdversarialObjective(classifier, x, y, fgsm(), EPSILON, jit_compile=True)()
    assert (compiled.error, compiled.loss) == (plain.error, pytest.approx(plain.loss, rel=1e-6))


def test_one_trace_at_many_weights():
    traces = []

    def attack(logits_fn, x, y, epsilon, seed):
        traces.append(x.shape)
        return x

    classifier, (x, y) = linear(), data(6)
    objective = AdversarialObjective(classifier, x, y, attack, EPSILON, batch_size=3)
    for scale in (1.0, 2.0, 3.0):
        with classifier.parameters.at(scale * classifier.parameters.value()):
            objective()
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((0, *SHAPE), np.float32), "y": np.zeros(0, int)}, "at least one"),
        ({"y": np.zeros(6, int)}, "at least one"),
        ({"epsilon": -0.1}, "epsilon"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments_are_refused_at_construction(change, message):
    x, y = data()
    arguments = {"x": x, "y": y, "attack": fgsm(), "epsilon": EPSILON} | change
    with pytest.raises(UsageError, match=message):
        AdversarialObjective(linear(), **arguments)
