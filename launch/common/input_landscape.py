"""Experiments on the input loss landscape (Li & Spratling 2023, section 4 and appendix A).

What they share: options, the classifier with its images, results that are written one by one so that a
stopped experiment continues (`Records`), and the measures of a classifier at its present weights
(`Landscape`).
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from launch.common import arguments


def parser(description, *, examples=2000, split="train"):
    """Returns a parser with the options that every one of these experiments has.

    Args:
        description: text of ``--help``.
        examples: default of `num_examples`.
        split: default of `split`.
    """
    made = arguments.parser(description)
    made.add_argument("--model", required=True, help="an exported classifier")
    made.add_argument("--out", required=True, help="folder of the results; what is there is not repeated")
    made.add_argument("--data_dir", help="folder of prepared data sets")
    made.add_argument("--eps", help="default: that of the model's training")
    made.add_argument("--split", choices=("train", "test"), default=split)
    made.add_argument("--num_examples", type=int, default=examples, help="first images of the split")
    made.add_argument("--batch_size", type=int, default=250)
    made.add_argument("--seed", type=int, default=0)
    return made


def add_spectrum(made, examples):
    """Adds the options of the input Hessian's spectrum."""
    made.add_argument("--hs_examples", type=int, default=examples, help="first images of these, for HS")
    made.add_argument("--eigenvalues", type=int, default=20)


def load(chosen):
    """Starts TensorFlow and returns (classifier, images, settings) of the model and the images chosen.

    Returns:
        The classifier; images with the arrays x, y, x_test, y_test; the `AnalyzeSettings` with what follows
        from the model's training.

    Raises:
        UsageError: the model or the images cannot be loaded, or ε is 0.
    """
    from advtf.classifiers.manifest import require_dataset, require_saved_model, training_settings
    from advtf.errors import UsageError
    from advtf.runtime import start
    from advtf.studies import run as analysis_run
    from advtf.studies.settings import AnalyzeOptions, AnalyzeSettings

    require_saved_model(chosen.model)
    names = ("eps", "split", "num_examples", "batch_size", "seed")
    given = {name: getattr(chosen, name) for name in names}
    settings = AnalyzeSettings(model=(chosen.model,), **given)
    settings = dataclasses.replace(settings, dataset=require_dataset(None, chosen.model))
    settings = analysis_run.completed(settings, training_settings(chosen.model))
    if not settings.eps:
        raise UsageError("eps must be above 0. Received: eps=0, as in training. Pass --eps=0.1 for example.")
    start("float32", "off")
    images = analysis_run.load(settings, AnalyzeOptions(data_dir=chosen.data_dir), Path(), print)
    return images.classifiers[0], images, settings


def identity(images, settings, chosen, *names):
    """Returns what determines the numbers of an experiment.

    Args:
        images, settings: what `load` returned.
        chosen: the options.
        *names: of the options that matter to this experiment beside the shared ones.
    """
    shared = ("dataset", "norm", "eps", "split", "num_examples", "seed")
    record = {name: getattr(settings, name) for name in shared}
    record["material"] = images.identity()  # the name that result files have had from the beginning
    return record | {name: getattr(chosen, name) for name in names}


def about(images):
    """Returns what figures say of the data; each figure names its attacks itself."""
    return images.about.replaced(attack=None)


class Records:
    """Results by name in one JSON file, which is rewritten after each, so that a killed experiment continues.

    Attributes:
        found: the records by name, those of the file to begin with.
        more: entries of the file beside the records.

    Args:
        path: of the file.
        settings: JSON values; the records in the file must have been made with the same.
        told: what `about` returned, for the headings of figures. Defaults to nothing.

    Raises:
        UsageError: the file is damaged, or was made with other settings.
    """

    def __init__(self, path, settings, told=None):
        from advtf.storage.files import jsonable

        self.path, self.settings = Path(path), jsonable(settings, "settings")
        self.more = {"about": told.to_json()} if told else {}
        self.found = self._stored()

    def _stored(self):
        from advtf.errors import UsageError

        if not self.path.exists():
            return {}
        try:
            content = json.loads(self.path.read_text())
            settings, records = content["settings"], content["records"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{self.path} must be a whole result file. Received: {error!r}. Remove it."
            ) from None
        if settings != self.settings:
            names = self.settings.keys() | settings.keys()
            other = sorted(name for name in names if settings.get(name) != self.settings.get(name))
            raise UsageError(
                f"{self.path} must continue with the settings it was begun with. Received: another "
                f"{', '.join(other)}. Choose another --out."
            )
        return records

    def measured(self, name, measure):
        """Returns the record of this name; if there is none, calls `measure` for it and writes it."""
        if name not in self.found:
            self.found[name] = measure()
            self.write()
        return self.found[name]

    def write(self):
        """Writes the file, with the entries of `more` beside the records."""
        from advtf.storage.files import jsonable, provenance, write_json

        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"settings": self.settings, "records": self.found} | self.more
        write_json(self.path, provenance() | jsonable(content, self.path.stem))


class Landscape:
    """IG, HS, and the effectiveness of FGSM, PGD10 and other attacks, at the classifier's present weights.

    Its graphs are built once and serve every variant of the classifier.
    """

    def __init__(self, classifier, images, settings, *, hs_examples=None, eigenvalues=20):
        from advtf.attacks.pgd import fgsm, pgd
        from advtf.landscape.inputs import InputMeter

        self.classifier, self.settings = classifier, settings
        self.x, self.y = images.x, images.y
        norm = settings.norm
        self.meter = InputMeter(
            classifier.logits_fn, self.x.shape[1:], settings.eps, attack=fgsm(norm), norm=norm,
            seed=settings.seed, batch_size=settings.batch_size,
            eigenvalues=eigenvalues, hs_examples=hs_examples,
        )  # fmt: skip
        self.pgd10, self.pgd50 = (self.variance(pgd(norm, steps, 0.25)) for steps in (10, 50))

    def variance(self, attack):
        """Returns a function () -> (N,), the adversarial variance of an attack at the present weights."""
        import tensorflow as tf

        from advtf.attacks.random import image_keys
        from advtf.landscape.inputs import variance_graph

        spec, settings = tf.TensorSpec((None, *self.x.shape[1:]), tf.float32), self.settings
        graph = variance_graph(self.classifier.logits_fn, spec, attack, settings.eps, settings.seed)

        def measure():
            keys, size = image_keys(self.x), settings.batch_size
            parts = [slice(start, start + size) for start in range(0, len(self.x), size)]
            return np.concatenate([graph(self.x[p], self.y[p], keys[p]).numpy() for p in parts])

        return measure

    def per_image(self):
        """Returns `InputMeasures` with FGSM assessed, and the adversarial variance (N,) of PGD10."""
        return self.meter(self.x, self.y), self.pgd10()

    def __call__(self):
        """Returns means with standard errors of loss, ig, hs, fgsm and pgd10 (effectiveness)."""
        from advtf.landscape.statistics import estimate

        measures, variance = self.per_image()
        summary, kept = measures.summary(), measures.assessable
        shown = {name: summary[name] for name in ("loss", "ig", "hs")}
        return shown | {
            "fgsm": summary["effectiveness"],
            "pgd10": estimate(variance[kept] / measures.av_reference[kept]).to_json(),
        }

    def effectiveness(self, variance):
        """Returns the mean effectiveness of an attack, or None where it is defined for no image.

        Args:
            variance: what the method `variance` made of the attack.
        """
        from advtf.landscape.inputs import NEGLIGIBLE_VARIANCE
        from advtf.landscape.statistics import estimate

        reference = self.pgd50()
        kept = reference > NEGLIGIBLE_VARIANCE
        return estimate(variance()[kept] / reference[kept]).to_json()["mean"]


def line(label, measures):
    """Returns one line of a table of `Landscape` measures."""
    values = [measures[name]["mean"] for name in ("ig", "hs", "fgsm", "pgd10")]
    return f"{label:<16}" + "".join(f"{'–':>10}" if v is None else f"{v:>10.4g}" for v in values)


HEADER = f"{'':<16}{'IG':>10}{'HS':>10}{'FGSM':>10}{'PGD10':>10}"
