"""Speed of advtf's PGD and APGD against their bare arithmetic and against ART's.

An exported classifier and the test images that it classifies correctly among the first `examples`.

bare passes   one `tf.function`, forward pass and input gradient of the cross-entropy, called N times
PGD, APGD     N passes each: APGD evaluates its start, too, and so makes N − 1 iterations
ART           the same attacks on TensorFlow, N iterations each: all images in one batch, as for advtf, with
              the Keras model or with a `tf.function` of it; and as ART does by itself, in batches of 32
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from launch.common.benchmark import Comparison
from launch.common.timing import timed_in_turn

if TYPE_CHECKING:
    from launch.common.peers import Bench

RELATIVE_STEP = 0.25  # of PGD


def compare(options: SimpleNamespace) -> Iterator[Comparison]:
    """Yields PGD and APGD against the bare passes, and against ART in three ways."""
    from advtf import apgd, pgd
    from launch.common.peers import load_bench

    bench = load_bench(options.model, options.examples, options.data_dir)
    bench = bench.only(bench.right)
    passes = options.passes
    for name, attack in (
        ("PGD", pgd("linf", passes, RELATIVE_STEP)),
        ("APGD", apgd("linf", "ce", passes - 1)),
    ):
        calls = {"advtf": ours(bench, attack), "bare passes": bare(bench, passes)}
        for variant, compiled, batch_size in (
            ("one batch", False, len(bench.x)),
            ("one batch, compiled", True, len(bench.x)),
            ("batches of 32", False, 32),
        ):
            calls[f"ART, {variant}"] = art_attack(bench, name, passes, compiled, batch_size)
        for call in calls.values():
            call()
        times = timed_in_turn(calls, options.rounds)
        for other in list(calls)[1:]:
            yield Comparison(
                what=f"{name}, {passes} passes, {bench.name}",
                ours="advtf",
                against=other,
                pairs=times.pairs("advtf", other),
                work=f"{len(bench.x)} images",
            )


def bare(bench: "Bench", passes: int) -> Callable:
    """Returns a function that runs the forward and backward pass of all images `passes` times."""
    import tensorflow as tf

    from advtf.attacks.attack import input_gradient

    x, y = tf.constant(bench.x), tf.constant(bench.y)
    run = tf.function(lambda x, y: input_gradient(bench.logits_fn, x, y))
    return lambda: [run(x, y) for _ in range(passes)][-1].numpy()


def ours(bench: "Bench", attack: Callable) -> Callable:
    """Returns a function that runs one of advtf's attacks as one `tf.function`."""
    import tensorflow as tf

    x, y, epsilon = tf.constant(bench.x), tf.constant(bench.y), tf.constant(bench.epsilon, tf.float32)
    seed = tf.constant([0, 0], tf.int64)
    run = tf.function(lambda x, y: attack(bench.logits_fn, x, y, epsilon, seed))
    return lambda: run(x, y).numpy()


def art_attack(bench: "Bench", name: str, steps: int, compiled: bool, batch_size: int) -> Callable:
    """Returns a function that runs ART's PGD or APGD-CE."""
    from art.attacks.evasion import AutoProjectedGradientDescent, ProjectedGradientDescent

    from launch.common.peers import art_classifier

    classifier = art_classifier(bench, compiled)
    common = {"norm": np.inf, "eps": bench.epsilon, "max_iter": steps, "batch_size": batch_size}
    common["verbose"] = False
    if name == "PGD":
        step = RELATIVE_STEP * bench.epsilon
        attack = ProjectedGradientDescent(classifier, **common, eps_step=step, num_random_init=1)
    else:
        settings = {"eps_step": 2 * bench.epsilon, "nb_random_init": 1, "loss_type": "cross_entropy"}
        attack = AutoProjectedGradientDescent(classifier, **common, **settings)
    return lambda: attack.generate(bench.x, bench.y)
