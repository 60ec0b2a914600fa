"""The engine of an evaluation: attacks survivors only, keeps the worst points, confirms what it counts."""

import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from advtf import runtime
from advtf.attacks.attack import NEGLIGIBLE_EPSILON, LogitsFn
from advtf.attacks.losses import cross_entropy, is_correct
from advtf.attacks.random import image_keys
from advtf.evaluation.points import Points, Spent, Stored
from advtf.evaluation.settings import AttackSettings
from advtf.evaluation.stages import Batch, Stage, Stages
from advtf.storage.cache import ResultCache

NOTHING = Spent()
TOLERANCE = 1e-6  # by which float32 rounding may leave the ball (in units of max(1, ε)) and [0, 1]


@dataclass(frozen=True, eq=False)
class ComponentRun:
    """One component on the examples that were left to it.

    Attributes:
        name: of `advtf.evaluation.settings.COMPONENTS`.
        rows: the examples it attacked.
        points: where it brought them.
        spent: what that cost.
        withdrawn: examples it called broken that the classifier, asked again, gets right, or whose point
            is not in the ball or in [0, 1]; they are not counted as broken.
    """

    name: str
    rows: np.ndarray
    points: Points
    spent: Spent = NOTHING
    withdrawn: int = 0


class _Task(NamedTuple):
    label: str
    name: str
    epsilon: float
    rows: np.ndarray


class Engine:
    """Attacks one classifier on one set of images.

    Args:
        logits_fn: float32 (B, H, W, C) in [0, 1] -> (B, K).
        x, y: images float32 (N, H, W, C) in [0, 1] and labels int32 (N,).
        num_classes: K.
        settings: what determines the numbers.

    Attributes:
        clean_correct: (N,) bool.
        clean_loss: (N,) float32, cross-entropy without attack.
        cache: where finished batches are kept; at first nowhere.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        x: np.ndarray,
        y: np.ndarray,
        num_classes: int,
        settings: AttackSettings,
    ):
        self.x, self.y, self._settings = x, y, settings
        self._keys = image_keys(x).astype(np.uint32).view(np.int32)
        self._size = min(settings.batch_size, len(x))
        self._compiled = runtime.compiles(settings.jit)
        self._stages = Stages(logits_fn, x.shape[1:], num_classes, settings, self._compiled)
        self._judge = _judge_of(logits_fn, x.shape[1:])
        wrong, self.clean_loss = self._judged(np.arange(len(x)), x)
        self.clean_correct = ~wrong
        self.cache = ResultCache(None, "")
        self._remembered: dict = {}

    def attack(
        self,
        entry: str,
        components: Sequence[str],
        epsilon: float,
        *,
        start: Points | None = None,
        finished: Callable[[ComponentRun, Points], None] | None = None,
    ) -> tuple[Points, list[ComponentRun]]:
        """Runs components one after another, each on what those before left.

        Args:
            entry: name for progress and state; one for each use.
            start: points known already, inside the ball; default the clean images.
            finished: called after each component with what it did and the worst points so far.

        Returns:
            The worst points of all examples, and what each component did.
        """
        points = start.select(np.arange(len(self.x))) if start else Points.unattacked(self.x, self.clean_loss)
        runs = []
        for name in components:
            rows = np.flatnonzero(self.clean_correct & ~points.broken)
            if len(rows) and epsilon >= NEGLIGIBLE_EPSILON:  # otherwise there is nothing to find
                runs.append(self._component(entry, name, epsilon, rows))
                points.update(rows, runs[-1].points)
            else:
                runs.append(ComponentRun(name, rows[:0], points.select(rows[:0])))
            if finished:
                finished(runs[-1], points)
        return points, runs

    def _component(self, entry, name, epsilon, rows):
        # A suite begins with the same attack on the same examples as that attack on its own.
        key = name, epsilon, rows.tobytes()
        run = self._remembered.get(key) or self._confirmed(_Task(f"{entry}-{name}", name, epsilon, rows))
        if sum(name in suite for suite in self._settings.suites.values()) > 1:
            self._remembered[key] = run
        return run

    def _confirmed(self, task):
        work, rows = self._work(task), task.rows
        points, found = work.points, np.flatnonzero(work.points.broken)
        x_adv = points.x_adv[found]
        fooled, _ = self._judged(rows[found], x_adv)
        false = found[~(fooled & self.inside(rows[found], x_adv, task.epsilon))]
        points.replace(false, Points.unattacked(self.x[rows[false]], self.clean_loss[rows[false]]))
        return ComponentRun(task.name, rows, points, work.spent, len(false))

    def inside(self, rows: np.ndarray, x_adv: np.ndarray, epsilon: float) -> np.ndarray:
        """Returns (n,) bool: which points are in [0, 1] and in the ball of their example, up to rounding."""
        delta = (x_adv.astype(np.float64) - self.x[rows]).reshape(len(rows), self.x[0].size)
        size = np.linalg.norm(delta, axis=1, ord=np.inf if self._settings.norm == "linf" else 2)
        pixels = x_adv.reshape(len(rows), self.x[0].size)
        in_range = (pixels >= -TOLERANCE).all(axis=1) & (pixels <= 1 + TOLERANCE).all(axis=1)
        return in_range & (size <= epsilon + TOLERANCE * max(1.0, epsilon))

    def _work(self, task):
        """Runs the stages of a component that are not on disk yet; returns where that ended."""
        stages, saved = self._stages.of(task.name, task.epsilon), self.cache.get(task.label)
        fresh = Stored(Points.unattacked(self.x[task.rows], self.clean_loss[task.rows]))
        work = Stored.from_arrays(saved) if saved else fresh
        with tqdm(
            desc=task.label, unit="pass", unit_scale=True, leave=False, disable=not sys.stdout.isatty()
        ) as bar:
            while work.stages < len(stages):
                work = self._stage(task, work, stages[work.stages :], bar)
                self.cache.put(task.label, work.arrays())
                self.cache.drop(f"{task.label}-")
        return work

    def _stage(self, task, work, stages, bar):
        """Runs the first of `stages` on the survivors; the others only tell how much there is to do."""
        points, carried, spent = work.points, work.carried, work.spent
        alive = np.flatnonzero(~points.broken)
        bar.total = bar.n + len(alive) * sum(stage.forward + stage.backward for stage in stages)
        for batch, chosen in enumerate(self._batches(alive)):
            file = f"{task.label}-{work.stages}-{batch}"
            saved = self.cache.get(file)
            if saved:
                done = Stored.from_arrays(saved)
            else:
                seed = self._seed(task.name, 0 if stages[0].continued else work.stages)
                rest = [array[chosen] for array in carried]
                done = self._attacked(stages[0], task.epsilon, seed, task.rows[chosen], rest)
                self.cache.put(file, done.arrays())
            points.update(chosen, done.points)
            carried = _scatter(carried, done.carried, chosen, len(task.rows))
            spent += done.spent
            robust = np.count_nonzero(~points.broken) / len(self.x)
            bar.set_postfix_str(f"robust accuracy so far {robust:.1%}", refresh=False)
            bar.update(done.spent.forward + done.spent.backward)
        return Stored(points, carried, spent, work.stages + 1)

    def _seed(self, name, stage):
        return np.array([self._settings.seed, zlib.crc32(f"{name}/{stage}".encode())], np.int64)

    def _attacked(self, stage: Stage, epsilon, seed, rows, carried):
        began, count = time.monotonic(), len(rows)
        # XLA compiles anew for every shape, so a last batch is filled up by repeating it; without XLA it is
        # cheaper as it is.
        filled = np.resize(np.arange(count), self._size if self._compiled else count)
        taken = rows[filled]
        carried = tuple(array[filled] for array in carried)
        batch = Batch(self.x[taken], self.y[taken], self._keys[taken], carried)
        result = stage.run(batch, epsilon, seed)
        points = Points(result.x_adv[:count], result.broken[:count], result.loss[:count])
        passes = count * stage.forward, count * stage.backward
        spent = Spent(*passes, time.monotonic() - began)
        return Stored(points, tuple(array[:count] for array in result.carried), spent)

    def _judged(self, rows, x):
        """Returns misclassified (n,) bool and cross-entropy (n,) of images `x` with the labels of `rows`."""
        parts = [self._judge(x[part], self.y[rows[part]]) for part in self._batches(np.arange(len(rows)))]
        wrong, loss = zip(*parts, strict=True) if parts else ([np.zeros(0, bool)], [np.zeros(0, np.float32)])
        return np.concatenate(wrong), np.concatenate(loss)

    def _batches(self, rows) -> Iterator[np.ndarray]:
        return (rows[begin : begin + self._size] for begin in range(0, len(rows), self._size))


def _judge_of(logits_fn, image_shape):
    signature = tf.TensorSpec((None, *image_shape), tf.float32), tf.TensorSpec([None], tf.int32)

    @tf.function(input_signature=signature, autograph=False)
    def judge(x, y):
        logits = logits_fn(x)
        return is_correct(y, logits) < 1, cross_entropy(y, logits)

    return judge


def _scatter(arrays, new, rows, count):
    """Puts the new rows into the arrays, made on first use."""
    if not arrays:
        arrays = tuple(np.zeros((count, *values.shape[1:]), values.dtype) for values in new)
    for array, values in zip(arrays, new, strict=True):
        array[rows] = values
    return arrays
