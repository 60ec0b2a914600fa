"""Cost of Hessian-vector products and of the top eigenpairs: Lanczos against power iteration.

    python -m launch.benchmarks.hessian --model=saved_models/mnist-lenet/last [--num_examples=2000]

First, products and gradients of one batch are timed in turn; the median of the ratios of their times is
printed. Then the largest eigenpairs of the Hessian of L_ε on the first training images are computed by
Lanczos, to residuals of 1e-3·λ₁, and by the power iteration with deflation of Liu et al. 2020 at its own
tolerance (at most 50 steps each, relative change 1e-3): printed are products, seconds, residuals and the peak
memory. The attack is that of the model's training. Use a model that is trained to its end: before, its
spectrum is not what the studies see.
"""

import os
import statistics
import time

import numpy as np

from advtf.runtime import progress, start
from advtf.settings.commands import exit_on_usage_error
from advtf.training.presets import order_as_trained
from launch.common.arguments import parser
from launch.common.timing import timed_in_turn


def adversarial_batch(chosen):
    """Returns the classifier and its adversarial examples with labels, by the settings of its training."""
    from advtf.attacks.pgd import pgd
    from advtf.classifiers.classifier import as_classifier
    from advtf.data import sets as data
    from advtf.data.arrays import to_unit_float
    from advtf.landscape.objective import adversarial_examples
    from advtf.settings.threat import relative_step

    classifier = as_classifier(chosen.model, movable=True)
    training = classifier.config
    dataset, size = training["dataset"], training["image_size"]
    order = order_as_trained(training, dataset)
    images = data.load(dataset, chosen.data_dir, image_size=size, order=order).train
    images = images.select(slice(chosen.num_examples))
    x = to_unit_float(images.images).numpy()
    epsilon = training["eps"]
    step = relative_step(training["attack_step_size"], epsilon)
    attack = pgd(training["norm"], training["attack_steps"], step, training["random_start"])
    x_adv = adversarial_examples(classifier, x, images.labels, attack, epsilon, seed=0)
    print(f"{classifier.name}: {classifier.parameters.size:,} parameters, {len(x):,} images, ε {epsilon:g}")
    return classifier, x_adv, images.labels


def compare_costs(operator, rounds):
    """Prints the cost of a product over that of a gradient on the operator's images."""
    vector = np.random.default_rng(0).standard_normal(operator.dimension).astype(np.float32)
    operator.gradient(), operator(vector)  # trace
    pairs = timed_in_turn(operator.gradient, lambda: operator(vector), rounds)
    gradient, product = map(statistics.median, zip(*pairs, strict=True))
    ratios = [b / a for a, b in pairs]
    print(f"gradient {1000 * gradient:.0f} ms, product {1000 * product:.0f} ms")
    print(f"ratio    {statistics.median(ratios):.2f} (min {min(ratios):.2f}, max {max(ratios):.2f})")


def solve(name, solver, operator, count, **settings):
    """Runs a solver, prints what it took, and returns (seconds, eigenpairs)."""
    from advtf.studies.hessian import peak_memory

    with progress(desc=name, unit=" products") as bar:

        def report(products, found):
            bar.set_postfix_str(f"{found} pairs", refresh=False)
            bar.update(products - bar.n)

        begin = time.perf_counter()
        pairs = solver(operator, operator.dimension, count, report=report, **settings)
        taken = time.perf_counter() - begin
    residuals = pairs.residuals / np.abs(pairs.values).max()
    print(f"{name:<9}{pairs.products} products in {taken:.0f} s, {pairs.converged.sum()} pairs converged")
    print(f"         residuals/λ₁: median {np.median(residuals):.1e}, largest {residuals.max():.1e}")
    print(f"         peak memory of the process {peak_memory() / 2**20:.0f} MiB")
    return taken, pairs


def main():
    made = parser(__doc__)
    made.add_argument("--model", required=True)
    made.add_argument("--data_dir")
    made.add_argument("--num_examples", type=int, default=2000)
    made.add_argument("--eigenvalues", type=int, default=20)
    made.add_argument("--batch_size", type=int, default=250)
    made.add_argument("--rounds", type=int, default=7)
    chosen = made.parse_args()
    print(f"{start().device}, {os.cpu_count()} cores")

    from advtf.landscape.hessian import HessianOperator
    from advtf.landscape.lanczos import lanczos
    from advtf.landscape.power import power_iteration

    classifier, x, y = adversarial_batch(chosen)
    size = {"batch_size": chosen.batch_size}
    batch = slice(chosen.batch_size)
    compare_costs(HessianOperator(classifier, x[batch], y[batch], **size), chosen.rounds)

    operator = HessianOperator(classifier, x, y, **size)
    fast = solve("Lanczos", lanczos, operator, chosen.eigenvalues, tolerance=1e-3)
    slow = solve("power", power_iteration, operator, chosen.eigenvalues, tolerance=1e-3, max_iterations=50)
    products, time_taken = slow[1].products / fast[1].products, slow[0] / fast[0]
    print(f"Lanczos needs {products:.1f}x fewer products and {time_taken:.1f}x less time")
    for rank, (first, second) in enumerate(zip(fast[1].values, slow[1].values, strict=True), start=1):
        print(f"{rank:>4}{first:>12.5g}{second:>12.5g}")


if __name__ == "__main__":
    with exit_on_usage_error():
        main()
