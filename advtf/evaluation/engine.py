"""How an evaluation runs: every attack on the examples that are left to it, and the worst case over them.

`evaluate_classifier` is the whole of it. It asks the `Engine` for one attack or suite after another. The
engine gets the stages of an attack from `advtf.evaluation.attacks` and runs them batch by batch on the
examples that are not broken yet. It keeps the worst `Points`, writes every finished batch to disk, and has
the classifier confirm what it counts.
"""

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from advtf import runtime
from advtf.attacks.attack import LogitsFn
from advtf.attacks.losses import cross_entropy, is_correct
from advtf.attacks.random import image_keys
from advtf.classifiers.classifier import Classifier
from advtf.data.sets import Split
from advtf.errors import UsageError, quantity
from advtf.evaluation import sanity_checks
from advtf.evaluation.attacks import ATTACKS, NAMES, Batch, Result, Stage, StageBuilder, line_up
from advtf.evaluation.report import AttackResult, ComponentRecord, Evaluation, Spent
from advtf.evaluation.settings import AttackSettings
from advtf.evaluation.sharing import Alone, StageOver
from advtf.settings.threat import NEGLIGIBLE_EPSILON
from advtf.storage.cache import ResultCache, fingerprint

SMALLEST_PART = 4  # images of a core, where the cores could compute each operation together instead
TOLERANCE = 1e-6  # by which float32 rounding may leave the ball (in units of max(1, ε)) and [0, 1]
PROBABILITIES = (
    "The logits attacked are logarithms of probabilities: where a softmax saturates its gradient is zero or "
    "rounded, so errors may be too low. Give the classifier without its softmax if you can."
)


@runtime.true_float32()
def evaluate_classifier(
    classifier: Classifier,
    x: np.ndarray,
    y: np.ndarray,
    settings: AttackSettings,
    *,
    epsilon_grid: Sequence[float] = (),
    state_dir: str | Path | None = None,
    checks: bool = True,
    say: Callable[[str], None] | None = None,
    sharing: Alone | None = None,
) -> Evaluation:
    """Evaluates a classifier on images and labels that have been checked already.

    Args:
        classifier: what is attacked.
        x, y: images float32 (N, H, W, C) in [0, 1] and labels int32 (N,).
        settings: what determines the numbers.
        epsilon_grid, state_dir, checks, say: as for `advtf.evaluate`.
        sharing: the way in which the batches are shared with other processes; None for no others.

    Returns:
        All numbers of the evaluation.

    Raises:
        UsageError: attacks that do not fit the classifier, or state of another evaluation.
    """
    runtime.require_deterministic(settings.deterministic)
    _require_gradient(classifier, x, line_up(settings.attacks, classifier.num_classes).components)
    engine = Engine(classifier.logits_fn, x, y, classifier.num_classes, settings, classifier.attack_view())
    identity = fingerprint(settings.identity(), x, y, engine.clean_correct)
    engine.cache = ResultCache(state_dir, identity)
    engine.sharing = sharing or Alone()
    clean = AttackResult(~engine.clean_correct, np.zeros(len(x), bool), engine.clean_loss)
    worst, results, runs = _attack_all(engine, settings.eps, say or (lambda line: None))
    curve = _curve(engine, settings.eps, worst, epsilon_grid)
    warnings = [PROBABILITIES] if classifier.ends_in_softmax else []
    if checks:
        correct = engine.clean_correct
        warnings += sanity_checks.warnings_before(classifier.logits_fn, x[correct], y[correct], settings.norm)
    warnings += _warnings_after(runs, len(x))
    return Evaluation(
        model=classifier.name,
        settings=settings,
        images=Split(x, y).record(),
        clean=clean,
        attacks=results,
        worst_case=_result(engine, worst, ()),
        adversarial=worst.x_adv,
        curve=curve,
        warnings=tuple(warnings),
        left_out=engine.line_up.left_out,
    )


def _require_gradient(classifier, x, components):
    if all(ATTACKS[name].black_box for name in components):
        return
    if not sanity_checks.is_differentiable(classifier.logits_fn, tf.constant(x[:2])):
        usable = ",".join(name for name, entry in ATTACKS.items() if entry.black_box)
        raise UsageError(
            f"{classifier.name} must be differentiable with respect to the images for these attacks. "
            f"Received: no gradient. Use --attacks={usable}."
        )


def _attack_all(engine, epsilon, say):
    worst, results, runs = Points.unattacked(engine.x, engine.clean_loss), {}, []
    for change in engine.line_up.left_out:
        say(str(change))
    say(f"{'clean':<12}{_percent(~engine.clean_correct)} error")
    for name, components in engine.line_up.suites.items():
        points, entry_runs = engine.attack(
            name, components, epsilon, finished=_reporter(engine, say) if len(components) > 1 else None
        )
        worst.update(np.arange(len(engine.x)), points)
        results[name] = result = _result(engine, points, entry_runs)
        runs += entry_runs
        spent = f"{result.spent.seconds:.1f} s, {result.spent.tracing:.1f} s of them tracing"
        say(f"{NAMES[name].label:<12}{_percent(result.wrong)} error   {spent}")
    return worst, results, runs


def _reporter(engine, say):
    def finished(run, points):
        wrong = ~engine.clean_correct | points.broken
        say(f"  {ATTACKS[run.name].label:<10}{_percent(wrong)} error so far   {run.spent.seconds:.1f} s")

    return finished


def _percent(wrong):
    return f"{100 * wrong.mean():6.2f} %"


def _result(engine, points, runs):
    records = tuple(
        ComponentRecord(run.name, len(run.rows), int(run.points.broken.sum()), run.spent) for run in runs
    )
    return AttackResult(~engine.clean_correct | points.broken, points.broken, points.loss, records)


def _curve(engine, at, worst, grid):
    """Returns the robust accuracy in percent by ε; what is found at one ε counts at every larger one."""
    accuracy = {0.0: engine.clean_correct, at: engine.clean_correct & ~worst.broken}
    everyone, smaller = np.arange(len(engine.x)), Points.unattacked(engine.x, engine.clean_loss)
    for epsilon in sorted(set(map(float, grid)) - accuracy.keys()):
        known = np.flatnonzero(worst.broken & engine.inside(everyone, worst.x_adv, epsilon))
        smaller.update(known, worst.select(known))
        smaller, _ = engine.attack(f"epsilon{epsilon!r}", engine.line_up.components, epsilon, start=smaller)
        accuracy[epsilon] = engine.clean_correct & ~smaller.broken
    return {epsilon: 100.0 * float(accuracy[epsilon].mean()) for epsilon in sorted(accuracy)}


def _warnings_after(runs, examples):
    broken = {run.name: np.zeros(examples, bool) for run in runs}
    for run in runs:
        broken[run.name][run.rows[run.points.broken]] = True
    found = [sanity_checks.black_box_stronger(broken)]
    for name, count in {run.name: run.withdrawn for run in runs if run.withdrawn}.items():
        found.append(
            f"Not counted: {quantity(count, 'example')} broken by {name}. The classifier, asked again, was "
            "right, or the point was outside the ball. "
            "Its outputs are random, or differ with the batch by rounding."
        )
    return [warning for warning in found if warning]


@dataclass(eq=False)
class Points:
    """The worst point known of some examples: a misclassified one, else that of the largest cross-entropy.

    Attributes:
        x_adv: float32 (N, H, W, C).
        broken: (N,) bool, misclassified by an attack.
        loss: (N,) float32, cross-entropy at x_adv in nats.
    """

    x_adv: np.ndarray
    broken: np.ndarray
    loss: np.ndarray

    @classmethod
    def unattacked(cls, x: np.ndarray, loss: np.ndarray) -> "Points":
        """Returns the images themselves, with their clean losses."""
        return cls(x.copy(), np.zeros(len(x), bool), loss.copy())

    def update(self, rows: np.ndarray, found: "Points") -> None:
        """Takes the points `found` for examples `rows` where they are worse; a broken one keeps its own."""
        better = ~self.broken[rows] & (found.broken | (found.loss > self.loss[rows]))
        self.replace(rows[better], found.select(better))

    def replace(self, rows: np.ndarray, points: "Points") -> None:
        """Takes the points for examples `rows`, worse or not."""
        self.x_adv[rows], self.broken[rows], self.loss[rows] = points.x_adv, points.broken, points.loss

    def select(self, rows: np.ndarray) -> "Points":
        """Returns a copy of these rows, given as indices or a mask."""
        return Points(self.x_adv[rows], self.broken[rows], self.loss[rows])


@dataclass(frozen=True, eq=False)
class Stored:
    """Points with what the attack carries from stage to stage and what it cost: one file of state.

    Attributes:
        carried: arrays of one row per example; empty for most attacks.
        stages: how many have been finished.
    """

    points: Points
    carried: tuple[np.ndarray, ...] = ()
    spent: Spent = field(default_factory=Spent)
    stages: int = 0

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns named arrays for an NPZ file."""
        spent = np.array([self.spent.forward, self.spent.backward]), np.array(self.spent.seconds)
        named = dict(zip(("passes", "seconds"), spent, strict=True)) | {"stages": np.array(self.stages)}
        named["tracing"] = np.array(self.spent.tracing)
        carried = {f"carried{number}": array for number, array in enumerate(self.carried)}
        points = {"x_adv": self.points.x_adv, "broken": self.points.broken, "loss": self.points.loss}
        return named | carried | points

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Stored":
        """Reads what `arrays` returned."""
        points = Points(arrays["x_adv"], arrays["broken"], arrays["loss"])
        carried = tuple(arrays[name] for name in sorted(arrays) if name.startswith("carried"))
        tracing = float(arrays.get("tracing", 0.0))  # earlier versions have not measured it
        spent = Spent(*map(int, arrays["passes"]), float(arrays["seconds"]), tracing)
        return cls(points, carried, spent, int(arrays["stages"]))


@dataclass(frozen=True, eq=False)
class ComponentRun:
    """One attack on the examples that were left to it.

    Attributes:
        name: of `advtf.evaluation.attacks.ATTACKS`.
        rows: the examples it attacked.
        points: where it brought them.
        spent: what that cost.
        withdrawn: examples it called broken that the classifier, asked again, gets right, or whose point
            is not in the ball or in [0, 1]; they are not counted as broken.
    """

    name: str
    rows: np.ndarray
    points: Points
    spent: Spent = field(default_factory=Spent)
    withdrawn: int = 0


class _Task(NamedTuple):
    """One attack on some rows of the examples; `label` names its progress bar and its state on disk."""

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
        view: returns what the attacks see in place of `logits_fn`, the same up to rounding. It is called in
            the graph of each attack. What is counted as broken is decided by `logits_fn`.

    Attributes:
        clean_correct: (N,) bool.
        clean_loss: (N,) float32, cross-entropy without attack.
        cache: where finished batches are kept; at first nowhere.
        sharing: who computes which batch; at first this process all of them.
        line_up: the attacks that the settings stand for with the number of classes.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        x: np.ndarray,
        y: np.ndarray,
        num_classes: int,
        settings: AttackSettings,
        view: Callable[[], LogitsFn] | None = None,
    ):
        self.x, self.y, self._settings = x, y, settings
        self.line_up = line_up(settings.attacks, num_classes)
        self._keys = image_keys(x).astype(np.uint32).view(np.int32)
        self._size = min(settings.batch_size, len(x))
        self._compiled = runtime.compiles(settings.jit)
        on_cpu = not (self._compiled or tf.config.list_logical_devices("GPU"))
        self._cores = runtime.cores() if on_cpu else 1
        # Where every operation has one core (`runtime.start`), the others would have nothing to do.
        alone = tf.config.threading.get_intra_op_parallelism_threads() == 1
        self._smallest_part = 1 if alone else SMALLEST_PART
        self._builder = StageBuilder(logits_fn, x.shape[1:], num_classes, settings, self._compiled, view)
        self._stages: dict[str, list[Stage]] = {}
        self._judge = _judge_of(logits_fn, x.shape[1:])
        wrong, self.clean_loss = self._judged(np.arange(len(x)), x)
        self.clean_correct = ~wrong
        self.cache, self.sharing = ResultCache(None, ""), Alone()
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
        """Runs attacks one after another, each on the examples that those before it have left.

        Args:
            entry: name for the progress bar and the state on disk; another one for each call.
            components: names of the attacks.
            epsilon: radius ε.
            start: points known already, inside the ball. Defaults to the clean images.
            finished: called after each attack with what it did and the worst points so far.

        Returns:
            The worst points of all examples, and what each attack did.
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
        if sum(name in suite for suite in self.line_up.suites.values()) > 1:
            self._remembered[key] = run
        return run

    def _confirmed(self, task):
        """Runs an attack, asks the classifier again about what it broke, and takes back what is not so."""
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
        """Runs the stages of an attack that are not on disk yet, and returns where that ended."""
        if task.name not in self._stages:
            self._stages[task.name] = ATTACKS[task.name].stages(self._builder)
        stages, saved = self._stages[task.name], self.cache.get(task.label)
        fresh = Stored(Points.unattacked(self.x[task.rows], self.clean_loss[task.rows]))
        work = Stored.from_arrays(saved) if saved else fresh
        with runtime.progress(desc=task.label, unit="pass", unit_scale=True) as bar:
            while work.stages < len(stages):
                finished = work.stages
                try:
                    work = self._stage(task, work, stages[finished:], bar)
                except StageOver:
                    work = Stored.from_arrays(self.cache.get(task.label))
                    continue
                if self.sharing.leads:
                    self.cache.put(task.label, work.arrays())
                    self.cache.drop(f"{task.label}-{finished}-")
        return work

    def _stage(self, task, work, stages, bar):
        """Runs the first of `stages` on the survivors; the others only tell how much there is to do."""
        points, carried, spent = work.points, work.carried, work.spent
        alive = np.flatnonzero(~points.broken)
        bar.total = bar.n + len(alive) * sum(stage.forward + stage.backward for stage in stages)
        batches = list(self._batches(alive))
        files = [f"{task.label}-{work.stages}-{number}" for number in range(len(batches))]
        seed = self._seed(task.name, 0 if stages[0].continued else work.stages)

        def load(file):
            saved = self.cache.get(file)
            done = Stored.from_arrays(saved) if saved else None
            # Earlier versions have carried something else.
            return done if done and len(done.carried) == stages[0].carries else None

        def compute(number):
            rest = [array[batches[number]] for array in work.carried]
            done = self._attacked(stages[0], task.epsilon, seed, task.rows[batches[number]], rest)
            self.cache.put(files[number], done.arrays())
            return done

        over = self._over(task, work)
        for chosen, done in zip(batches, self.sharing.batches(files, load, compute, over), strict=True):
            points.update(chosen, done.points)
            carried = _scatter(carried, done.carried, chosen, len(task.rows))
            spent += done.spent
            robust = np.count_nonzero(~points.broken) / len(self.x)
            bar.set_postfix_str(f"robust accuracy so far {robust:.1%}", refresh=False)
            bar.update(done.spent.forward + done.spent.backward)
        return Stored(points, carried, spent, work.stages + 1)

    def _over(self, task, work):
        """Returns a function that tells whether the leader has ended the next stage of `work` on disk."""
        before = self.cache.changed(task.label)

        def over():
            if self.sharing.leads or self.cache.changed(task.label) == before:
                return False
            return int(self.cache.get(task.label)["stages"]) > work.stages

        return over

    def _seed(self, name, stage):
        return np.array([self._settings.seed, zlib.crc32(f"{name}/{stage}".encode())], np.int64)

    def _attacked(self, stage: Stage, epsilon, seed, rows, carried):
        began, traced, count = time.monotonic(), self._builder.tracing_seconds, len(rows)

        def attack(part):
            taken = rows[part]
            batch = Batch(
                self.x[taken], self.y[taken], self._keys[taken], tuple(array[part] for array in carried)
            )
            return stage.run(batch, epsilon, seed)

        parts = self._parts(count)
        with ThreadPoolExecutor(len(parts)) as threads:
            result = _joined(list(threads.map(attack, parts)), count)
        points = Points(result.x_adv, result.broken, result.loss)
        forward = count * stage.forward if result.forward is None else int(result.forward.sum())
        seconds, tracing = time.monotonic() - began, self._builder.tracing_seconds - traced
        return Stored(points, result.carried, Spent(forward, count * stage.backward, seconds, tracing))

    def _parts(self, count):
        """Returns the rows of a batch in parts of one size, which are attacked at the same time.

        One part for each core of a CPU: none then waits for the others at the end of each layer.
        """
        # XLA compiles anew for every shape, so a last batch is filled up by repeating it; without XLA it is
        # cheaper as it is, but for parts of one size, for which oneDNN prepares its kernels once.
        parts = min(self._cores, max(count // self._smallest_part, 1))
        size = self._size if self._compiled else -(-count // parts)
        return np.resize(np.arange(count), (parts, size))

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


def _joined(results, count):
    """Returns the results of several parts as one, of the first `count` examples."""

    def join(arrays):
        return None if arrays[0] is None else np.concatenate(arrays)[:count]

    joined = {
        name: join([getattr(result, name) for result in results])
        for name in Result._fields
        if name != "carried"
    }
    carried = tuple(map(join, zip(*(result.carried for result in results), strict=True)))
    return Result(**joined, carried=carried)


def _scatter(arrays, new, rows, count):
    """Puts the new rows into the arrays, made on first use."""
    if len(arrays) != len(new):
        arrays = tuple(np.zeros((count, *values.shape[1:]), values.dtype) for values in new)
    for array, values in zip(arrays, new, strict=True):
        array[rows] = values
    return arrays
