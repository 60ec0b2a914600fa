"""Robust error of one classifier under advtf, torchattacks and ART: do three implementations agree?

    pip install ".[compare]"
    python -m launch.benchmarks.attack_strength --model=saved_models/mnist-cosine/last [--data_dir=...]

An exported LeNet in Keras and its copy in PyTorch, the first `--examples` test images, the ε it was trained
for, the same iterations, restarts (one) and queries, `--seeds` times each. Prints a table and writes a JSON.
Random starts differ between the libraries, so a last check gives torchattacks' APGD the starts that advtf
draws, and counts the images whose outcome differs.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

from advtf.runtime import import_tensorflow
from advtf.settings.commands import exit_on_usage_error
from advtf.storage.files import write_json
from launch.common.arguments import parser, require_compared_libraries

if TYPE_CHECKING:
    from launch.common.peers import Bench

CLAIM = 0.5  # percentage points
ART_LOSSES = {"ce": "cross_entropy", "dlr": "difference_logits_ratio"}
NOTES = """\
torchattacks  is set to what it does not do by default: 100 iterations of APGD (10), and squares that shrink
              over 10,000 queries where the table says so (over all queries). Like the authors' program it
              compares the loss of APGD's first iterate with 0, advtf with the loss of the start, as the paper
              does: outcomes from the same starts differ by this alone, with DLR, whose losses are negative.
ART           APGD looks at its last iterate only; "any iterate" counts every point that it evaluated. To it
              an iteration raised the loss if it beat the largest so far (Croce & Hein 2020: the one before).
              Its start is inside the ball (on its surface). By default it steps by 0.1 and starts five times
              (set to 2ε and one). Its squares always shrink over all queries.
Square        advtf draws a square for every image, and lets it lie anywhere; the others draw one for the
              whole batch, which never touches the last row and column. ART keeps the first stripes only
              where they raise the loss."""


@dataclass(frozen=True)
class Row:
    """One implementation: its robust errors in percent, by seed."""

    attack: str
    library: str
    errors: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.mean(self.errors)

    def line(self, reference: "Row") -> str:
        """Returns a line of the table, with the difference to another row of the same attack."""
        spread = f"({min(self.errors):.2f} to {max(self.errors):.2f})"
        difference = "" if self is reference else f"{self.mean - reference.mean:+.2f}"
        return f"{self.attack:<30}{self.library:<28}{self.mean:>8.2f}  {spread:<18}{difference:>8}"


class Comparison:
    """Runs the attacks on the images that are classified correctly; the others count as errors.

    Args:
        bench: classifier and images.
        seeds: how many.
        steps: iterations of APGD.
        queries: of Square.
    """

    def __init__(self, bench: "Bench", seeds: int, steps: int, queries: int):
        from launch.common.peers import art_classifier

        self._examples, self._bench = len(bench.x), bench.only(bench.right)
        self._seeds, self._steps, self._queries = range(seeds), steps, queries
        self._art = art_classifier(bench, compiled=True)

    def rows(self) -> Iterator[Row]:
        """Yields the rows of the table as they are found; the first of an attack is advtf's."""
        for loss in ART_LOSSES:
            yield from self._apgd(loss)
        for rescaled in (True, False):
            yield from self._square(rescaled)

    def _row(self, attack: str, library: str, broken: Callable[[int], np.ndarray]) -> Row:
        wrong = self._examples - len(self._bench.x)
        errors = (100 * (wrong + int(broken(seed).sum())) / self._examples for seed in self._seeds)
        return Row(attack, library, tuple(errors))

    def _apgd(self, loss):
        from advtf import apgd

        name = f"APGD-{loss.upper()}, {self._steps} iterations"
        yield self._row(name, "advtf", self.ours(apgd("linf", loss, self._steps)))
        yield self._row(name, "torchattacks", lambda seed: self.torchattacks_apgd(loss, seed))
        found = {seed: self._art_apgd(loss, seed) for seed in self._seeds}
        yield self._row(name, "ART, last iterate", lambda seed: found[seed][0])
        yield self._row(name, "ART, any iterate", lambda seed: found[seed][1])

    def _square(self, rescaled):
        from advtf import square

        shrinking = self._queries if rescaled else 10000
        name = f"Square, {self._queries} of {shrinking} queries"
        yield self._row(name, "advtf", self.ours(square("linf", self._queries, rescale_schedule=rescaled)))
        yield self._row(name, "torchattacks", lambda seed: self._torchattacks_square(rescaled, seed))
        if rescaled:
            yield self._row(name, "ART", self._art_square)

    def ours(self, attack: Callable) -> Callable[[int], np.ndarray]:
        """Returns seed -> (n,) bool, broken by one of advtf's attacks."""
        import tensorflow as tf

        bench, x, y = self._bench, tf.constant(self._bench.x), tf.constant(self._bench.y)
        epsilon = tf.constant(bench.epsilon, tf.float32)
        run = tf.function(lambda seed: attack(bench.logits_fn, x, y, epsilon, seed))
        run = run.get_concrete_function(tf.TensorSpec([2], tf.int64))

        def broken(seed):
            x_adv = run(tf.constant([seed, 0], tf.int64))
            return np.asarray(bench.logits_fn(x_adv)).argmax(axis=1) != bench.y

        return broken

    def torchattacks_apgd(self, loss: str, seed: int) -> np.ndarray:
        """Returns (n,) bool, broken by torchattacks' APGD."""
        import torchattacks

        settings = {"eps": self._bench.epsilon, "steps": self._steps, "loss": loss, "seed": seed}
        return self._broken_in_torch(torchattacks.APGD(self._bench.torch_model, **settings))

    def _torchattacks_square(self, rescaled, seed):
        import torchattacks

        settings = {"eps": self._bench.epsilon, "n_queries": self._queries, "seed": seed}
        settings["resc_schedule"] = rescaled
        return self._broken_in_torch(torchattacks.Square(self._bench.torch_model, **settings))

    def _broken_in_torch(self, attack):
        import torch

        x_adv = attack(self._bench.torch_x, self._bench.torch_y)
        with torch.no_grad():
            return (self._bench.torch_model(x_adv).argmax(1) != self._bench.torch_y).numpy()

    def _art_apgd(self, loss, seed):
        """Returns what the last iterate breaks, and what any iterate does, (n,) bool each."""
        from art.attacks.evasion import AutoProjectedGradientDescent

        bench = self._bench
        attack = AutoProjectedGradientDescent(
            self._art,
            norm=np.inf,
            eps=bench.epsilon,
            eps_step=2 * bench.epsilon,
            max_iter=self._steps,
            nb_random_init=1,
            batch_size=len(bench.x),  # so that every loss is computed for all images, in their order
            loss_type=ART_LOSSES[loss],
            verbose=False,
        )
        seen, compute_loss = np.zeros(len(bench.x), bool), attack.estimator.compute_loss

        def watched(x, y, **kwargs):
            seen[:] |= self._broken_in_art(x)
            return compute_loss(x=x, y=y, **kwargs)

        np.random.seed(seed)
        with mock.patch.object(attack.estimator, "compute_loss", watched):
            last = self._broken_in_art(attack.generate(bench.x, bench.y))
        return last, seen

    def _art_square(self, seed):
        from art.attacks.evasion import SquareAttack

        np.random.seed(seed)
        settings = {"norm": np.inf, "eps": self._bench.epsilon, "max_iter": self._queries}
        attack = SquareAttack(self._art, **settings, batch_size=len(self._bench.x), verbose=False)
        return self._broken_in_art(attack.generate(self._bench.x, self._bench.y))

    def _broken_in_art(self, x):
        return self._art.predict(x).argmax(axis=1) != self._bench.y

    def outcomes_that_differ(self, loss: str) -> int:
        """Counts, over all seeds, the images whose outcome differs between advtf and torchattacks."""
        import tensorflow as tf
        import torch

        from advtf import apgd
        from advtf.attacks.norms import get_norm

        ours, shape = self.ours(apgd("linf", loss, self._steps)), tf.constant(self._bench.x.shape)
        differ = 0
        for seed in self._seeds:
            point = get_norm("linf").random_point(shape, 1.0, tf.constant([seed, 0], tf.int64))
            uniform = torch.tensor((point.numpy().transpose(0, 3, 1, 2) + 1) / 2)
            with mock.patch.object(torch, "rand", lambda shape, drawn=uniform: drawn.reshape(shape)):
                theirs = self.torchattacks_apgd(loss, seed)
            differ += int((ours(seed) != theirs).sum())
        return differ


def main():
    made = parser(__doc__)
    made.add_argument("--model", required=True, help="export of a LeNet trained against linf")
    made.add_argument("--data_dir", help="prepared TFDS data")
    made.add_argument("--examples", type=int, default=500)
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--steps", type=int, default=100, help="iterations of APGD")
    made.add_argument("--queries", type=int, default=5000, help="of Square")
    made.add_argument("--out", default="runs/attack_strength.json")
    chosen = made.parse_args()
    require_compared_libraries()
    import_tensorflow()

    from launch.common.peers import load_bench, versions

    bench = load_bench(chosen.model, chosen.examples, chosen.data_dir)
    comparison = Comparison(bench, chosen.seeds, chosen.steps, chosen.queries)
    clean = 100 * (1 - bench.right.mean())
    print(f"{bench.name}, linf, ε {bench.epsilon}, {len(bench.x)} images, clean error {clean:.2f} %\n")
    print(f"{'robust error in %':<58}{'mean':>8}  {chosen.seeds} seeds{'':<11}to advtf")
    rows, references = [], {}
    for row in comparison.rows():
        rows.append(row)
        print(row.line(references.setdefault(row.attack, row)), flush=True)
    far = [
        f"{row.attack}: {row.library}" for row in rows if abs(row.mean - references[row.attack].mean) > CLAIM
    ]
    print(f"\nMore than {CLAIM} points from advtf: {'; '.join(far) or 'none'}.")
    same_starts = {loss: comparison.outcomes_that_differ(loss) for loss in ART_LOSSES}
    pairs = chosen.seeds * int(bench.right.sum())
    found = ", ".join(f"{differ} for APGD-{loss.upper()}" for loss, differ in same_starts.items())
    print(f"Outcomes of advtf and torchattacks that differ from the same starts, of {pairs:,}: {found}.")
    print(f"\n{NOTES}")
    results = {
        "arguments": vars(chosen),
        "versions": versions(),
        "clean_error": clean,
        "epsilon": bench.epsilon,
    }
    results["rows"] = [
        {"attack": row.attack, "library": row.library, "errors": row.errors, "mean": row.mean}
        | {"difference": row.mean - references[row.attack].mean}
        for row in rows
    ]
    Path(chosen.out).parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(chosen.out), results | {"same_starts": {"outcomes": pairs, "differ": same_starts}})


if __name__ == "__main__":
    with exit_on_usage_error():
        main()
