"""Cost of Hessian-vector products and of the top eigenpairs: Lanczos against power iteration.

First, products and gradients of one batch are timed in turn. Then the largest eigenpairs of the Hessian of
L_ε on the first training images are computed, once, by Lanczos, to residuals of 1e-3·λ₁, and by the power
iteration with deflation of Liu et al. 2020 at its own tolerance (at most 50 steps each, relative change
1e-3): products and seconds are compared, and the residuals of both are among the facts. The attack is that of
the model's training. Use a model that is trained to its end: before, its spectrum is not what the studies
see.
"""

import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np

from launch.common.benchmark import Comparison
from launch.common.timing import timed_in_turn

PRODUCT, PAIRS = 2.2, 1 / 8  # the goals: a product in gradients, Lanczos in power iterations


def compare(options: SimpleNamespace) -> Iterator[Comparison]:
    """Yields the cost of a product, and the products and seconds of the eigenpairs."""
    from advtf.landscape.hessian import HessianOperator
    from advtf.landscape.lanczos import lanczos
    from advtf.landscape.power import power_iteration
    from advtf.runtime import progress

    classifier, x, y = adversarial_batch(options)
    where, size = f"{classifier.name}, {classifier.parameters.size:,} weights", options.batch_size
    one = HessianOperator(classifier, x[:size], y[:size], batch_size=size)
    vector = np.random.default_rng(0).standard_normal(one.dimension).astype(np.float32)
    calls = {"product": lambda: one(vector), "gradient": one.gradient}
    for call in calls.values():
        call()
    times = timed_in_turn(calls, options.rounds)
    yield Comparison(
        what=f"curvature of {where}",
        ours="Hessian-vector product",
        against="gradient",
        pairs=times.pairs("product", "gradient"),
        work=f"{len(x[:size])} images",
        goal=PRODUCT,
    )

    operator = HessianOperator(classifier, x, y, batch_size=size)
    operator(vector)  # traces

    def solve(name, solver, **settings):
        with progress(desc=name, unit=" products") as bar:
            begin = time.perf_counter()
            pairs = solver(
                operator, operator.dimension, options.eigenvalues, tolerance=1e-3,
                report=lambda products, found: bar.update(products - bar.n), **settings,
            )  # fmt: skip
            return pairs, time.perf_counter() - begin

    (fast, fast_seconds), (slow, slow_seconds) = (
        solve("Lanczos", lanczos),
        solve("power iteration", power_iteration, max_iterations=50),
    )
    facts = {"eigenvalues": fast.values, "eigenvalues_by_power_iteration": slow.values}
    for label, pairs in (("residuals", fast), ("residuals_of_power_iteration", slow)):
        residuals = pairs.residuals / np.abs(pairs.values).max()
        facts[label] = {"median": float(np.median(residuals)), "largest": float(residuals.max())}
    facts = {name: fact if isinstance(fact, dict) else fact.tolist() for name, fact in facts.items()}
    counts = ("products", (fast.products, slow.products), PAIRS), ("s", (fast_seconds, slow_seconds), None)
    for unit, pair, goal in counts:
        yield Comparison(
            what=f"{options.eigenvalues} largest eigenpairs of {where}",
            ours="Lanczos",
            against="power iteration",
            pairs=[pair],
            unit=unit,
            work=f"{len(x)} images",
            goal=goal,
            facts=facts,
        )


def adversarial_batch(options: SimpleNamespace):
    """Returns the classifier and its adversarial examples with labels, by the settings of its training."""
    from advtf.attacks.pgd import pgd
    from advtf.landscape.objective import adversarial_examples
    from advtf.settings.threat import relative_step
    from launch.common.classifiers import load

    subject = load(options.model, options.examples, options.data_dir, train=True)
    training = subject.training
    step = relative_step(training["attack_step_size"], training["eps"])
    attack = pgd(training["norm"], training["attack_steps"], step, training["random_start"])
    x_adv = adversarial_examples(subject.classifier, subject.x, subject.y, attack, training["eps"], seed=0)
    return subject.classifier, x_adv, subject.y
