"""A step of adversarial training in PyTorch: as the paper's code writes it, and as fast as PyTorch goes.

The attack runs in evaluation mode and the update in training mode, with SGD, momentum and L2 decay: the same
mathematics as a step of advtf. Needs PyTorch.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Style:
    """How a step is written.

    Attributes:
        label: in tables.
        channels_last: whether images and kernels have the memory order that is faster on a CPU.
        bfloat16: whether convolutions and products run in bfloat16, by autocast.
        all_gradients: whether the attack computes the gradients of all parameters, too, as ``backward`` does.
        compiled: whether the network is compiled by ``torch.compile``.
    """

    label: str
    channels_last: bool = True
    bfloat16: bool = False
    all_gradients: bool = False
    compiled: bool = False


STYLES = {
    "paper": Style("PyTorch as in the paper's code", channels_last=False, all_gradients=True),
    "float32": Style("PyTorch, best practice, float32"),
    "bfloat16": Style("PyTorch, best practice, bfloat16", bfloat16=True),
    "compiled": Style("PyTorch, best practice, bfloat16, torch.compile", bfloat16=True, compiled=True),
}


@dataclass(frozen=True)
class Recipe:
    """What a step computes, in whatever style.

    Attributes:
        adversary: "pgd", or "fgsm_n": one step of ε from the noised image, without projection.
        epsilon: radius in the linf norm.
        step: length of a step of PGD.
        steps: of PGD.
        rate, momentum, decay: of SGD, with L2 decay.
        random_start: whether PGD starts anywhere in the ball. Defaults to True.
    """

    adversary: str
    epsilon: float
    step: float
    steps: int
    rate: float
    momentum: float
    decay: float
    random_start: bool = True


def training_step(
    network: nn.Module, x: torch.Tensor, y: torch.Tensor, style: Style, recipe: Recipe
) -> Callable[[], float]:
    """Returns a function that makes one step on a batch and returns the loss of the update.

    Args:
        network: whose weights are trained; it is moved to the memory order of the style.
        x, y: images float32 (B, C, H, W) in [0, 1] and labels int64 (B,).
        style: how it is written.
        recipe: what is computed.
    """
    if style.channels_last:
        network = network.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(), recipe.rate, momentum=recipe.momentum, weight_decay=recipe.decay
    )
    function = torch.compile(network) if style.compiled else network
    gradient = (_gradient_of_everything if style.all_gradients else _gradient_of_images)(function, optimizer)

    def precision():
        if style.bfloat16:
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def noise():
        return torch.empty_like(x).uniform_(-recipe.epsilon, recipe.epsilon)

    def attacked():
        if recipe.adversary == "fgsm_n":
            noised = (x + noise()).clamp(0, 1)
            with precision():
                slope = gradient(noised, y)
            return (noised + recipe.epsilon * slope.sign()).clamp(0, 1)
        x_adv = (x + noise()).clamp(0, 1) if recipe.random_start else x
        for _ in range(recipe.steps):
            with precision():
                slope = gradient(x_adv, y)
            moved = x_adv + recipe.step * slope.sign()
            x_adv = torch.min(torch.max(moved, x - recipe.epsilon), x + recipe.epsilon).clamp(0, 1)
        return x_adv

    def step():
        network.eval()
        x_adv = attacked().detach()
        network.train()
        optimizer.zero_grad()
        with precision():
            logits = function(x_adv)
        loss = F.cross_entropy(logits.float(), y)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def _gradient_of_everything(network, optimizer):
    """The gradient as the paper's code takes it: ``backward`` also fills those of all the parameters."""

    def gradient(x, y):
        optimizer.zero_grad()
        x = x.detach().requires_grad_(True)
        F.cross_entropy(network(x), y).backward()
        return x.grad

    return gradient


def _gradient_of_images(network, optimizer):
    """The gradient of the images and of nothing else."""

    def gradient(x, y):
        x = x.detach().requires_grad_(True)
        loss = F.cross_entropy(network(x).float(), y, reduction="sum")
        return torch.autograd.grad(loss, x)[0]

    return gradient
