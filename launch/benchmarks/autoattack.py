"""Standard AutoAttack of advtf against torchattacks and against the official package.

An exported classifier, its PyTorch copy, and the first test images that it classifies correctly. The standard
version: 100 iterations, 5000 queries, each attack on the images that those before it have left. torchattacks
runs 10 iterations and rescaled squares unless told otherwise, so it is told. The official package is
``autoattack`` of github.com/fra31/auto-attack, which is not on PyPI: it takes part where it can be imported.

In every round advtf begins anew, as a process would, and also attacks with what was traced before: the first
seconds hold all tracing, the second none. Both are compared with the others, which have nothing to trace.
How many images each has broken stands beside the ratio.
"""

import importlib.util
import statistics
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from launch.common.benchmark import Comparison
from launch.common.timing import timed_in_turn

if TYPE_CHECKING:
    from launch.common.peers import Bench

GOALS = {"lenet": 1 / 3, "resnet18": 1 / 2}
LABELS = {"torchattacks": "torchattacks", "official": "official autoattack"}


def compare(options: SimpleNamespace) -> Iterator[Comparison]:
    """Yields the ratios with and without tracing, for every classifier and library."""
    from advtf.runtime import start
    from launch.common.peers import load_bench, use_all_cores

    start(parallel_operations=False)  # as `advtf.evaluate` does
    use_all_cores()
    for network in ("lenet", "resnet18"):
        path, count = getattr(options, network), getattr(options, f"{network}_examples")
        if path:
            bench = load_bench(path, 4 * count, options.data_dir)
            yield from _classifier(network, bench.only(np.flatnonzero(bench.right)[:count]), options)


def _classifier(network, bench, options):
    ours, broken = Ours(bench, options), {}
    others = {"torchattacks": torchattacks_broken}
    if importlib.util.find_spec("autoattack"):
        others["official"] = official_broken

    def counted(name, count):
        return lambda: broken.update({name: count()})

    calls = {"traced": counted("advtf", ours.anew), "again": counted("advtf", ours.again)}
    calls |= {name: counted(name, lambda run=run: run(bench, options)) for name, run in others.items()}
    times = timed_in_turn(calls, options.rounds)
    tracing = statistics.median(traced - again for traced, again in times.pairs("traced", "again"))
    for other in others:
        for own, label in (("traced", "tracing included"), ("again", "without tracing")):
            yield Comparison(
                what=f"AutoAttack, {bench.name}",
                ours=f"advtf, {label}",
                against=LABELS[other],
                pairs=times.pairs(own, other),
                work=f"{len(bench.x)} images",
                goal=GOALS[network] if own == "traced" else None,
                facts={
                    "broken": broken["advtf"],
                    "broken_by_other": broken[other],
                    "tracing_seconds": tracing,
                },
            )


class Ours:
    """AutoAttack of advtf on the images of a bench.

    Args:
        bench: classifier and images.
        options: its steps and queries.
    """

    def __init__(self, bench: "Bench", options: SimpleNamespace):
        from advtf.evaluation.settings import AttackSettings

        self._bench = bench
        self._settings = AttackSettings(eps=bench.epsilon, steps=options.steps, queries=options.queries)
        self._engine = None

    def anew(self) -> int:
        """Attacks as a process would that begins, with tracing; returns how many images are broken."""
        from advtf.classifiers.classifier import as_classifier
        from advtf.evaluation.engine import Engine

        bench, classifier = self._bench, as_classifier(self._bench.model)
        self._engine = Engine(
            classifier.logits_fn, bench.x, bench.y, bench.classes, self._settings, classifier.attack_view()
        )
        return self.again()

    def again(self) -> int:
        """Attacks with what `anew` has traced; returns how many images are broken."""
        from advtf.evaluation.attacks import SUITES

        points, _ = self._engine.attack("autoattack", SUITES["autoattack"].attacks, self._bench.epsilon)
        return int(points.broken.sum())


def torchattacks_broken(bench: "Bench", options: SimpleNamespace) -> int:
    """Runs torchattacks' AutoAttack; returns how many images are broken."""
    import torchattacks

    suite = torchattacks.AutoAttack(bench.torch_model, eps=bench.epsilon, n_classes=bench.classes, seed=0)
    for attack in suite._autoattack.attacks:
        attack.steps, attack.rescale_schedule, attack.n_queries = options.steps, False, options.queries
    x, y = bench.torch_x, bench.torch_y
    return int((bench.torch_model(suite(x, y)).argmax(1) != y).sum())


def official_broken(bench: "Bench", options: SimpleNamespace) -> int:
    """Runs the official AutoAttack; returns how many images are broken."""
    from autoattack import AutoAttack

    suite = AutoAttack(bench.torch_model, eps=bench.epsilon, seed=0, verbose=False, device="cpu")
    suite.apgd.n_iter = suite.apgd_targeted.n_iter = suite.fab.n_iter = options.steps
    suite.square.n_queries = options.queries
    x, y = bench.torch_x, bench.torch_y
    x_adv = suite.run_standard_evaluation(x, y, bs=len(x))
    return int((bench.torch_model(x_adv).argmax(1) != y).sum())
