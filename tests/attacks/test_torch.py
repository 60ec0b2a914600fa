"""APGD and FAB of AutoAttack against PyTorch in float64: every example ends at the same point.

Both algorithms are written here a second time from the papers of Croce & Hein 2020, example by example. The
random starts of APGD are taken over; FAB has none. Where the published program is more precise than the paper
of APGD (checkpoints in whole iterations, condition 1 with <=), it is followed, as the package does.
"""

import numpy as np
import pytest
import tensorflow as tf
from helpers.attack import digits_network, norms, seed
from helpers.float64 import float64 as float64  # a fixture

from advtf import models
from advtf.attacks.apgd import apgd, apgd_targeted
from advtf.attacks.fab import fab_distances

EPSILON = {"linf": 0.06, "l2": 0.3}
EXAMPLES, STEPS = 48, 40


def networks():
    """The small LeNet of the digits in float64: ours, and the same in torch as a function of one image."""
    torch = pytest.importorskip("torch")
    trained, x, y = digits_network()
    ours = models.build("lenet", (8, 8, 1), 10, width=2, activation="softplus")
    ours.set_weights(trained.func.get_weights())
    weights = [torch.tensor(value.astype(np.float64)) for value in trained.func.get_weights()]

    def theirs(image):
        """(8, 8, 1) -> (10,)"""
        h, F = image.permute(2, 0, 1)[None], torch.nn.functional
        for kernel, bias in (weights[:2], weights[2:4]):
            h = F.max_pool2d(F.softplus(F.conv2d(h, kernel.permute(3, 2, 0, 1), bias, padding=2)), 2)
        h = F.softplus(h.permute(0, 2, 3, 1).flatten() @ weights[4] + weights[5])
        return h @ weights[6] + weights[7]

    return ours, theirs, x[:EXAMPLES].astype(np.float64), y[:EXAMPLES].astype(np.int32)


class Recorder:
    """A classifier that keeps what it is asked about."""

    def __init__(self, model):
        self.model, self.seen = model, []

    def __call__(self, x):
        self.seen.append(np.array(x))
        return self.model(x, training=False)


def size(norm, delta):
    return norms(norm, delta[None])[0]


def inside(norm, x, point, epsilon):
    delta = point - x
    if norm == "linf":
        return np.clip(x + np.clip(delta, -epsilon, epsilon), 0, 1)
    return np.clip(x + delta * min(1, epsilon / max(size(norm, delta), 1e-12)), 0, 1)


def evaluator(net, label, loss):
    """point -> (loss, whether it is misclassified, gradient of the loss)."""
    import torch

    def evaluate(point):
        image = torch.tensor(point, requires_grad=True)
        logits = net(image)
        value = loss(logits, label)
        (gradient,) = torch.autograd.grad(value, image)
        return value.item(), logits.argmax().item() != label, gradient.numpy()

    return evaluate


def cross_entropy(z, label):
    return z.logsumexp(0) - z[label]


def dlr(z, label):
    """Equation 6."""
    ordered = z.sort(descending=True).values
    strongest_other = ordered[1] if z.argmax() == label else ordered[0]
    return (strongest_other - z[label]) / (ordered[0] - ordered[2] + 1e-12)


def targeted_dlr(target):
    """Equation 7."""

    def loss(z, label):
        ordered = z.sort(descending=True).values
        return (z[target] - z[label]) / (ordered[0] - (ordered[2] + ordered[3]) / 2 + 1e-12)

    return loss


def target_of_rank(net, x, label, rank):
    """The wrong class with the `rank`-th largest clean logit."""
    import torch

    order = net(torch.tensor(x)).argsort(descending=True).tolist()
    return [k for k in order if k != label][rank - 1]


def torch_apgd(evaluate, x, start, norm, epsilon):
    """Algorithm 1 of "Reliable evaluation": the point that it returns, and whether that is misclassified."""
    window, shortest, shrink = (max(int(share * STEPS), 1) for share in (0.22, 0.06, 0.03))
    next_check, rises, previous_best, halved = window, 0, None, True
    step, now, before = 2 * epsilon, start, start
    value, fooled, gradient = evaluate(start)
    best, best_value, best_gradient = start, value, gradient
    previous_best = best_value
    if fooled:
        return start, True
    for k in range(STEPS):
        uphill = np.sign(gradient) if norm == "linf" else gradient / size(norm, gradient)
        ahead = inside(norm, x, now + step * uphill, epsilon)
        if k > 0:
            ahead = inside(norm, x, now + 0.75 * (ahead - now) + 0.25 * (now - before), epsilon)
        before, now, last = now, ahead, value
        value, fooled, gradient = evaluate(now)
        if fooled:
            return now, True
        rises += value > last
        if value > best_value:
            best, best_value, best_gradient = now, value, gradient
        if k + 1 == next_check:
            stalled = not halved and best_value == previous_best
            halved = rises <= 0.75 * window or stalled
            if halved:
                step, now, gradient = step / 2, best, best_gradient
            window = max(window - shrink, shortest)
            next_check, rises, previous_best = next_check + window, 0, best_value
    return best, False


def projected(norm, x, normal, change):
    """min ‖δ‖ with ⟨normal, δ⟩ = change and x + δ in [0, 1], by sorting the levels of full pixels."""
    shape, x, normal = x.shape, x.ravel(), normal.ravel()
    weight, uphill = np.abs(normal), np.sign(normal) * np.sign(change)
    room = np.where(uphill > 0, 1 - x, x) * (weight > 0)
    speed = weight if norm == "l2" else (weight > 0).astype(float)
    full_at = np.where(speed > 0, room / np.where(speed > 0, speed, 1), 0)
    order, needed, level, gained = np.argsort(full_at), abs(change), 0.0, 0.0
    slope = (weight * speed).sum()
    for pixel in order:
        ahead = gained + slope * (full_at[pixel] - level)
        if ahead >= needed:
            level += (needed - gained) / slope
            break
        gained, level, slope = ahead, full_at[pixel], slope - weight[pixel] * speed[pixel]
    return (uphill * np.minimum(level * speed, room)).reshape(shape)


def torch_fab(net, x, label, rank, norm):
    """FAB with a target, of "Minimally distorted": the nearest adversarial point and its distance."""
    target = target_of_rank(net, x, label, rank)
    evaluate = evaluator(net, label, lambda z, label: z[target] - z[label])
    point, nearest, distance = x, x, np.inf
    if evaluate(x)[1]:
        return x, 0.0
    for _ in range(STEPS):
        value, _, normal = evaluate(point)
        move = projected(norm, point, normal, -value)
        from_image = projected(norm, x, normal, (normal * (point - x)).sum() - value)
        share = size(norm, move) / (size(norm, move) + size(norm, from_image))
        share = min(share, 0.1)
        point = np.clip((1 - share) * (point + 1.05 * move) + share * (x + 1.05 * from_image), 0, 1)
        if evaluate(point)[1]:
            if size(norm, point - x) < distance:
                nearest, distance = point, size(norm, point - x)
            point = x + 0.9 * (point - x)
    return nearest, distance


ATTACKS = {
    "ce": lambda norm: apgd(norm, "ce", STEPS),
    "dlr": lambda norm: apgd(norm, "dlr", STEPS),
    "target 1": lambda norm: apgd_targeted(norm, 1, STEPS),
    "target 3": lambda norm: apgd_targeted(norm, 3, STEPS),
}


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ATTACKS)
def test_apgd_ends_where_torch_does(float64, name, norm):
    ours, theirs, x, y = networks()
    recorder, epsilon = Recorder(ours), EPSILON[norm]
    x_adv = ATTACKS[name](norm)(recorder, tf.constant(x), y, epsilon, seed()).numpy()
    starts = recorder.seen["target" in name]  # a target is chosen by a pass over the clean images
    assert 0.8 * epsilon < norms(norm, starts - x).max() <= epsilon * (1 + 1e-9)
    broken = ours(x_adv).numpy().argmax(axis=1) != y
    assert x_adv.dtype == np.float64 and 5 < broken.sum() < EXAMPLES - 5
    for i, label in enumerate(y.tolist()):
        loss = {"ce": cross_entropy, "dlr": dlr}.get(name)
        loss = loss or targeted_dlr(target_of_rank(theirs, x[i], label, int(name[-1])))
        point, fooled = torch_apgd(evaluator(theirs, label, loss), x[i], starts[i], norm, epsilon)
        assert broken[i] == fooled, i
        np.testing.assert_allclose(x_adv[i], point, atol=1e-8, err_msg=f"example {i}")


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("rank", [1, 3])
def test_fab_finds_the_point_of_torch(float64, rank, norm):
    ours, theirs, x, y = networks()
    measure = fab_distances(norm, STEPS, target_rank=rank, search_steps=0)
    x_adv, distances = (part.numpy() for part in measure(ours, tf.constant(x), y, EPSILON[norm], seed()))
    assert x_adv.dtype == np.float64 and 5 < (distances <= EPSILON[norm]).sum() < EXAMPLES - 5
    for i, label in enumerate(y.tolist()):
        point, distance = torch_fab(theirs, x[i], label, rank, norm)
        np.testing.assert_allclose(distances[i], distance, rtol=1e-8, err_msg=f"example {i}")
        np.testing.assert_allclose(x_adv[i], point, atol=1e-8, err_msg=f"example {i}")
