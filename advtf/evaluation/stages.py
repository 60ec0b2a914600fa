"""Attacks cut into stages, between which the examples already broken can be left out.

A stage is one restart, one target class, or some of Square's queries, for one batch. Stages of one kind
share a trace: what differs between them (ε, seed, target, queries) is an argument.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from advtf.attacks.apgd import apgd, apgd_targeted
from advtf.attacks.attack import LogitsFn
from advtf.attacks.fab import fab
from advtf.attacks.losses import cross_entropy, is_correct
from advtf.attacks.pgd import pgd
from advtf.attacks.random import example_seeds
from advtf.attacks.square import SquareSearch, SquareState
from advtf.evaluation.settings import AttackSettings

SQUARE_PIECE = 500  # queries after which the broken leave at the latest; before, after 50, 100, 200, 400


class Batch(NamedTuple):
    """Some examples, and what the stage before left of them.

    Attributes:
        x, y: images float32 (B, H, W, C) and labels int32 (B,).
        keys: (B,) int32, what the examples draw their random numbers under, whatever their rows.
        carried: arrays (B, ...) of the stage before; empty for most attacks.
    """

    x: np.ndarray
    y: np.ndarray
    keys: np.ndarray
    carried: tuple[np.ndarray, ...]


class Result(NamedTuple):
    """Per example: the point found, whether it is misclassified, its cross-entropy, what to carry on."""

    x_adv: np.ndarray
    broken: np.ndarray
    loss: np.ndarray
    carried: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Stage:
    """One piece of an attack.

    Attributes:
        run: ``run(batch, epsilon, seed) -> Result``; `epsilon` a float, `seed` two integers.
        forward, backward: passes per example, the check of the result included.
        continued: a piece of one long search, whose pieces all get the same seed.
    """

    run: Callable[[Batch, float, np.ndarray], Result]
    forward: int
    backward: int
    continued: bool = False


class Stages:
    """Builds the stages of components for one classifier; traces are made once and shared.

    Args:
        logits_fn: float32 (B, H, W, C) -> (B, K).
        image_shape: (H, W, C).
        num_classes: K; with fewer than `settings.targets` + 1, all others are aimed at.
        settings: norm, iterations and so on.
        jit_compile: compile with XLA, anew for every batch size.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        image_shape: tuple[int, int, int],
        num_classes: int,
        settings: AttackSettings,
        jit_compile: bool = False,
    ):
        self._logits_fn, self._settings, self._jit_compile = logits_fn, settings, jit_compile
        self._ranks = range(1, min(settings.targets, num_classes - 1) + 1)
        self._classes = num_classes
        self._images = tf.TensorSpec((None, *image_shape), tf.float32)
        self._integers = tf.TensorSpec([None], tf.int32)
        self._floats = tf.TensorSpec([None], tf.float32)

    def of(self, component: str, epsilon: float) -> list[Stage]:
        """Returns the stages of a component of `advtf.evaluation.settings.COMPONENTS`, in order."""
        settings, steps = self._settings, self._settings.steps
        if component in ("pgd", "pgd100"):
            count = settings.pgd_steps if component == "pgd" else 100
            run = self._pgd(count, settings.relative_step(component, epsilon))
            return [Stage(_plain(run), count + 1, count)] * settings.restarts
        if component in ("apgd_ce", "apgd_dlr"):
            run = self._apgd(component.removeprefix("apgd_"))
            return [Stage(_plain(run), steps + 2, steps + 1)] * settings.restarts
        if component == "apgd_t":
            run, cost = self._apgd_targeted, (steps + 3, steps + 1)
            return [Stage(_plain(run, rank), *cost) for rank in self._ranks] * settings.restarts
        if component == "fab":
            return [Stage(_plain(self._fab), 2 * steps + 2, self._classes * steps)]
        if component == "fab_t":
            return [Stage(_plain(self._fab_targeted, rank), 2 * steps + 2, steps) for rank in self._ranks]
        return [Stage(self._square_start, 2, 0, continued=True)] + [
            Stage(functools.partial(self._square_advance, first, count), count + 1, 0, continued=True)
            for first, count in square_pieces(settings.queries)
        ]

    def _judge(self, x, y):
        logits = tf.cast(self._logits_fn(x), tf.float32)
        return is_correct(y, logits) < 1, cross_entropy(y, logits)

    def _compiled(self, function, *signature):
        return tf.function(
            function, input_signature=signature, autograph=False, jit_compile=self._jit_compile
        )

    def _traced(self, build):
        # `rank` is an argument of all of them, so that the targets of one attack are one trace.
        def run(x, y, keys, epsilon, seed, rank):
            x_adv = build(rank)(self._logits_fn, x, y, epsilon, example_seeds(seed, keys))
            return x_adv, *self._judge(x_adv, y)

        scalars = tf.TensorSpec([], tf.float32), tf.TensorSpec([2], tf.int64), tf.TensorSpec([], tf.int32)
        return self._compiled(run, self._images, self._integers, self._integers, *scalars)

    @functools.cache  # noqa: B019 - the traces live as long as the evaluation that asks for them
    def _pgd(self, steps, relative_step):
        return self._traced(lambda _: pgd(self._settings.norm, steps, relative_step))

    @functools.cache  # noqa: B019
    def _apgd(self, loss):
        return self._traced(lambda _: apgd(self._settings.norm, loss, self._settings.steps))

    @functools.cached_property
    def _apgd_targeted(self):
        return self._traced(lambda rank: apgd_targeted(self._settings.norm, rank, self._settings.steps))

    @functools.cached_property
    def _fab(self):
        return self._traced(lambda _: fab(self._settings.norm, self._settings.steps))

    @functools.cached_property
    def _fab_targeted(self):
        return self._traced(lambda rank: fab(self._settings.norm, self._settings.steps, target_rank=rank))

    @functools.cached_property
    def _search(self):
        return SquareSearch(self._settings.norm, self._settings.queries)

    @functools.cached_property
    def _traced_start(self):
        def run(x, y, keys, epsilon, seed):
            return self._judged(self._search.start(self._logits_fn, x, y, epsilon, seed, keys), y)

        scalars = tf.TensorSpec([], tf.float32), tf.TensorSpec([2], tf.int64)
        return self._compiled(run, self._images, self._integers, self._integers, *scalars)

    @functools.cached_property
    def _traced_advance(self):
        def run(x_adv, loss, x, y, keys, epsilon, seed, first, count):
            state = SquareState(x_adv, loss, tf.zeros_like(y, tf.bool))
            return self._judged(
                self._search.advance(state, self._logits_fn, x, y, epsilon, seed, keys, first, count), y
            )

        examples = self._images, self._floats, self._images, self._integers, self._integers
        whole = tf.TensorSpec([], tf.int32)
        scalars = tf.TensorSpec([], tf.float32), tf.TensorSpec([2], tf.int64), whole, whole
        return self._compiled(run, *examples, *scalars)

    def _judged(self, state, y):
        return state.x_adv, *self._judge(state.x_adv, y), state.loss

    def _square_start(self, batch, epsilon, seed):
        return _square_result(self._traced_start(batch.x, batch.y, batch.keys, epsilon, seed))

    def _square_advance(self, first, count, batch, epsilon, seed):
        examples = batch.x, batch.y, batch.keys
        return _square_result(self._traced_advance(*batch.carried, *examples, epsilon, seed, first, count))


def _plain(traced, rank=0):
    def run(batch, epsilon, seed):
        return Result(*map(np.asarray, traced(batch.x, batch.y, batch.keys, epsilon, seed, rank)), ())

    return run


def _square_result(tensors):
    x_adv, broken, loss, margin = map(np.asarray, tensors)
    return Result(x_adv, broken, loss, (x_adv, margin))


def square_pieces(queries: int) -> list[tuple[int, int]]:
    """Returns (first query, count): 50 at first, where most examples break, then doubling up to 500."""
    pieces, first = [], 0
    while first < queries:
        count = min(max(first, 50), SQUARE_PIECE, queries - first)
        pieces.append((first, count))
        first += count
    return pieces
