"""The entries of the suite by name: what each compares, what it needs, and its options. No TensorFlow.

An entry is a module of this package with a function ``compare(options)`` that yields `Comparison` by
`Comparison`, and one line here. `options` has the attributes ``rounds`` and ``data_dir``, and the options
that the entry declares. ``--smoke`` gives them the values of their last column, so that a test can run
everything.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from advtf.errors import UsageError
from launch.common.benchmark import Comparison
from launch.common.classifiers import LENET, RESNET18, UNTRAINED

PACKAGES = {  # by the names under which they are imported: the distributions of the extra "compare"
    "torch": "torch",
    "torchattacks": "torchattacks",
    "art": "adversarial-robustness-toolbox",
}


@dataclass(frozen=True)
class Option:
    """One option of an entry.

    Attributes:
        default: its value; the type is that of the option.
        help: what it is.
        smoke: its value with ``--smoke``.
    """

    default: Any
    help: str
    smoke: Any


@dataclass(frozen=True)
class Entry:
    """One entry of the suite; its name is that of its module.

    Attributes:
        about: what it compares, in a sentence.
        options: by name.
        needs: packages that must be installed, of `PACKAGES`.
        rounds: how many unless another number is chosen.
        drawn: whether its rows are in the figure, where 1 means as fast as the other.
        in_all: whether it is among "all"; what asks for a machine of its own is not.
    """

    about: str
    options: Mapping[str, Option] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    rounds: int = 5
    drawn: bool = True
    in_all: bool = True

    def missing(self) -> list[str]:
        """Returns the packages that are needed and not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


ENTRIES = {
    "step": Entry(
        "A training step of advtf against PyTorch, as the paper writes it and as fast as it goes, and "
        "against a bare tf.function.",
        {
            "networks": Option("resnet18,lenet,preact_resnet18", "networks, with commas", "lenet,resnet18"),
            "width": Option(0, "of the networks; 0: 8, and 16 of lenet", 1),
            "batch_size": Option(128, "images of a step", 4),
            "compile": Option(False, "also time torch.compile", False),
        },
        needs=("torch",),
    ),
    "fit": Entry(
        "What a training does outside its compiled steps, against the steps of an epoch of CIFAR-10.",
        {
            "width": Option(8, "of ResNet18", 1),
            "batch_size": Option(128, "images of a step", 4),
            "steps": Option(6, "of each training", 3),
        },
        rounds=3,
    ),
    "objectives": Entry(
        "The training step of every objective against that of plain adversarial training.",
        {
            "model": Option("preact_resnet18", "the network", "lenet"),
            "width": Option(8, "of the network", 1),
            "batch_size": Option(100, "images of a step", 4),
            "objectives": Option("all", "their names, with commas", "advlc,kdsa,consistency"),
            "adversaries": Option("pgd,fgsm_n", "their names, with commas", "fgsm_n"),
            "published": Option("advlc", "objectives also timed with the attack as published", "advlc"),
        },
        rounds=3,
        drawn=False,
    ),
    "attacks": Entry(
        "PGD and APGD of advtf against their bare passes and against ART.",
        {
            "model": Option(LENET, "export of a classifier trained against linf", UNTRAINED),
            "examples": Option(250, "images", 6),
            "passes": Option(30, "of each attack", 3),
        },
        needs=("torch", "art"),
        rounds=7,
    ),
    "autoattack": Entry(
        "Standard AutoAttack of advtf against torchattacks and, where it can be imported, the official one.",
        {
            "lenet": Option(LENET, "export of a LeNet trained against linf", UNTRAINED),
            "lenet_examples": Option(32, "images", 4),
            "resnet18": Option(RESNET18, "export of a ResNet18 trained against linf", ""),
            "resnet18_examples": Option(8, "images", 2),
            "steps": Option(100, "iterations; the standard is 100", 2),
            "queries": Option(5000, "of Square; the standard is 5000", 10),
        },
        needs=("torch", "torchattacks"),
    ),
    "attack_strength": Entry(
        "Robust error of one classifier under advtf, torchattacks and ART: do three implementations agree?",
        {
            "model": Option(LENET, "export of a classifier trained against linf", UNTRAINED),
            "examples": Option(500, "images", 6),
            "steps": Option(100, "iterations of APGD", 4),
            "queries": Option(5000, "of Square", 10),
        },
        needs=("torch", "torchattacks", "art"),
        rounds=3,
        drawn=False,
    ),
    "hessian": Entry(
        "Hessian-vector products, Lanczos against the paper's power iteration, batched input Hessians.",
        {
            "model": Option(LENET, "export of a classifier", UNTRAINED),
            "examples": Option(250, "training images", 16),
            "eigenvalues": Option(20, "pairs that are computed", 2),
            "batch_size": Option(250, "images of a product", 8),
            "power_steps": Option(200, "steps of power iteration to a pair of small residual", 5),
            "input_examples": Option(32, "images of which the input Hessians are taken", 2),
        },
    ),
    "gpu": Entry(
        "Training and evaluation in every mode: numbers against float64, costs against float32 without XLA.",
        {
            "device": Option("gpu", "gpu or cpu", "cpu"),
            "parts": Option("check,step,epoch,autoattack,deterministic", "with commas", "check,step"),
            "networks": Option("lenet,resnet18,preact_resnet18,wide_resnet", "with commas", "lenet"),
            "tiny": Option(False, "tiny sizes", True),
        },
        drawn=False,
        in_all=False,
    ),
    "pipeline": Entry(
        "The batches of the input pipeline alone against the training steps that take them.",
        {
            "width": Option(16, "of LeNet", 1),
            "batch_size": Option(128, "images", 4),
            "batches": Option(4, "of a round", 2),
        },
        drawn=False,
    ),
    "start": Entry(
        "The README's default run as a whole process, against the 20 seconds that it may take.",
        {"epochs": Option(0, "of the run; 0: those of the default", 2)},
        rounds=3,
    ),
}


def compare(name: str, options: SimpleNamespace) -> Iterator[Comparison]:
    """Yields the comparisons of an entry as they are measured.

    Raises:
        UsageError: a package that it needs is not installed.
    """
    missing = ENTRIES[name].missing()
    if missing:
        raise UsageError(
            f"{name} compares with {', '.join(ENTRIES[name].needs)}. Received: no {', '.join(missing)}. "
            'Run pip install ".[compare]".'
        )
    measure: Callable = importlib.import_module(f"{__package__}.{name}").compare
    yield from measure(options)
