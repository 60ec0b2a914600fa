"""Whole training trajectories against PyTorch in float64: weights and running statistics after every epoch.

The network, the attacks, AdvLC, the schedules and the restart are written here a second time with torch's
batch norm, derivatives and optimizer. Both start from the same weights, and the random starts of the attacks
are taken over. In float64 the two stay together to ten digits. With one difference in a rule they do not.
"""

import functools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.float64 import float64 as float64  # a fixture
from helpers.trainer import still

from advtf.attacks.norms import get_norm
from advtf.attacks.pgd import fgsm_n, noisy, pgd, pgd_from_gradient
from advtf.models.layers import Layers
from advtf.training.callbacks import EpsilonSchedule, PeriodicReset, RateSchedule
from advtf.training.objectives import adversarial
from advtf.training.optimizers import SGD
from advtf.training.regularizers import advlc
from advtf.training.schedules import epsilon_schedule, rate_schedule
from advtf.training.trainer import AdversarialTrainer

SHAPE, CLASSES = (8, 8, 2), 4
EXAMPLES, BATCH, EPOCHS, RESTART = 76, 16, 4, 2  # five batches in an epoch, the last of 12
STEPS = math.ceil(EXAMPLES / BATCH)
TARGET, MAXIMUM = 0.08, 0.12
RATE, MOMENTUM, DECAY = 0.05, 0.9, 1e-2
STRENGTH, FRACTION = 2.0, 0.3


def images():
    rng = np.random.default_rng(0)
    return rng.random((EXAMPLES, *SHAPE)), rng.integers(0, CLASSES, EXAMPLES).astype(np.int32)


# Ours


class Float64Trainer(AdversarialTrainer):
    """The trainer with its scalar variables, ε among them, in float64."""

    def add_weight(self, **settings):
        return super().add_weight(**settings | {"dtype": "float64"})


def network():
    """Two convolutions with BatchNorm, the second with stride and bias, max-pooling, two dense layers."""
    layers = Layers("relu", seed=5)
    image = layers.image(SHAPE)
    x = layers.max_pool(layers.norm_activate(layers.conv(image, 4, 3, "conv1"), "norm1"), "pool1")
    x = layers.norm_activate(layers.conv(x, 6, 3, "conv2", stride=2, bias=True), "norm2")
    x = layers.activate(layers.dense(layers.flatten(x), 12, "hidden"), "hidden_act")
    return keras.Model(image, layers.logits(x, CLASSES))


def methods_of(name):
    """The arguments of the trainer that make a method, by the names of `torch_trajectory`."""
    if name == "pgd":
        return {"attack": pgd("linf", 3, 0.5), "objective": adversarial}
    objective = advlc(STRENGTH, FRACTION)
    if name == "advlc":
        return {"attack": fgsm_n(), "objective": objective, "clean_view": noisy()}
    shared = {"attack_mode": "training", "attack_from_gradient": pgd_from_gradient("linf", 1, 1.0)}
    return {"attack": fgsm_n(), "objective": objective, "clean_view": noisy(), **shared}


class Epochs(keras.callbacks.Callback):
    """Keeps the classifier's variables after every epoch."""

    def __init__(self):
        super().__init__()
        self.variables = []

    def on_epoch_end(self, epoch, logs=None):
        self.variables.append([variable.numpy() for variable in self.model.classifier.variables])


def our_trajectory(name):
    """Returns the initial variables by path, those after every epoch, and the random start of every step."""
    settings, seeds = methods_of(name), []

    def recorded(function, position):
        def call(*arguments):
            note = tf.numpy_function(lambda seed: seeds.append(seed.copy()), [arguments[position]], [])
            with tf.control_dependencies([note]):
                return function(*arguments)

        return call

    if "clean_view" in settings:
        settings["clean_view"] = recorded(settings["clean_view"], 2)
    else:
        settings["attack"] = recorded(settings["attack"], 4)
    classifier = network()
    start = {variable.path: variable.numpy() for variable in classifier.variables}
    trainer = Float64Trainer(classifier, epsilon=TARGET, seed=3, **settings)
    trainer.compile(SGD(RATE, momentum=MOMENTUM, l2=DECAY), jit_compile=False)
    period = {"boundaries": (RESTART,), "epochs": EPOCHS}
    epsilon = epsilon_schedule("cosine", target=TARGET, maximum=MAXIMUM, **period)
    rate = rate_schedule("step", RATE, milestones=(0.5,), factor=0.1, **period)
    callbacks = [
        EpsilonSchedule(epsilon, "step", STEPS),
        RateSchedule(rate, "step", STEPS),
        PeriodicReset((RESTART,)),
        epochs := Epochs(),
    ]
    x, y = images()
    trainer.fit(still(x, y, BATCH), epochs=EPOCHS, callbacks=callbacks, shuffle=False, verbose=0)
    assert len(seeds) == EPOCHS * STEPS
    draw = functools.partial(get_norm("linf").random_point, radius=tf.constant(1.0, tf.float64))
    sizes = [min(BATCH, EXAMPLES - BATCH * (step % STEPS)) for step in range(len(seeds))]
    noise = [draw((n, *SHAPE), seed=seed).numpy() for n, seed in zip(sizes, seeds, strict=True)]
    assert noise[0].dtype == np.float64 and 0.9 < np.abs(noise[0]).max() <= 1
    return start, epochs.variables, noise


# Theirs


class TorchNetwork:
    """The network from its variables by path, in torch's layout where torch has one."""

    def __init__(self, torch, variables):
        self.torch, self.F = torch, torch.nn.functional
        self.variables = {path: torch.tensor(value) for path, value in variables.items()}
        self.trained = [v for path, v in self.variables.items() if "moving" not in path]
        for variable in self.trained:
            variable.requires_grad_(True)

    def conv(self, x, name, stride, bias=None):
        return self.F.conv2d(x, self.variables[f"{name}/kernel"].permute(3, 2, 0, 1), bias, stride, padding=1)

    def norm(self, x, name, training):
        parts = ("moving_mean", "moving_variance", "gamma", "beta")
        variables = [self.variables[f"{name}/{part}"] for part in parts]
        return self.F.batch_norm(x, *variables, training, 0.1, 1e-5)

    def logits(self, x, training):
        v, relu = self.variables, self.F.relu
        x = self.conv(x.permute(0, 3, 1, 2), "conv1", 1)
        x = self.F.max_pool2d(relu(self.norm(x, "norm1_bn", training)), 2)
        x = relu(self.norm(self.conv(x, "conv2", 2, v["conv2/bias"]), "norm2_bn", training))
        x = relu(x.permute(0, 2, 3, 1).flatten(1) @ v["hidden/kernel"] + v["hidden/bias"])
        return x @ v["logits/kernel"] + v["logits/bias"]

    def input_gradient(self, x, y, training):
        x = x.clone().requires_grad_(True)
        total = self.F.cross_entropy(self.logits(x, training), y, reduction="sum")
        return self.torch.autograd.grad(total, x)[0]


def schedules(step):
    """ε and the learning rate of a step, with equation 5 and a division by 10 at half of each period."""
    progress = step / STEPS % RESTART / RESTART  # both periods have two epochs
    epsilon = min((1 - math.cos(math.pi * progress)) / 2 * MAXIMUM, TARGET)
    return epsilon, RATE * (0.1 if progress >= 0.5 else 1.0)


def torch_losses(net, name, x, y, epsilon, noise):
    """The mean loss of one batch after its attack."""
    F, torch = net.F, net.torch
    begun = (x + epsilon * noise).clamp(0, 1)
    if name == "pgd":
        x_adv = begun
        for _ in range(3):
            moved = x_adv + epsilon / 2 * net.input_gradient(x_adv, y, False).sign()
            x_adv = torch.minimum(torch.maximum(moved, x - epsilon), x + epsilon).clamp(0, 1)
        x_adv = x_adv if epsilon >= 1e-6 else x
        return F.cross_entropy(net.logits(x_adv, True), y)
    if name == "advlc":
        x_adv = (begun + epsilon * net.input_gradient(begun, y, False).sign()).clamp(0, 1)
        x_adv = x_adv if epsilon >= 1e-6 else x
        robust, clean = net.logits(x_adv, True), net.logits(begun, True)
    else:  # algorithm 1 of AdvLC: one pass over the noised images serves the attack and the loss
        begun = begun.clone().requires_grad_(True)
        clean = net.logits(begun, True)
        total = F.cross_entropy(clean, y, reduction="sum")
        (slope,) = torch.autograd.grad(total, begun, retain_graph=True)
        x_adv = (begun + epsilon * slope.sign()).clamp(0, 1).detach()
        x_adv = x_adv if epsilon >= 1e-6 else begun.detach()
        robust = net.logits(x_adv, True)
    largest = (robust - clean).abs().flatten().topk(math.floor(FRACTION * len(x) * CLASSES)).values
    return F.cross_entropy(robust, y) + STRENGTH * largest.sum() / len(x)


def torch_trajectory(name, start, noise, restarts=True):
    """Returns the variables after every epoch, in the order of `start`."""
    torch = pytest.importorskip("torch")
    net, epochs = TorchNetwork(torch, start), []
    optimizer = torch.optim.SGD(net.trained, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    x, y = images()
    x, y = torch.tensor(x), torch.tensor(y.astype(np.int64))
    for step in range(EPOCHS * STEPS):
        if restarts and step == RESTART * STEPS:
            optimizer.state.clear()
        part = slice(step % STEPS * BATCH, (step % STEPS + 1) * BATCH)
        epsilon, rate = schedules(step)
        optimizer.param_groups[0]["lr"] = float(np.float32(rate))  # as the variable of Keras holds it
        optimizer.zero_grad()
        torch_losses(net, name, x[part], y[part], epsilon, torch.tensor(noise[step])).backward()
        optimizer.step()
        if step % STEPS == STEPS - 1:
            epochs.append([value.detach().numpy().copy() for value in net.variables.values()])
    return epochs


def difference(some, others):
    """The largest difference of any variable, relative to that variable's size."""
    pairs = zip(some, others, strict=True)
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pgd", "advlc", "advlc in training mode"])
def test_weights_follow_torch_in_float64(float64, name):
    start, ours, noise = our_trajectory(name)
    assert all(value.dtype == np.float64 for value in ours[-1])
    theirs = torch_trajectory(name, start, noise)
    for epoch, (found, wanted) in enumerate(zip(ours, theirs, strict=True)):
        assert difference(found, wanted) < 1e-10, f"epoch {epoch + 1}"
    assert difference(list(start.values()), ours[-1]) > 0.1
    # The comparison would see a momentum that a restart keeps.
    assert difference(ours[-1], torch_trajectory(name, start, noise, restarts=False)[-1]) > 1e-6
