"""The attacks that an evaluation can measure, by name, and how each is cut into stages.

`ATTACKS` is the one place that knows an attack's name, its label, what it requires and how it is run. An
attack of one's own is a pure function and one more entry::

    def random_corner(logits_fn, x, y, epsilon, seed):
        signs = tf.sign(uniform(tf.shape(x), seed) - 0.5)
        return tf.clip_by_value(x + epsilon * signs, 0.0, 1.0)

    ATTACKS["corner"] = EvaluationAttack(
        "Corner", lambda builder: [builder.stage(random_corner, forward=0, backward=0)], black_box=True
    )
    advtf.evaluate(model, x, y, attacks=["corner", "pgd"], epsilon=8 / 255)

A stage is one restart, one target class, or some of Square's queries. Between stages the examples already
broken are left out. Stages of one kind share a trace: what differs between them (ε, seed, target, queries) is
an argument. This module does not import TensorFlow; the functions that build the stages do when they are
called.
"""

import functools
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from advtf.errors import UsageError
from advtf.settings.threat import relative_step

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

    from advtf.attacks.attack import Attack, LogitsFn

SQUARE_PIECE = 500  # queries between two moments at which broken examples leave; at first there are fewer


class Batch(NamedTuple):
    """The examples that a stage attacks, with what the stage before hands on.

    Attributes:
        x, y: images float32 (B, H, W, C) and labels int32 (B,).
        keys: (B,) int32, from which each example draws its random numbers, whatever its row.
        carried: arrays (B, ...) of the stage before; empty for most attacks.
    """

    x: "np.ndarray"
    y: "np.ndarray"
    keys: "np.ndarray"
    carried: "tuple[np.ndarray, ...]"


class Result(NamedTuple):
    """What a stage found for each example.

    Attributes:
        x_adv: float32 (B, H, W, C), the point found.
        broken: (B,) bool, whether it is misclassified.
        loss: (B,) float32, its cross-entropy in nats.
        carried: arrays (B, ...) for the next stage.
        forward: (B,) forward passes made, the check included; None where they are those of the stage.
    """

    x_adv: "np.ndarray"
    broken: "np.ndarray"
    loss: "np.ndarray"
    carried: "tuple[np.ndarray, ...]"
    forward: "np.ndarray | None" = None


@dataclass(frozen=True)
class Stage:
    """One piece of an attack.

    Attributes:
        run: ``run(batch, epsilon, seed) -> Result``; `epsilon` is a float, `seed` two integers.
        forward, backward: passes per example, the check of the result included; of a stage that saves some,
            at most.
        continued: whether it is a piece of one long search, whose pieces all get the same seed.
        carries: number of arrays that it hands on.
    """

    run: "Callable[[Batch, float, np.ndarray], Result]"
    forward: int
    backward: int
    continued: bool = False
    carries: int = 0


class StageBuilder:
    """Makes stages of pure attacks on one classifier.

    Args:
        logits_fn: float32 (B, H, W, C) -> (B, K).
        image_shape: (H, W, C).
        num_classes: K.
        settings: norm, iterations and so on, an `advtf.evaluation.settings.AttackSettings`.
        jit_compile: compile with XLA, anew for every batch size.
        view: returns what the attacks see, `logits_fn` up to rounding; called in the graph of each attack.

    Attributes:
        logits_fn: what the attacks see while one of them is traced. The points that they find are judged by
            the classifier itself.
        tracing_seconds: what building the graphs took so far.
        tracing: a lock that is held while something is traced, because the parts of a batch are attacked at
            the same time.
    """

    def __init__(
        self,
        logits_fn: "LogitsFn",
        image_shape: tuple[int, int, int],
        num_classes: int,
        settings: Any,
        jit_compile: bool = False,
        view: "Callable[[], LogitsFn] | None" = None,
    ):
        self.logits_fn, self.num_classes, self.settings = logits_fn, num_classes, settings
        self.tracing_seconds, self.tracing, self._view = 0.0, threading.Lock(), view
        self.image_shape, self.jit_compile = image_shape, jit_compile

    def stage(self, attack: "Attack", *, forward: int, backward: int) -> Stage:
        """Makes a stage that runs an attack from first step to last.

        Args:
            attack: ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``, where `seed` holds two integers for
                each example, (B, 2).
            forward, backward: passes that the attack makes per example.
        """
        return Stage(self._traced(lambda rank: attack), forward + 1, backward)

    def target_stages(
        self, attack_on: "Callable[[tf.Tensor], Attack]", *, forward: int, backward: int
    ) -> list[Stage]:
        """Makes one stage for each target class, with one trace for all of them.

        Args:
            attack_on: builds the attack for a rank, a scalar int32: 1 is the strongest wrong class. There are
                `settings.targets` ranks, or as many as the classifier has wrong classes.
            forward, backward: passes that the attack makes per example.
        """
        run = self._traced(attack_on)
        ranks = range(1, min(self.settings.targets, self.num_classes - 1) + 1)
        return [Stage(functools.partial(run, rank=rank), forward + 1, backward) for rank in ranks]

    def _traced(self, attack_on):
        import tensorflow as tf

        from advtf.attacks.random import example_seeds

        def attacked(x, y, keys, epsilon, seed, rank):
            return (attack_on(rank)(self.logits_fn, x, y, epsilon, example_seeds(seed, keys)),)

        traced = self.traced(attacked, tf.TensorSpec([], tf.int32))
        return lambda batch, epsilon, seed, rank=0: traced(batch, epsilon, seed, rank)

    def traced(self, function: Callable, *more: "tf.TensorSpec") -> Callable[..., Result]:
        """Traces a function of a batch once, and has the classifier judge the points that it finds.

        Args:
            function: ``function(x, y, keys, epsilon, seed, *more) -> (x_adv, *carried)`` on tensors.
            *more: types of the further arguments.

        Returns:
            ``run(batch, epsilon, seed, *more) -> Result`` on arrays.
        """
        import numpy as np
        import tensorflow as tf

        from advtf.attacks.losses import cross_entropy, is_correct

        labels = keys = tf.TensorSpec([None], tf.int32)
        examples = tf.TensorSpec((None, *self.image_shape), tf.float32), labels, keys
        signature = *examples, tf.TensorSpec([], tf.float32), tf.TensorSpec([2], tf.int64), *more

        @tf.function(input_signature=signature, autograph=False, jit_compile=self.jit_compile)
        def judged(x, y, *rest):
            classifier = self.logits_fn
            if self._view:
                self.logits_fn = self._view()
            try:
                x_adv, *carried = function(x, y, *rest)
            finally:
                self.logits_fn = classifier
            logits = tf.cast(classifier(x_adv), tf.float32)
            return x_adv, is_correct(y, logits) < 1, cross_entropy(y, logits), *carried

        def run(batch, epsilon, seed, *rest):
            with self.tracing:
                began = time.monotonic()
                judged.get_concrete_function()  # traces at the first call
                self.tracing_seconds += time.monotonic() - began
            tensors = judged(batch.x, batch.y, batch.keys, epsilon, seed, *rest)
            x_adv, broken, loss, *carried = map(np.asarray, tensors)
            return Result(x_adv, broken, loss, tuple(carried))

        return run


@dataclass(frozen=True)
class EvaluationAttack:
    """An attack that an evaluation can measure.

    Attributes:
        label: its name in tables.
        stages: builds its stages for one classifier, in the order in which they run.
        fewest_classes: the smallest number of classes that it is defined for.
        because: why it is not defined for fewer.
        stand_in: the attack that suites run in its place where there are fewer; none if it is None.
        black_box: whether it sees logits only. It can then attack what has no gradient, and it should not
            find what gradients miss.
    """

    label: str
    stages: Callable[[StageBuilder], list[Stage]]
    fewest_classes: int = 2
    because: str = ""
    stand_in: str | None = None
    black_box: bool = False


def _pgd(builder):
    steps, size = builder.settings.pgd_steps, builder.settings.pgd_step_size
    return _pgd_stages(builder, steps, lambda epsilon: relative_step(size, epsilon))


def _pgd100(builder):
    return _pgd_stages(builder, 100, functools.partial(pgd100_step, builder.settings.norm))


def pgd100_step(norm: str, epsilon: float) -> float:
    """Returns the step of PGD100 divided by ε: 0.01 on MNIST and 1/255 on CIFAR-10 (Liu et al. 2020).

    The radius tells the two data sets apart. For l2 nothing is published: with 0.025 of ε, our choice, 100
    steps cross the ball 2.5 times. At ε = 0, where the step has no effect, it is 1.
    """
    if norm == "l2":
        return 0.025
    return min((0.01 if epsilon >= 0.1 else 1 / 255) / epsilon, 1.0) if epsilon else 1.0


def _pgd_stages(builder, steps, step_at):
    from advtf.attacks.pgd import pgd

    @functools.cache
    def stage(step):
        return builder.stage(pgd(builder.settings.norm, steps, step), forward=steps, backward=steps)

    def run(batch, epsilon, seed):
        with builder.tracing:
            chosen = stage(step_at(epsilon))
        return chosen.run(batch, epsilon, seed)

    return [Stage(run, steps + 1, steps)] * builder.settings.restarts


def _apgd(loss):
    def stages(builder):
        from advtf.attacks.apgd import apgd

        norm, steps = builder.settings.norm, builder.settings.steps
        stage = builder.stage(apgd(norm, loss, steps), forward=steps + 1, backward=steps + 1)
        return [stage] * builder.settings.restarts

    return stages


def _apgd_targeted(builder):
    from advtf.attacks.apgd import apgd_targeted

    norm, steps = builder.settings.norm, builder.settings.steps
    stages = builder.target_stages(
        lambda rank: apgd_targeted(norm, rank, steps), forward=steps + 2, backward=steps + 1
    )
    return stages * builder.settings.restarts


def _fab(builder):
    from advtf.attacks.fab import fab

    norm, steps = builder.settings.norm, builder.settings.steps
    return [builder.stage(fab(norm, steps), forward=2 * steps + 1, backward=builder.num_classes * steps)]


def _fab_targeted(builder):
    from advtf.attacks.fab import fab

    norm, steps = builder.settings.norm, builder.settings.steps
    return builder.target_stages(
        lambda rank: fab(norm, steps, target_rank=rank), forward=2 * steps + 1, backward=steps
    )


def _square(builder):
    import numpy as np
    import tensorflow as tf

    from advtf.attacks.square import SquareSearch, SquareState

    search = SquareSearch(builder.settings.norm, builder.settings.queries)
    once = search.norm == "linf" and not builder.jit_compile

    def start(x, y, keys, epsilon, seed):
        state = search.start(builder.logits_fn, x, y, epsilon, seed, keys)
        return state.x_adv, state.x_adv, state.loss, tf.fill(tf.shape(y), -1)

    def advance(x, y, keys, epsilon, seed, x_adv, loss, taken, first, count):
        state = SquareState(x_adv, loss, tf.zeros_like(y, tf.bool))  # the broken have left
        task = builder.logits_fn, x, y, epsilon, seed, keys, first, count
        if once:
            state, taken, asked = search.ask_once(state, taken, *task)
        else:
            state, asked = search.advance(state, *task), tf.fill(tf.shape(y), count)
        return state.x_adv, state.x_adv, state.loss, taken, asked

    integer, integers = tf.TensorSpec([], tf.int32), tf.TensorSpec([None], tf.int32)
    points = tf.TensorSpec((None, *builder.image_shape), tf.float32), tf.TensorSpec([None], tf.float32)
    started = builder.traced(start)
    advanced = builder.traced(advance, *points, integers, integer, integer)

    def piece(first, count):
        def run(batch, epsilon, seed):
            # Earlier versions have not kept the last query taken: then nothing is known of those before.
            carried = [*batch.carried, np.full(len(batch.y), first, np.int32)][:3]
            result = advanced(batch, epsilon, seed, *carried, first, count)
            return result._replace(carried=result.carried[:3], forward=result.carried[3] + 1)

        return Stage(run, count + 1, 0, continued=True, carries=3)

    pieces = [piece(first, count) for first, count in square_pieces(builder.settings.queries)]
    return [Stage(started, 2, 0, continued=True, carries=3), *pieces]


def square_pieces(queries: int) -> list[tuple[int, int]]:
    """Cuts a search of so many queries into pieces, the first ones short, because most examples break early.

    Returns:
        (first query, count) of each piece: 50 queries, then as many as there were before, up to 500.
    """
    pieces, first = [], 0
    while first < queries:
        count = min(max(first, 50), SQUARE_PIECE, queries - first)
        pieces.append((first, count))
        first += count
    return pieces


ATTACKS: dict[str, EvaluationAttack] = {
    "pgd": EvaluationAttack("PGD", _pgd),
    "pgd100": EvaluationAttack("PGD100", _pgd100),
    "apgd_ce": EvaluationAttack("APGD-CE", _apgd("ce")),
    "apgd_dlr": EvaluationAttack(
        "APGD-DLR",
        _apgd("dlr"),
        fewest_classes=3,
        because="DLR is divided by a gap to the third largest logit",
    ),
    "apgd_t": EvaluationAttack(
        "APGD-T",
        _apgd_targeted,
        fewest_classes=4,
        because="targeted DLR is divided by a gap to the third and the fourth largest logit",
        stand_in="apgd_dlr",
    ),
    "fab": EvaluationAttack("FAB", _fab),
    "fab_t": EvaluationAttack("FAB-T", _fab_targeted),
    "square": EvaluationAttack("Square", _square, black_box=True),
}


@dataclass(frozen=True)
class Suite:
    """Attacks that are measured as one: each attacks what the ones before it left.

    Attributes:
        label: its name in tables.
        attacks: their names in `ATTACKS`, in order.
    """

    label: str
    attacks: tuple[str, ...]


SUITES: dict[str, Suite] = {
    # The standard version of Croce & Hein 2020.
    "autoattack": Suite("AutoAttack", ("apgd_ce", "apgd_t", "fab_t", "square")),
    # Its first two attacks, which decide nearly always.
    "screen": Suite("Screen", ("apgd_ce", "apgd_t")),
}


# All names at this moment, those registered later included.
NAMES: Mapping[str, EvaluationAttack | Suite] = ChainMap(SUITES, ATTACKS)


class LeftOut(NamedTuple):
    """An attack that a suite leaves out, because it is not defined for the classes of a classifier.

    Attributes:
        suite: name in `SUITES`.
        attack: name in `ATTACKS`.
        stand_in: the attack that runs in its place; None if none does.
        classes: the number of classes.
    """

    suite: str
    attack: str
    stand_in: str | None
    classes: int

    def __str__(self) -> str:
        entry = ATTACKS[self.attack]
        change = f"with {self.stand_in} in place of" if self.stand_in else "without"
        return (
            f"{SUITES[self.suite].label} {change} {self.attack}, which requires at least "
            f"{entry.fewest_classes} classes, and there are {self.classes}: {entry.because}."
        )

    def to_json(self) -> dict:
        """Returns the record of `evaluation.json`."""
        return self._asdict() | {"reason": str(self)}


class LineUp(NamedTuple):
    """What is to run on a classifier.

    Attributes:
        suites: name in `NAMES` -> the attacks that it stands for, itself or those of a suite.
        left_out: the attacks of suites that are not defined for the classes of the classifier.
    """

    suites: dict[str, tuple[str, ...]]
    left_out: tuple[LeftOut, ...]

    @property
    def components(self) -> tuple[str, ...]:
        """Every attack that is to run, once."""
        return tuple(dict.fromkeys(name for suite in self.suites.values() for name in suite))


def line_up(names: Sequence[str], classes: int) -> LineUp:
    """Returns what runs where `names` are asked for on a classifier with `classes` classes.

    A suite goes without the attacks that are not defined there, or with what stands in for them.

    Args:
        names: of `NAMES`.
        classes: the number of classes K.

    Raises:
        UsageError: an attack asked for by its own name is not defined for so few classes, or none of a suite
            is; the message names the attacks that are.
    """
    suites, left_out = {}, []
    for name in names:
        attacks = SUITES[name].attacks if name in SUITES else (name,)
        chosen = {attack: _defined(attack, classes) if name in SUITES else attack for attack in attacks}
        suites[name] = tuple(dict.fromkeys(filter(None, chosen.values())))
        for attack in suites[name] or attacks:
            _require_classes(attack, classes)
        left_out += [LeftOut(name, *change, classes) for change in chosen.items() if change[0] != change[1]]
    return LineUp(suites, tuple(left_out))


def _defined(name, classes):
    """Returns the attack, or the first of its stand-ins that is defined for `classes` classes, or None."""
    while name is not None and ATTACKS[name].fewest_classes > classes:
        name = ATTACKS[name].stand_in
    return name


def _require_classes(name, classes):
    fewest = ATTACKS[name].fewest_classes
    if classes < fewest:
        usable = ",".join(known for known, entry in ATTACKS.items() if entry.fewest_classes <= classes)
        raise UsageError(
            f"{name} requires at least {fewest} classes. Received: {classes}. Use --attacks={usable}."
        )
