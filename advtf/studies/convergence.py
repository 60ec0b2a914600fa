"""The study ``convergence``: how many steps PGD needs, by adversarial variance and robust accuracy.

Li & Spratling 2023, appendix A1 and figure A1, which justify PGD-50 as the reference of effectiveness. Steps
are ε/4 long, from the same random starts.
"""

from pathlib import Path

import numpy as np

from advtf.attacks.pgd import pgd
from advtf.figures.input_experiments import pgd_convergence
from advtf.landscape.input_hessian import exact_cross_entropy
from advtf.landscape.inputs import REFERENCE_STEP
from advtf.landscape.objective import adversarial_examples, batches
from advtf.landscape.statistics import estimate
from advtf.studies.context import StudyContext
from advtf.studies.strength import kept


def run(context: StudyContext) -> list[Path]:
    """Writes convergence.json and convergence.png, and tells a line for each number of steps.

    Raises:
        UsageError: a folder with the state of another study.
    """
    splits = context.splits
    images = [part for pair in splits.values() for part in pair]
    cache = context.cache(context.classifiers[0].parameters.value(), *images)
    context.say(f"{'':<8}{'steps':>6}{'AV':>10}{'±':>9}{'robust accuracy (%)':>22}")
    records = {}
    for split, pair in splits.items():
        for steps in context.settings.convergence_steps:
            name = f"{split} {steps}"
            make = lambda split=split, pair=pair, steps=steps: _attacked(context, split, pair, steps)  # noqa: E731
            records[name] = found = kept(cache, name.replace(" ", "-"), make)
            error = found["av"]["standard_error"]
            context.say(
                f"{split:<8}{steps:>6}{found['av']['mean']:>10.5f}"
                f"{np.nan if error is None else error:>9.5f}{found['accuracy']:>22.2f}"
            )
    about = context.about.replaced(attack=None).to_json()
    results = context.write_json("convergence", {"about": about, "records": records})
    return [results, pgd_convergence(results, context.folder / "convergence.png")]


def _attacked(context, split, pair, steps):
    """Returns mean adversarial variance and robust accuracy of PGD with this number of steps."""
    (x, y), settings, classifier = pair, context.settings, context.classifiers[0]
    x_adv = adversarial_examples(
        classifier,
        x,
        y,
        pgd(settings.norm, steps, REFERENCE_STEP),
        context.epsilon,
        seed=settings.seed,
        batch_size=settings.batch_size,
        label=f"{split}, {steps} steps",
    )
    (clean, right), (robust, still) = (
        _outcome(classifier, images, y, settings.batch_size) for images in (x, x_adv)
    )
    accuracy = 100.0 * float(np.mean(right & still))
    return {"split": split, "steps": steps, "av": estimate(robust - clean).to_json(), "accuracy": accuracy}


def _outcome(classifier, x, y, size):
    """Returns cross-entropy float64 (N,) and whether each image is classified correctly."""
    logits = np.concatenate([classifier.logits_fn(images).numpy() for images, _ in batches(x, y, size)])
    return exact_cross_entropy(y, logits).numpy(), logits.argmax(axis=1) == y
