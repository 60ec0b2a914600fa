"""What an evaluation found and what it cost: as a table, as JSON, and as the files of a run.

The figures are drawn from the files that `write` has written before. Imports no TensorFlow.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advtf.errors import quantity
from advtf.evaluation.attacks import NAMES, LeftOut
from advtf.evaluation.settings import AttackSettings
from advtf.settings.threat import format_epsilon
from advtf.storage.files import provenance, write_atomically
from advtf.storage.run_directory import RunDirectory

if TYPE_CHECKING:
    from advtf.classifiers.classifier import Classifier

EXTREMES = 6  # examples in each half of the figure
INTEGER_LIST = re.compile(r"\[\s*\d+(?:,\s*\d+)*\s*\]")


@dataclass(frozen=True)
class Spent:
    """What an attack cost: passes through the classifier, each counted per image, and seconds.

    `seconds` are all of them; `tracing` are those in which TensorFlow built the attack's graph, once for any
    number of images.
    """

    forward: int = 0
    backward: int = 0
    seconds: float = 0.0
    tracing: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        passes = self.forward + other.forward, self.backward + other.backward
        return Spent(*passes, self.seconds + other.seconds, self.tracing + other.tracing)


@dataclass(frozen=True)
class ComponentRecord:
    """One attack of a suite: the number of examples it was given and broke, and what it cost."""

    name: str
    attacked: int
    broken: int
    spent: Spent


@dataclass(frozen=True, eq=False)
class AttackResult:
    """One attack, or suite, on every example that is classified correctly without attack.

    Attributes:
        wrong: (N,) bool, misclassified without attack or with it.
        broken: (N,) bool, misclassified only with it.
        loss: (N,) float32, cross-entropy at the point kept: the misclassified one, else the worst.
        components: of a suite, in order; of a single attack, itself.
    """

    wrong: np.ndarray
    broken: np.ndarray
    loss: np.ndarray
    components: tuple[ComponentRecord, ...] = ()

    @property
    def error(self) -> float:
        """Percent misclassified."""
        return 100.0 * float(self.wrong.mean())

    @property
    def spent(self) -> Spent:
        """What all components cost together."""
        return sum((record.spent for record in self.components), Spent())

    def to_json(self) -> dict:
        """Returns the record of `evaluation.json`."""
        found = {"error": self.error, "mean_loss": _finite_mean(self.loss), **_cost(self.spent)}
        if len(self.components) > 1:
            found["components"] = {
                part.name: {"attacked": part.attacked, "broken": part.broken, **_cost(part.spent)}
                for part in self.components
            }
        return found | {"broken": np.flatnonzero(self.broken).tolist()}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All numbers of one evaluation; printing it gives the table.

    Attributes:
        model: the classifier's name.
        settings: what determined the numbers.
        images: their number, and the SHA-256 that tells which they were; see `advtf.data.sets.Split.sha256`.
        clean: without attack.
        attacks: name in `settings.attacks` -> its result.
        worst_case: over all of them, for each example.
        adversarial: float32 (N, H, W, C), the worst point of each example.
        curve: ε -> robust accuracy in percent, at ε = 0, at the ε of the settings and at those of the grid.
        warnings: signs that the numbers flatter the classifier.
        left_out: attacks of suites that are not defined for so few classes, and what ran in their place.
    """

    model: str
    settings: AttackSettings
    images: Mapping[str, Any]
    clean: AttackResult
    attacks: Mapping[str, AttackResult]
    worst_case: AttackResult
    adversarial: np.ndarray
    curve: Mapping[float, float]
    warnings: Sequence[str]
    left_out: Sequence[LeftOut] = ()

    @property
    def clean_error(self) -> float:
        """Percent misclassified without attack."""
        return self.clean.error

    @property
    def robust_error(self) -> float:
        """Percent misclassified without attack or by any of the attacks."""
        return self.worst_case.error

    def to_json(self) -> dict:
        """Returns the numbers of `evaluation.json`; errors in percent, losses in nats, passes per image."""
        return {
            "model": self.model,
            "norm": self.settings.norm,
            "epsilon": self.settings.eps,
            "seed": self.settings.seed,
            "settings": self.settings.to_json(),
            "examples": len(self.clean.wrong),
            "images": dict(self.images),
            "clean": {
                "error": self.clean_error,
                "mean_loss": _finite_mean(self.clean.loss),
                "wrong": np.flatnonzero(self.clean.wrong).tolist(),
            },
            "attacks": {name: result.to_json() for name, result in self.attacks.items()},
            "left_out": [change.to_json() for change in self.left_out],
            "worst_case": {
                "error": self.robust_error,
                "mean_loss": _finite_mean(self.worst_case.loss),
                "broken": np.flatnonzero(self.worst_case.broken).tolist(),
            },
            "robust_accuracy_by_epsilon": [
                {"epsilon": epsilon, "robust_accuracy": accuracy} for epsilon, accuracy in self.curve.items()
            ],
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        settings = self.settings
        columns = {"clean": self.clean_error} | {
            NAMES[name].label: result.error for name, result in self.attacks.items()
        }
        if len(self.attacks) > 1:
            columns["worst case"] = self.robust_error
        width = max(len(self.model), 5)
        wide = {name: max(len(name), len("100.00")) + 3 for name in columns}
        head = f"{'model':<{width}}" + "".join(f"{name:>{wide[name]}}" for name in columns)
        row = f"{self.model:<{width}}" + "".join(f"{v:>{wide[name]}.2f}" for name, v in columns.items())
        ball = f"{settings.norm}, ε {format_epsilon(settings.eps)}"
        title = f"Error in % of {quantity(len(self.clean.wrong), 'image')} ({ball})"
        return "\n".join([title, head, row, *map(str, self.left_out)])


def _cost(spent):
    passes = {"forward_passes": spent.forward, "backward_passes": spent.backward}
    return passes | {"seconds": round(spent.seconds, 3), "tracing_seconds": round(spent.tracing, 3)}


def _finite_mean(values):
    mean = float(np.mean(values, dtype=np.float64))
    return mean if np.isfinite(mean) else None  # JSON has no infinity


@dataclass(frozen=True)
class EvaluationDirectory(RunDirectory):
    """The directory of an evaluation."""

    kind = "evaluation"
    command = "evaluate"
    own_files = ("evaluation.json", "examples.npz", "adversarial_examples.npz", "config.json")
    own_folders = ("figures", "state")
    own_result = "attacks"

    @property
    def examples(self) -> Path:
        """The broken test images with the smallest and the largest perturbations, with predictions (NPZ)."""
        return self.path / "examples.npz"

    @property
    def all_examples(self) -> Path:
        """Every image at its worst point (NPZ), where `save_examples` is set."""
        return self.path / "adversarial_examples.npz"

    @property
    def attacked(self) -> Path:
        """Batches that an unfinished evaluation has attacked."""
        return self.path / "state"

    @property
    def figures(self) -> Path:
        """PNG figures drawn from the files above."""
        return self.path / "figures"

    def kept(self) -> str:
        """Returns how much of the attacks is finished."""
        files = sum(1 for _ in self.attacked.glob("*.npz"))
        return f"{quantity(files, 'finished part')} of the attacks" if files else ""


def write(
    evaluation: Evaluation,
    classifier: "Classifier",
    x: np.ndarray,
    y: np.ndarray,
    run: EvaluationDirectory,
    *,
    source: Mapping[str, str | None],
    all_examples: bool = False,
) -> list[Path]:
    """Writes the examples of the figure, evaluation.json and figures drawn from these.

    Args:
        evaluation: what was found.
        classifier, x, y: what was evaluated: images float32 (N, H, W, C) and labels (N,).
        run: where the files go.
        source: where the classifier and the images came from, for evaluation.json.
        all_examples: also keep the worst point of every example.

    Returns:
        The paths written, evaluation.json first.
    """
    from advtf.figures import evaluation as figures
    from advtf.figures.results import Conditions

    settings = evaluation.settings
    about = Conditions(
        dataset=source.get("dataset"),
        images={"test": len(x)},
        attack=", ".join(NAMES[name].label for name in evaluation.attacks),
        norm=settings.norm,
        epsilon=settings.eps,
    )
    written = []
    run.figures.mkdir(exist_ok=True)
    if all_examples:
        written.append(run.all_examples)
        _write_examples(written[-1], evaluation, classifier, x, y, np.arange(len(x)), about)
    chosen = _extremes(evaluation, x)
    if len(chosen):
        _write_examples(run.examples, evaluation, classifier, x, y, chosen, about)
        written += [run.examples, run.figures / "extremes.png"]
        figures.extremes(run.examples, written[-1])
    numbers = run.path / f".{run.results.name}.drawn.partial"  # the results' own name says that all is done
    try:
        record = provenance() | source | evaluation.to_json() | {"about": about.to_json()}
        _write_numbers(numbers, record)
        if len(evaluation.curve) > 2:  # more than ε = 0 and the ε evaluated
            written.append(run.figures / "robust_accuracy.png")
            figures.robust_accuracy(numbers, written[-1])
        os.replace(numbers, run.results)
    finally:
        numbers.unlink(missing_ok=True)
    return [run.results, *written]


def _extremes(evaluation, x):
    """Rows of the broken examples with the smallest l2 perturbations, then of those with the largest."""
    broken = np.flatnonzero(evaluation.worst_case.broken)
    order = broken[np.argsort(_sizes(evaluation.adversarial[broken], x[broken]), kind="stable")]
    half = min(EXTREMES, len(order) // 2)
    return np.concatenate([order[:half], order[len(order) - half :]])


def _sizes(x_adv, x):
    return np.sqrt(np.sum(np.square(x_adv - x), axis=(1, 2, 3), dtype=np.float64))


def _write_examples(path, evaluation, classifier, x, y, rows, about):
    clean, adversarial = x[rows], evaluation.adversarial[rows]
    size = evaluation.settings.batch_size
    arrays = {
        "index": rows,
        "clean": clean,
        "adversarial": adversarial,
        "labels": y[rows],
        "broken": evaluation.worst_case.broken[rows],
        "clean_predictions": _predictions(classifier, clean, size),
        "adversarial_predictions": _predictions(classifier, adversarial, size),
        "l2_sizes": _sizes(adversarial, clean),
        "epsilon": np.float64(evaluation.settings.eps),
        "about": about.array(),
    }
    write_atomically(path, lambda file: np.savez(file, **arrays))


def _predictions(classifier, images, size):
    parts = range(0, len(images), size)
    return np.concatenate([np.asarray(classifier.logits_fn(images[i : i + size])).argmax(-1) for i in parts])


def _write_numbers(path, content):
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    # Thousands of broken examples stay on one line.
    text = INTEGER_LIST.sub(
        lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text
    )
    write_atomically(path, lambda file: file.write(f"{text}\n".encode()))
