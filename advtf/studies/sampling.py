"""The study ``sampling``: how many images a measure needs, by the means of random subsets.

Li & Spratling 2023, appendix A3 and figure A3. IG, HS and the effectiveness of FGSM and PGD-10 are measured
of each image of `x`; then random subsets of growing size are drawn.
"""

from pathlib import Path

import numpy as np

from advtf.errors import UsageError
from advtf.figures.input_experiments import sampling_faithfulness
from advtf.landscape.statistics import subset_means
from advtf.studies.context import StudyContext
from advtf.studies.strength import MEASURES, Strength, batches, kept


def run(context: StudyContext) -> list[Path]:
    """Writes sampling.json, sampling.npz and sampling.png, and tells how far the means stray.

    The measures are kept batch by batch.

    Raises:
        UsageError: a classifier that does not react to its input, or without second derivatives; or a folder
            with the state of another study.
    """
    values = _measured(context)
    settings, arrays, record = context.settings, {}, {}
    context.say(f"{'':<8}{'mean':>10}  largest deviation of the mean of n images, %: n =")
    for name in MEASURES:
        found = values[name]
        if not found.any():
            raise UsageError(
                f"the classifier must react to its input. Received: {context.classifiers[0].name}, whose "
                f"{name} is 0 or undefined for every image; is it a constant classifier?"
            )
        sizes = [size for size in settings.sizes if size <= len(found)] or [len(found)]
        means = subset_means(found, sizes, settings.trials, settings.seed)
        arrays |= {f"{name}_values": found, f"{name}_sizes": np.array(sizes), f"{name}_means": means}
        strays = np.abs(means / found.mean() - 1).max(axis=0)
        record[name] = {"mean": found.mean(), "images": len(found), "sizes": sizes, "largest": strays}
        shown = "".join(f"{n:>8}: {100 * stray:<5.3g}" for n, stray in zip(sizes, strays, strict=True))
        context.say(f"{name:<8}{found.mean():>10.4g}{shown}")
    told = context.about.only("train", "test").replaced(attack=None)
    results = context.write_arrays("sampling", told, **arrays)
    summary = context.write_json("sampling", {"trials": settings.trials, "measures": record})
    return [summary, results, sampling_faithfulness(results, context.folder / "sampling.png")]


def _measured(context) -> dict[str, np.ndarray]:
    """Returns the values of each measure, of the images for which it is defined."""
    size = context.settings.batch_size
    strength = Strength(context, context.x[:size], context.y[:size])
    cache = context.cache(context.classifiers[0].parameters.value(), context.x, context.y)
    parts = []
    for part in batches(len(context.x), size):
        strength.x, strength.y = context.x[part], context.y[part]
        parts.append(kept(cache, str(part.start), lambda: _image_values(strength)))
    return {name: np.concatenate([part[name] for part in parts]) for name in MEASURES}


def _image_values(strength) -> dict[str, list[float]]:
    """Returns lists; the effectiveness only of the images for which it is defined."""
    measures, variance = strength.per_image()
    defined = measures.assessable
    found = {"fgsm": measures.av, "pgd10": variance}
    ratios = {name: (av[defined] / measures.av_reference[defined]).tolist() for name, av in found.items()}
    return {"ig": measures.ig.tolist(), "hs": measures.hs.tolist()} | ratios
