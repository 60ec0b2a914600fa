"""The study ``similarity``: perturbations at θ ± a·v, v the top eigenvector or random.

Liu et al. 2020, section 4.2, figures 4 and 10.
"""

import functools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from advtf import runtime
from advtf.classifiers.parameters import unit_direction
from advtf.figures.similarity import perturbation_similarity
from advtf.landscape.similarity import PerturbationSimilarity
from advtf.settings.threat import format_epsilon
from advtf.studies.context import StudyContext
from advtf.studies.eigenvectors import top_eigenvectors

DIRECTIONS = ("eigenvector", "random")
RUN_STRIDE = 1_000_003  # between the seeds of runs, so that they do not meet those of the next seeds


def run(context: StudyContext) -> list[Path]:
    """Writes similarity.npz, similarity.json and similarity.png, and tells the table.

    Runs differ in the random starts and in the random direction.

    Raises:
        UsageError: a folder with the state of another study.
    """
    pairs = [top_eigenvectors(context, number, 1) for number in range(len(context.classifiers))]
    splits = context.splits
    arrays = _measured(context, splits, [vectors[:, 0] for _, vectors in pairs]) | {
        "offsets": np.array(context.settings.offsets, np.float64),
        "models": np.array([classifier.name for classifier in context.classifiers]),
        "splits": np.array(list(splits)),
        "directions": np.array(DIRECTIONS),
        "eigenvalues": np.array([values[0] for values, _ in pairs]),
        "examples": np.array([len(y) for _, y in splits.values()]),
        "epsilon": np.float64(context.epsilon),
    }
    for line in _table(arrays):
        context.say(line)
    results = context.write_arrays("similarity", **arrays)
    record = context.write_json("similarity", _record(arrays))
    figure = perturbation_similarity({"": results}, context.folder / "similarity.png")
    return [record, results, figure]


def _measured(context: StudyContext, splits: dict, eigenvectors: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns arrays with the axes model, split, run, direction, sign where there is one, and length a."""
    settings, classifiers = context.settings, context.classifiers
    known = [*(classifier.parameters.value() for classifier in classifiers), *eigenvectors]
    images = [part for pair in splits.values() for part in pair]
    cache = context.cache(*known, *images)
    per_run = len(DIRECTIONS) * len(settings.offsets)
    axes = len(classifiers), len(splits), settings.runs
    runs = []
    with runtime.progress(total=math.prod(axes) * per_run, desc="similarity") as shown:
        for name, measure in _runs(context, splits, eigenvectors, shown):
            outcome = cache.get(name)
            if outcome is None:
                cache.put(name, outcome := measure())
            else:
                shown.update(per_run)
            runs.append(outcome)
    stacked = {name: np.stack([outcome[name] for outcome in runs]) for name in runs[0]}
    return {name: values.reshape(*axes, *values.shape[1:]) for name, values in stacked.items()}


def _runs(context, splits, eigenvectors, shown):
    """Yields the name of every run, and the function that measures it."""
    compute = {"batch_size": context.settings.batch_size, "jit_compile": context.jit_compile}
    for number, (classifier, eigenvector) in enumerate(zip(context.classifiers, eigenvectors, strict=True)):
        for split, (x, y) in splits.items():
            probe = PerturbationSimilarity(classifier, x, y, context.attack, context.epsilon, **compute)
            for index in range(context.settings.runs):
                measure = functools.partial(_one_run, context, classifier, probe, eigenvector, index, shown)
                yield f"model{number}-{split}-run{index}", measure


def _one_run(context, classifier, probe, eigenvector, index, shown):
    settings = context.settings
    seed = settings.seed + index * RUN_STRIDE
    directions = eigenvector, unit_direction(classifier.parameters, seed)
    found = [
        probe.along(direction, settings.offsets, seed=seed, report=lambda done, total: shown.update(1))
        for direction in directions
    ]
    parts = ("similarity", "left_out", "loss", "error")
    outcome = {name: np.stack([getattr(part, name) for part in found]) for name in parts}
    return outcome | {"between_starts": probe.between_starts(seed, seed + settings.runs * RUN_STRIDE)}


def _summary(arrays, model, split, direction):
    """Returns means over the runs and both signs of a, and variances over the runs."""
    index = model, split, slice(None), direction
    similarity, error = arrays["similarity"][index], arrays["error"][index].mean(axis=1)
    several = len(similarity) > 1
    return {
        "similarity": similarity.mean(axis=0),
        "similarity_variance": similarity.var(axis=0, ddof=1) if several else None,
        "left_out": arrays["left_out"][index].sum(axis=0),
        "robust_error": error.mean(axis=0),
        "robust_error_variance": error.var(axis=0, ddof=1) if several else None,
        "loss": arrays["loss"][index].mean(axis=(0, 1)),
    }


def _record(arrays):
    splits, directions = arrays["splits"].tolist(), arrays["directions"].tolist()
    models = [
        {
            "name": name,
            "eigenvalue": arrays["eigenvalues"][number],
            "between_starts": dict(zip(splits, arrays["between_starts"][number].mean(axis=1), strict=True)),
        }
        | {
            direction: {split: _summary(arrays, number, s, d) for s, split in enumerate(splits)}
            for d, direction in enumerate(directions)
        }
        for number, name in enumerate(arrays["models"].tolist())
    ]
    examples = dict(zip(splits, arrays["examples"], strict=True))
    runs = arrays["similarity"].shape[2]
    return {"offsets": arrays["offsets"], "runs": runs, "examples": examples, "models": models}


def _table(arrays) -> Iterator[str]:
    record = _record(arrays)
    averaged = f", mean of {record['runs']} runs" if record["runs"] > 1 else ""
    epsilon = format_epsilon(arrays["epsilon"])
    yield f"Cosine of the perturbations at θ ± a·v and robust error in %, ε {epsilon}{averaged}"
    yield f"{'a':<31}" + "".join(f"{offset:>9.3g}" for offset in record["offsets"])
    for model in record["models"]:
        yield f"{model['name']}, top eigenvalue {model['eigenvalue']:.4g}"
        for direction in DIRECTIONS:
            for split, values in model[direction].items():
                label = f"  {direction}, {split}"
                yield f"{label:<24}{'cosine':<7}" + _cells(values["similarity"], ".4f")
                yield f"{'':<24}{'error':<7}" + _cells(values["robust_error"], ".2f")
        for split, value in model["between_starts"].items():
            yield f"  Two random starts at θ itself, {split}: cosine {value:.4f}."
    yield from _remarks(arrays, record)


def _cells(values, form):
    return "".join(f"{value:>9{form}}" for value in values)


def _remarks(arrays, record):
    if record["runs"] > 1:
        variance = arrays["similarity"].var(axis=2, ddof=1)
        yield f"Largest variance of a cosine over the runs: {np.nanmax(variance, initial=0):.2g}."
    if arrays["left_out"].any():
        share = 100 * np.mean(arrays["left_out"] / arrays["examples"][:, None, None, None])
        yield (
            f"{arrays['left_out'].sum()} cosines ({share:.2g} %) are undefined, as a perturbation is zero, "
            "and left out of the means."
        )
