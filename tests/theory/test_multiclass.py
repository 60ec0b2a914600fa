"""Linear models of several classes under attack against all corners of the budget, and other ascents."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from advtf.attacks.pgd import pgd
from advtf.errors import UsageError
from advtf.models import build
from advtf.theory import logistic, multiclass
from advtf.theory.norms import full_step_ascent, get_norm, projected_ascent

NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])
DIMENSION = 6
CORNERS = np.array(list(itertools.product((-1.0, 1.0), repeat=DIMENSION)))


def problem(seed=0, examples=12, classes=4, scale=1.0, dimension=DIMENSION):
    rng = np.random.default_rng(seed)
    weights = scale * rng.normal(size=(dimension, classes))
    return weights, rng.uniform(0.3, 0.7, (examples, dimension)), rng.integers(0, classes, examples)


def cross_entropy(weights, x, y):
    logits = x @ weights
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]


def exact(weights, x, y, epsilon):
    """g_ε for l∞: the largest loss over the corners, where a convex function has its maximum."""
    return np.max([cross_entropy(weights, x + epsilon * corner, y) for corner in CORNERS], axis=0)


def differences(function, point, step=1e-5):
    steps = step * np.eye(point.size).reshape(-1, *point.shape)
    found = [(function(point + s) - function(point - s)) / (2 * step) for s in steps]
    return np.array(found).reshape(point.shape)


@pytest.mark.parametrize("epsilon", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0])
def test_bounds_and_ascent_enclose_the_exact_linf_loss(epsilon, scale):
    weights, x, y = problem(1, examples=40, scale=scale)
    largest = exact(weights, x, y, epsilon)
    worst = multiclass.worst_case(weights, x, y, epsilon, "linf")
    found = multiclass.losses(weights, worst, y)
    assert np.all(multiclass.lower_bound(weights, x, y, epsilon, "linf") <= found + 1e-12)
    assert np.all(found <= largest + 1e-12)
    assert np.all(largest <= multiclass.upper_bound(weights, x, y, epsilon, "linf") + 1e-12)
    missed = largest - found  # ascent ends where no step improves; rarely another corner than the best
    assert np.mean(missed > 1e-9) <= 0.05
    assert missed.max() <= 1e-3
    assert np.abs(worst - x).max() <= epsilon + 1e-12


@NORMS
def test_two_classes_have_the_closed_form(norm):
    weights, x, y = problem(2, classes=2)
    closed = logistic.losses(weights[:, 0] - weights[:, 1], x, np.where(y == 0, 1, -1), 0.2, norm)
    worst = multiclass.worst_case(weights, x, y, 0.2, norm)
    for losses in (
        multiclass.lower_bound(weights, x, y, 0.2, norm),
        multiclass.losses(weights, worst, y),
        multiclass.upper_bound(weights, x, y, 0.2, norm),
    ):
        np.testing.assert_allclose(losses, closed, rtol=1e-12)


@NORMS
def test_worst_case_is_as_strong_as_pgd_with_many_steps_and_starts(norm):
    weights, x, y = problem(3, scale=2.0)
    budget, rng = get_norm(norm), np.random.default_rng(4)
    reached = np.full(len(y), -np.inf)
    for _ in range(20):
        start = x + budget.project(rng.uniform(-0.25, 0.25, x.shape), 0.25)
        found = projected_ascent(
            lambda at: multiclass.input_gradient(weights, at, y), x, 0.25, norm, steps=500, start=start
        )
        reached = np.maximum(reached, cross_entropy(weights, found, y))
    worst = multiclass.worst_case(weights, x, y, 0.25, norm, steps=100)
    np.testing.assert_allclose(cross_entropy(weights, worst, y), reached, atol=1e-6)


@NORMS
def test_the_packages_pgd_on_its_linear_model_agrees(norm):
    weights, x, y = problem(5, scale=2.0)
    model = build("linear", (2, 3, 1), 4)
    model.set_weights([weights, np.zeros(4)])
    attack = pgd(norm, steps=100, relative_step=0.1)
    images, labels = tf.constant(x.reshape(-1, 2, 3, 1), tf.float32), tf.constant(y, tf.int32)

    @tf.function
    def attacked():
        return attack(lambda at: model(at, training=False), images, labels, 0.2, tf.constant([1, 2]))

    reached = cross_entropy(weights, attacked().numpy().reshape(x.shape).astype(np.float64), y)
    worst = multiclass.losses(weights, multiclass.worst_case(weights, x, y, 0.2, norm, steps=50), y)
    assert np.all(reached <= worst + 1e-6)
    assert np.mean(reached >= worst - 1e-6) >= 0.75  # one random start may end at another corner


@NORMS
def test_full_steps_never_lower_the_loss(norm):
    weights, x, y = problem(6, scale=3.0)
    budget = get_norm(norm)
    start = x + budget.project(np.random.default_rng(7).uniform(-0.5, 0.5, x.shape), 0.5)
    losses = [cross_entropy(weights, start, y)]
    for _ in range(6):
        start = full_step_ascent(
            lambda at: multiclass.input_gradient(weights, at, y), x, 0.5, budget, 1, start
        )
        losses.append(cross_entropy(weights, start, y))
    assert np.all(np.diff(losses, axis=0) >= -1e-13)
    assert budget.size(start - x) == pytest.approx(0.5)


def test_gradients_are_those_of_finite_differences():
    weights, x, y = problem(8)
    numeric = differences(lambda w: cross_entropy(w, x, y).mean(), weights)
    np.testing.assert_allclose(multiclass.gradient(weights, x, y), numeric, atol=1e-9)
    at_x = differences(lambda at: cross_entropy(weights, at, y).sum(), x)
    np.testing.assert_allclose(multiclass.input_gradient(weights, x, y), at_x, atol=1e-8)
    np.testing.assert_allclose(multiclass.losses(weights, x, y), cross_entropy(weights, x, y), rtol=1e-13)


def test_gradient_at_the_worst_case_is_that_of_the_adversarial_loss():
    weights, x, y = problem(9, scale=2.0)
    worst = multiclass.worst_case(weights, x, y, 0.3, "linf")
    numeric = differences(lambda w: exact(w, x, y, 0.3).mean(), weights, 1e-6)
    np.testing.assert_allclose(multiclass.gradient(weights, worst, y), numeric, atol=1e-8)


@NORMS
def test_at_the_papers_epsilon_bound_two_terms_of_the_loss_make_log_k(norm):
    weights, x, y = problem(10, examples=30)
    budget, bounds = get_norm(norm), multiclass.epsilon_bound(weights, x, y, norm)
    for i, bound in enumerate(bounds):
        away = weights - weights[:, y[i] : y[i] + 1]
        farthest = budget.dual(away.T).argmax()
        reach = away[:, farthest] @ x[i] + bound * budget.dual(away[:, farthest])
        assert np.log1p(np.exp(reach)) >= np.log(4) - 1e-12
        assert bound == 0 or np.log1p(np.exp(reach)) == pytest.approx(np.log(4))
        at_bound = multiclass.lower_bound(weights, x[i : i + 1], y[i : i + 1], bound, norm)
        assert at_bound[0] >= np.log(4) - 1e-12


def test_beyond_the_papers_bound_the_exact_loss_is_at_least_log_k():
    weights, x, y = problem(11)
    for epsilon in np.sort(multiclass.epsilon_bound(weights, x, y, "linf")):
        over = multiclass.epsilon_bound(weights, x, y, "linf") <= epsilon
        assert np.all(exact(weights, x, y, epsilon)[over] >= np.log(4) - 1e-12)


def test_the_papers_bound_grows_without_limit_as_weights_vanish():
    weights, x, y = problem(12)
    means = [multiclass.epsilon_bound(weights * scale, x, y, "linf").mean() for scale in (1e-2, 1e-3)]
    assert means[1] > 9 * means[0] > 9
    two_classes = multiclass.epsilon_bound(weights[:, :2], x, y % 2, "linf")
    vanishing = multiclass.epsilon_bound(1e-6 * weights[:, :2], x, y % 2, "linf")
    np.testing.assert_allclose(two_classes, vanishing)  # log(K − 1) = 0
    equal = np.repeat(weights[:, :1], 4, axis=1)
    np.testing.assert_array_equal(multiclass.epsilon_bound(equal, x, y, "linf"), np.zeros(len(y)))


def test_large_logits_do_not_overflow():
    weights, x, y = problem(13, scale=1e4)
    with np.errstate(over="raise", invalid="raise"):
        assert np.isfinite(multiclass.losses(weights, x, y)).all()
        assert np.isfinite(multiclass.upper_bound(weights, x, y, 1.0, "l2")).all()
        assert np.isfinite(multiclass.gradient(weights, x, y)).all()


@NORMS
def test_a_version_space_ends_where_an_example_turns_wrong(norm):
    """The distance of x from the boundary between two classes is known: (w_y − w_j)ᵀx / ‖w_y − w_j‖_q."""
    weights, x, y = problem(14, examples=40)
    others = np.array([[j for j in range(4) if j != label] for label in y])
    apart = weights.T[y][:, np.newaxis] - weights.T[others]
    sizes = np.linalg.norm(apart, ord=1 if norm == "linf" else 2, axis=2)
    radii = (np.einsum("njm,nm->nj", apart, x) / sizes).min(axis=1)
    right = np.flatnonzero(radii > 0)
    np.testing.assert_array_equal(radii > 0, (x @ weights).argmax(axis=1) == y)
    for i in right:
        example = weights, x[i : i + 1], y[i : i + 1]
        inside, outside = (multiclass.margins(*example, times * radii[i], norm) for times in (0.999, 1.001))
        assert inside > 0 > outside


def test_version_space_margins_are_the_smallest_over_all_corners():
    weights, x, y = problem(15)
    logits = np.array([(x + 0.2 * corner) @ weights for corner in CORNERS])
    own = logits[:, np.arange(len(y)), y]
    logits[:, np.arange(len(y)), y] = -np.inf
    smallest = (own[..., np.newaxis] - logits).min(axis=(0, 2))
    np.testing.assert_allclose(multiclass.margins(weights, x, y, 0.2, "linf"), smallest, atol=1e-12)


@NORMS
def test_version_spaces_are_nested(norm):
    _, x, y = problem(16)
    weights = [np.linalg.pinv(x) @ np.eye(4)[y] + s * problem(17)[0] for s in (0, 0.1, 0.3, 1)]
    members = multiclass.membership(weights, x, y, (0, 0.05, 0.1, 0.3), norm)
    assert members.shape == (4, 4, 12)
    assert multiclass.is_nested(members)
    assert not multiclass.is_nested(members[::-1])
    assert members[0].sum() > members[1].sum() > members[3].sum()


def test_equal_columns_are_in_every_version_space():
    _, x, y = problem(18)
    equal = np.ones((DIMENSION, 4))
    assert np.all(multiclass.membership([equal], x, y, [0, 5.0], "linf"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(weights=np.ones(6)), r"\(m, K\)"),
        (dict(weights=np.ones((6, 1))), "K > 1"),
        (dict(weights=np.ones((5, 4))), r"\(5, 4\)"),
        (dict(y=np.full(12, 4)), r"integers in \[0, 4\).*4 to 4"),
        (dict(y=np.zeros(12)), "float64"),
        (dict(y=np.zeros(3, int)), r"\(3,\)"),
        (dict(x=np.ones((0, 6)), y=np.zeros(0, int)), "N > 0"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    weights, x, y = problem()
    arguments = dict(weights=weights, x=x, y=y) | changes
    with pytest.raises(UsageError, match=message):
        multiclass.losses(**arguments)
    with pytest.raises(UsageError, match=message):
        multiclass.worst_case(**arguments, epsilon=0.1, norm="linf")
