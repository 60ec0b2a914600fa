"""Robust error of one classifier under advtf, torchattacks and ART: do three implementations agree?

A classifier in Keras and its copy in PyTorch, the first `examples` test images, the ε it was trained for, the
same iterations, restarts (one) and queries; a round is a seed. Images that are wrong without attack count as
errors. Random starts differ between the libraries, so torchattacks' APGD is also given the starts that advtf
draws: the fact "same_starts_differ" counts the images whose outcome differs then, of all seeds.

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
              where they raise the loss.
"""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

from launch.common.benchmark import AGREEMENT, Comparison

if TYPE_CHECKING:
    from launch.common.peers import Bench

ART_LOSSES = {"ce": "cross_entropy", "dlr": "difference_logits_ratio"}


def compare(options: SimpleNamespace) -> Iterator[Comparison]:
    """Yields the robust errors of advtf beside those of the others, a pair a seed."""
    from launch.common.peers import load_bench

    bench = load_bench(options.model, options.examples, options.data_dir)
    clean = 100 * (1 - bench.right.mean())
    implementations = Implementations(bench, options.rounds, options.steps, options.queries)
    for attack, errors, facts in implementations.errors():
        for library in list(errors)[1:]:
            own, other = np.array(errors["advtf"]), np.array(errors[library])
            yield Comparison(
                what=f"{attack}, {bench.name}",
                ours="advtf",
                against=library,
                pairs=list(zip(own, other, strict=True)),
                unit=AGREEMENT,
                work=f"{len(bench.x)} images",
                facts={
                    "difference": float((own - other).mean()),
                    "clean_error": clean,
                    **facts.get(library, {}),
                },
            )


class Implementations:
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

    def errors(self) -> Iterator[tuple[str, dict[str, list[float]], dict[str, dict]]]:
        """Yields, attack by attack, the errors in percent by seed of every library, and facts about some."""
        for loss in ART_LOSSES:
            yield self._apgd(loss)
        for rescaled in (True, False):
            yield self._square(rescaled)

    def _percent(self, broken: Callable[[int], np.ndarray]) -> list[float]:
        wrong = self._examples - len(self._bench.x)
        return [100 * (wrong + int(broken(seed).sum())) / self._examples for seed in self._seeds]

    def _apgd(self, loss):
        from advtf import apgd

        found = {seed: self._art_apgd(loss, seed) for seed in self._seeds}
        errors = {
            "advtf": self._percent(self.ours(apgd("linf", loss, self._steps))),
            "torchattacks": self._percent(lambda seed: self.torchattacks_apgd(loss, seed)),
            "ART, last iterate": self._percent(lambda seed: found[seed][0]),
            "ART, any iterate": self._percent(lambda seed: found[seed][1]),
        }
        facts = {"torchattacks": {"same_starts_differ": self.outcomes_that_differ(loss)}}
        return f"APGD-{loss.upper()}, {self._steps} iterations", errors, facts

    def _square(self, rescaled):
        from advtf import square

        shrinking = self._queries if rescaled else 10000
        attack = square("linf", self._queries, rescale_schedule=rescaled)
        errors = {
            "advtf": self._percent(self.ours(attack)),
            "torchattacks": self._percent(lambda seed: self._torchattacks_square(rescaled, seed)),
        }
        if rescaled:
            errors["ART"] = self._percent(self._art_square)
        return f"Square, {self._queries} of {shrinking} queries", errors, {}

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
