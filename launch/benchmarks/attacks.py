"""Speed of advtf's attacks against ART's and torchattacks', and against their bare arithmetic.

    pip install ".[compare]"
    python -m launch.benchmarks.attacks --model=saved_models/mnist-cosine/last [--data_dir=...]

An exported LeNet, its PyTorch copy, and the test images that it classifies correctly among the first
`--examples`. Two things are timed in turn in one process, `--rounds` times; every other round begins with the
second. A ratio is the median over the rounds. The first call of everything traces and warms up; it is left
out.

bare passes   one `tf.function`, forward pass and input gradient of the cross-entropy, called N times
PGD, APGD     N passes each: APGD evaluates its start, too, and so makes N − 1 iterations
ART           the same attacks on TensorFlow, N iterations each: all images in one batch, as for advtf, with
              the Keras model or with a `tf.function` of it; and as ART does by itself, in batches of 32
AutoAttack    the standard version: 100 iterations, 5000 queries, each attack on what those before it left.
              torchattacks runs 10 iterations and rescaled squares unless told otherwise, so it is told. What
              advtf needs to trace its attacks, once for any number of images, is printed on its own.
"""

import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advtf.runtime import import_tensorflow
from advtf.settings.commands import exit_on_usage_error
from advtf.storage.files import write_json
from launch.common.arguments import parser, require_compared_libraries
from launch.common.timing import seconds_of, timed_in_turn

if TYPE_CHECKING:
    from launch.common.peers import Bench

RELATIVE_STEP = 0.25  # of PGD


@dataclass(frozen=True)
class Pair:
    """Seconds of two things timed in turn, a pair a round; `work` is what both did in a round."""

    slow: str
    fast: str
    work: int
    seconds: tuple[tuple[float, float], ...]

    @property
    def ratios(self) -> list[float]:
        """Seconds of `slow` over those of `fast`, by round."""
        return [slow / fast for slow, fast in self.seconds]

    @property
    def rates(self) -> list[float]:
        """Work a second, median, of both."""
        return [self.work / statistics.median(column) for column in zip(*self.seconds, strict=True)]

    def to_json(self) -> dict:
        """Returns the numbers, with the median ratio."""
        named = {"slow": self.slow, "fast": self.fast, "work": self.work, "seconds": self.seconds}
        return named | {"ratio": statistics.median(self.ratios), "work_per_second": self.rates}

    def __str__(self) -> str:
        rates = "".join(f"{rate:>12,.4g}" for rate in self.rates)
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}"
        return f"{self.slow + ' / ' + self.fast:<44}{rates}{statistics.median(self.ratios):>9.2f}   {spread}"


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


def attacks_compared(bench: "Bench", passes: int, rounds: int) -> Iterator[Pair]:
    """Times PGD and APGD against the bare passes and against ART."""
    from advtf import apgd, pgd

    work, bare_passes = passes * len(bench.x), bare(bench, passes)
    attacks = {
        "PGD": ours(bench, pgd("linf", passes, RELATIVE_STEP)),
        "APGD": ours(bench, apgd("linf", "ce", passes - 1)),
    }
    for call in (bare_passes, *attacks.values()):
        call()
    for name, attack in attacks.items():
        yield Pair(f"advtf {name}", "bare passes", work, timed_in_turn(attack, bare_passes, rounds))
    for name, attack in attacks.items():
        for variant, compiled, batch_size in (
            ("one batch", False, len(bench.x)),
            ("one batch, compiled", True, len(bench.x)),
            ("batches of 32", False, 32),
        ):
            other = art_attack(bench, name, passes, compiled, batch_size)
            other()
            seconds = timed_in_turn(other, attack, rounds)
            yield Pair(f"ART {name}, {variant}", f"advtf {name}", work, seconds)


def autoattacks_compared(bench: "Bench", rounds: int) -> tuple[Pair, dict]:
    """Times both AutoAttacks; also returns how many images each broke, and advtf's seconds of tracing."""
    import torchattacks

    from advtf.evaluation.attacks import SUITES
    from advtf.evaluation.engine import Engine
    from advtf.evaluation.settings import AttackSettings

    settings, broken = AttackSettings(eps=bench.epsilon), {}
    engine = Engine(bench.logits_fn, bench.x, bench.y, bench.classes, settings)
    theirs = torchattacks.AutoAttack(bench.torch_model, eps=bench.epsilon, n_classes=bench.classes, seed=0)
    for attack in theirs._autoattack.attacks:
        attack.steps, attack.rescale_schedule = settings.steps, False
    x, y = bench.torch_x, bench.torch_y

    def run_ours():
        points, _ = engine.attack("autoattack", SUITES["autoattack"].attacks, bench.epsilon)
        broken["advtf"] = int(points.broken.sum())

    def run_theirs():
        broken["torchattacks"] = int((bench.torch_model(theirs(x, y)).argmax(1) != y).sum())

    first = seconds_of(run_ours)
    seconds = timed_in_turn(run_theirs, run_ours, rounds)
    pair = Pair("torchattacks AutoAttack", "advtf AutoAttack", len(bench.x), seconds)
    return pair, {"broken": broken, "tracing_seconds": first - statistics.median(own for _, own in seconds)}


def main():
    made = parser(__doc__)
    made.add_argument("--model", required=True, help="export of a LeNet trained against linf")
    made.add_argument("--data_dir", help="prepared TFDS data")
    made.add_argument("--examples", type=int, default=250, help="images of PGD and APGD")
    made.add_argument("--passes", type=int, default=30, help="of PGD and APGD")
    made.add_argument("--rounds", type=int, default=7, help="of PGD and APGD")
    made.add_argument("--autoattack_examples", type=int, default=64)
    made.add_argument("--autoattack_rounds", type=int, default=3)
    made.add_argument("--out", default="runs/benchmark_attacks.json")
    chosen = made.parse_args()
    require_compared_libraries()
    import_tensorflow()

    import torch

    from launch.common.peers import load_bench, versions

    bench = load_bench(chosen.model, chosen.examples, chosen.data_dir)
    bench = bench.only(bench.right)
    few = bench.only(slice(chosen.autoattack_examples))
    threads = f"{os.cpu_count()} cores, PyTorch with {torch.get_num_threads()} threads"
    print(f"{bench.name}, linf, ε {bench.epsilon}, {threads}")
    print(f"PGD and APGD: {len(bench.x)} images, {chosen.passes} passes; AutoAttack: {len(few.x)} images\n")
    print(f"{'':<44}{'work a second, of both':>24}{'ratio':>9}   of all rounds")
    pairs = []
    for pair in attacks_compared(bench, chosen.passes, chosen.rounds):
        pairs.append(pair)
        print(pair, flush=True)
    pair, autoattack = autoattacks_compared(few, chosen.autoattack_rounds)
    print(pair)
    print("\nWork: images·passes; for AutoAttack images.")
    print(
        f"AutoAttack broke {autoattack['broken']}; advtf traced {autoattack['tracing_seconds']:.1f} s once."
    )
    results = {"arguments": vars(chosen), "versions": versions(), "threads": threads}
    results["pairs"] = [pair.to_json() for pair in [*pairs, pair]]
    Path(chosen.out).parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(chosen.out), results | {"autoattack": autoattack})


if __name__ == "__main__":
    with exit_on_usage_error():
        main()
