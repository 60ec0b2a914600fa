"""The files an evaluation leaves: numbers (JSON), examples (NPZ), and figures drawn from these."""

import json
import re
from pathlib import Path

import numpy as np

from advtf.classifiers.classifier import Classifier
from advtf.evaluation.report import Evaluation
from advtf.evaluation.run import EvaluateOptions
from advtf.figures import evaluation as evaluation_plots
from advtf.storage.files import write_atomically
from advtf.storage.provenance import provenance
from advtf.storage.rundir import RunDirectory

EXTREMES = 6  # examples in each half of the figure
INTEGER_LIST = re.compile(r"\[\s*\d+(?:,\s*\d+)*\s*\]")


def write(
    evaluation: Evaluation,
    classifier: Classifier,
    x: np.ndarray,
    y: np.ndarray,
    run: RunDirectory,
    options: EvaluateOptions,
) -> list[Path]:
    """Writes examples, evaluation.json and figures.

    Args:
        classifier, x, y: what was evaluated.
        options: name the data set; with `save_examples` every example's worst point is kept, not only those
            of the figure.

    Returns:
        The paths written, evaluation.json first.
    """
    written = []
    run.figures.mkdir(exist_ok=True)
    if options.save_examples:
        written.append(run.all_examples)
        _write_examples(written[-1], evaluation, classifier, x, y, np.arange(len(x)))
    chosen = _extremes(evaluation, x)
    if len(chosen):
        _write_examples(run.examples, evaluation, classifier, x, y, chosen)
        written += [run.examples, run.figures / "extremes.png"]
        evaluation_plots.extremes(run.examples, written[-1])
    source = {"path": options.model, "dataset": options.dataset}
    _write_numbers(run.evaluation, provenance() | source | evaluation.to_json())
    if len(evaluation.curve) > 2:  # more than ε = 0 and the ε evaluated
        written.append(run.figures / "robust_accuracy.png")
        evaluation_plots.robust_accuracy(run.evaluation, written[-1])
    return [run.evaluation, *written]


def _extremes(evaluation, x):
    """Rows of the broken examples with the smallest l2 perturbations, then of those with the largest."""
    broken = np.flatnonzero(evaluation.worst_case.broken)
    order = broken[np.argsort(_sizes(evaluation.adversarial[broken], x[broken]), kind="stable")]
    half = min(EXTREMES, len(order) // 2)
    return np.concatenate([order[:half], order[len(order) - half :]])


def _sizes(x_adv, x):
    return np.sqrt(np.sum(np.square(x_adv - x), axis=(1, 2, 3), dtype=np.float64))


def _write_examples(path, evaluation, classifier, x, y, rows):
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
