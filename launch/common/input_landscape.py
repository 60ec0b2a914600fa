"""What the experiments of Li & Spratling 2023, section 4 and appendix A, share; not a script."""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np


def parser(description, *, examples=2000, split="train"):
    """Returns a parser with the arguments of every one of these experiments."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--model", required=True, help="an exported classifier")
    made.add_argument("--out", required=True, help="folder of the results; what is there is not repeated")
    made.add_argument("--data_dir")
    made.add_argument("--eps", help="default: that of the model's training")
    made.add_argument("--split", choices=("train", "test"), default=split)
    made.add_argument("--num_examples", type=int, default=examples, help="first images of the split")
    made.add_argument("--batch_size", type=int, default=250)
    made.add_argument("--seed", type=int, default=0)
    return made


def add_spectrum(made, examples):
    """Adds the arguments of the input Hessian's spectrum."""
    made.add_argument("--hs_examples", type=int, default=examples, help="first images of these, for HS")
    made.add_argument("--eigenvalues", type=int, default=20)


def load(chosen):
    """Starts TensorFlow and returns (classifier, material, settings) of the model and the images chosen.

    Raises:
        UsageError: they cannot be had, or ε is 0.
    """
    from advtf.errors import UsageError
    from advtf.runtime import start
    from advtf.settings import planning
    from advtf.studies import run as analysis_run
    from advtf.studies.settings import AnalyzeOptions, AnalyzeSettings

    planning.require_saved_model(chosen.model)
    names = ("eps", "split", "num_examples", "batch_size", "seed")
    given = {name: getattr(chosen, name) for name in names}
    settings = AnalyzeSettings(model=(chosen.model,), **given)
    settings = dataclasses.replace(settings, dataset=planning.require_dataset(None, chosen.model))
    settings = analysis_run.completed(settings, planning.training_settings(chosen.model))
    if not settings.eps:
        raise UsageError("eps must be above 0. Received: eps=0, as in training. Pass --eps=0.1 for example.")
    start("float32", "off")
    material = analysis_run.load(settings, AnalyzeOptions(data_dir=chosen.data_dir))
    return material.classifiers[0], material, settings


def identity(material, settings, chosen, *names):
    """Returns what determines the numbers of an experiment: of the material, and these of its arguments."""
    shared = ("dataset", "norm", "eps", "split", "num_examples", "seed")
    record = {name: getattr(settings, name) for name in shared} | {"material": material.identity()}
    return record | {name: getattr(chosen, name) for name in names}


class Records:
    """Results by name in one JSON file, which is rewritten after each: a killed experiment continues.

    Args:
        path: of the file.
        settings: JSON values that must be those of the records there.

    Raises:
        UsageError: the file is damaged, or of other settings.
    """

    def __init__(self, path, settings):
        from advtf.storage.provenance import jsonable

        self.path, self.settings, self.more = Path(path), jsonable(settings, "settings"), {}
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
        """Returns the record of this name; measures, writes and reports it if it is not there."""
        if name not in self.found:
            self.found[name] = measure()
            self.write()
        return self.found[name]

    def write(self):
        """Writes the file, with the entries of `more` beside the records."""
        from advtf.storage.files import write_json
        from advtf.storage.provenance import jsonable, provenance

        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"settings": self.settings, "records": self.found} | self.more
        write_json(self.path, provenance() | jsonable(content, self.path.stem))


class Landscape:
    """IG, HS, and the effectiveness of FGSM, PGD10 and other attacks, at the weights the classifier has then.

    Its graphs are built once and serve every variant of the classifier.
    """

    def __init__(self, classifier, material, settings, *, hs_examples=None, eigenvalues=20):
        from advtf.attacks.pgd import fgsm, pgd
        from advtf.landscape.inputs import InputMeter

        self.classifier, self.settings = classifier, settings
        self.x, self.y = material.x, material.y
        norm = settings.norm
        self.meter = InputMeter(
            classifier.logits_fn, self.x.shape[1:], settings.eps, attack=fgsm(norm), norm=norm,
            seed=settings.seed, batch_size=settings.batch_size,
            eigenvalues=eigenvalues, hs_examples=hs_examples,
        )  # fmt: skip
        self.pgd10, self.pgd50 = (self.variance(pgd(norm, steps, 0.25)) for steps in (10, 50))

    def variance(self, attack):
        """Builds () -> the adversarial variance (N,) of an attack, at the images and weights of the call."""
        import tensorflow as tf

        from advtf.attacks.random import image_keys
        from advtf.landscape.input_graphs import variance_graph

        images, settings = tf.TensorSpec((None, *self.x.shape[1:]), tf.float32), self.settings
        graph = variance_graph(self.classifier.logits_fn, images, attack, settings.eps, settings.seed)

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
        """Returns the mean effectiveness of an attack by its `variance` function; None if no image tells."""
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
