"""Hessian-vector products against gradients, Lanczos against power iteration, batched input Hessians.

First, products and gradients of one batch are timed in turn: products as a solver makes them, where what
does not depend on the vector is kept from the product before, and products that keep nothing.

Then the largest eigenpairs of the Hessian of L_ε on the first training images are computed, once, and
products are counted at equal residuals. The power iteration with deflation of Liu et al. 2020 at its own
tolerance (at most 50 steps each, relative change 1e-3) is compared with the least number of products after
which every residual of Lanczos, in the order of their size, is at most that of power iteration, and every
eigenvalue is within its residual of the one that it approximates. Lanczos to residuals of 1e-3·λ₁ is
compared with power iteration that accepts a pair at that residual, after `power_steps` steps at most: the
facts tell how many it has accepted, and if it is not all of them, the true ratio is smaller.

The attack is that of the model's training. Use a model that is trained to its end: before, its spectrum is
not what the studies see. Last, the eigenvalues of the input Hessians of a few of the images, all at once and
one image after the other.
"""

import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np

from launch.common.benchmark import Comparison
from launch.common.timing import timed_in_turn

PRODUCT, PAIRS = 2.2, 1 / 8  # the goals: a product in gradients, Lanczos in power iterations
TOLERANCE = 1e-3  # of residuals for Lanczos, of changes for the power iteration of the paper


def compare(options: SimpleNamespace) -> Iterator[Comparison]:
    """Yields the cost of a product, the products and seconds of the eigenpairs, and the input Hessians."""
    classifier, x, y = adversarial_batch(options)
    where = f"{classifier.name}, {classifier.parameters.size:,} weights"
    yield from _costs(classifier, x, y, where, options)
    yield from _eigenpairs(classifier, x, y, where, options)
    yield _input_hessians(classifier, x, y, options)


def _costs(classifier, x, y, where, options):
    from advtf.landscape.hessian import HessianOperator

    size = options.batch_size
    one, forgetful = (
        HessianOperator(classifier, x[:size], y[:size], batch_size=size, kept_bytes=room)
        for room in (None, 0)
    )
    vector = np.random.default_rng(0).standard_normal(one.dimension).astype(np.float32)
    names = {
        "Hessian-vector product": lambda: one(vector),
        "Hessian-vector product, nothing kept": lambda: forgetful(vector),
        "gradient": one.gradient,
    }
    for call in names.values():
        call()
    times = timed_in_turn(names, options.rounds)
    for name, goal in zip(names, (PRODUCT, None), strict=False):
        yield Comparison(
            what=f"curvature of {where}",
            ours=name,
            against="gradient",
            pairs=times.pairs(name, "gradient"),
            work=f"{len(x[:size])} images",
            goal=goal,
        )


def _eigenpairs(classifier, x, y, where, options):
    from advtf.landscape.hessian import HessianOperator
    from advtf.landscape.lanczos import lanczos
    from advtf.landscape.power import power_iteration
    from advtf.runtime import progress

    operator, count = HessianOperator(classifier, x, y, batch_size=options.batch_size), options.eigenvalues
    products = []

    def recorded(vector):
        products.append(operator(vector))
        return products[-1]

    def solve(name, solver, of=operator, **settings):
        with progress(desc=name, unit=" products") as bar:
            begin = time.perf_counter()
            pairs = solver(
                of, operator.dimension, count, tolerance=TOLERANCE,
                report=lambda spent, found: bar.update(spent - bar.n), **settings,
            )  # fmt: skip
            return pairs, time.perf_counter() - begin

    fast, fast_seconds = solve("Lanczos", lanczos, recorded)
    slow, slow_seconds = solve("power iteration", power_iteration, max_iterations=50)
    exact, _ = solve(
        "power iteration", power_iteration, criterion="residual", max_iterations=options.power_steps
    )
    enough = next(
        (pairs for pairs in _shorter(products, operator.dimension, count)
         if (_relative(pairs) <= _relative(slow)).all() and _same(pairs, fast)),
        fast,
    )  # fmt: skip
    labelled = {"lanczos": fast, "power_iteration": slow, "power_iteration_to_residuals": exact}
    facts = {name: _described(pairs) for name, pairs in labelled.items()}
    pairs, paper = f"{count} largest eigenpairs of {where}", "power iteration"
    for what, costs, unit, goal in (
        (f"{pairs}, to the residuals of the paper's", (enough.products, slow.products), "products", PAIRS),
        (f"{pairs}, to {TOLERANCE:g} λ₁", (fast.products, exact.products), "products", PAIRS),
        (f"{pairs}, each to its own tolerance", (fast_seconds, slow_seconds), "s", None),
    ):
        yield Comparison(
            what=what,
            ours="Lanczos",
            against=paper,
            pairs=[costs],
            unit=unit,
            work=f"{len(x)} images",
            goal=goal,
            facts=facts,
        )


def _shorter(products, dimension, count):
    """Yields what Lanczos has after fewer products; they are those of the same vectors, not computed anew."""
    from advtf.landscape.lanczos import lanczos

    for spent in range(count, len(products)):
        known = iter(products)
        yield lanczos(
            lambda _, known=known: next(known), dimension, count, tolerance=TOLERANCE, max_products=spent
        )


def _relative(pairs):
    """Returns the residuals over the largest |λ|, ascending."""
    return np.sort(pairs.residuals) / np.abs(pairs.values).max()


def _same(pairs, reference):
    """Tells whether every eigenvalue is that of its rank: any null vector has a small residual, too."""
    return (np.abs(pairs.values - reference.values) <= pairs.residuals + reference.residuals).all()


def _described(pairs):
    residuals = _relative(pairs)
    return {
        "products": pairs.products,
        "accepted": int(pairs.converged.sum()),
        "eigenvalues": pairs.values.tolist(),
        "residuals": {"median": float(np.median(residuals)), "largest": float(residuals[-1])},
    }


def _input_hessians(classifier, x, y, options):
    from advtf.attacks.random import image_keys
    from advtf.landscape.input_hessian import InputHessian, input_spectra

    x, y = x[: options.input_examples], y[: options.input_examples]
    hessian, keys = InputHessian(classifier.logits_fn, x.shape[1:]), image_keys(x)
    count = min(options.eigenvalues, hessian.dimension)

    def spectra(part):
        return input_spectra(hessian, x[part], y[part], count, keys=keys[part])

    calls = {
        "all images at once": lambda: spectra(slice(None)),
        "one image after the other": lambda: [spectra(slice(i, i + 1)) for i in range(len(x))],
    }
    found = calls["all images at once"]()  # traces, too
    times = timed_in_turn(calls, options.rounds)
    return Comparison(
        what=f"{count} largest eigenvalues of the input Hessian of every image, {classifier.name}",
        ours="all images at once",
        against="one image after the other",
        pairs=times.pairs(*calls),
        work=f"{len(x)} images",
        facts={"products_per_image": float(found.products.mean())},
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
