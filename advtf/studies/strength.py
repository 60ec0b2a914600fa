"""Slope, curvature, and how strong attacks are, of a classifier whose weights change between measurements.

What the studies ``noise``, ``degraded`` and ``sampling`` share (Li & Spratling 2023, section 4.3 and appendix
A3), and how they keep a record as soon as it is made.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from advtf.attacks.attack import Attack
from advtf.attacks.pgd import fgsm, pgd
from advtf.attacks.random import image_keys
from advtf.landscape.inputs import (
    NEGLIGIBLE_VARIANCE,
    REFERENCE_STEP,
    InputMeasures,
    InputMeter,
    variance_graph,
)
from advtf.landscape.statistics import estimate
from advtf.storage.cache import ResultCache
from advtf.storage.files import jsonable
from advtf.studies.context import StudyContext

MEASURES = ("ig", "hs", "fgsm", "pgd10")  # of which a table and a figure are made
HEADER = f"{'':<16}{'IG':>10}{'HS':>10}{'FGSM':>10}{'PGD10':>10}"


class Strength:
    """Measures the first classifier of a study, at the weights that it has at the moment.

    The graphs are built once, for any weights.

    Args:
        context: its classifier, images, ε and settings of the study ``input`` are used.
        x, y: images (N, H, W, C) and labels (N,); those of the context by default.
    """

    def __init__(self, context: StudyContext, x: np.ndarray | None = None, y: np.ndarray | None = None):
        self.classifier, self.settings = context.classifiers[0], context.settings
        self.x, self.y = (context.x, context.y) if x is None else (x, y)
        self._epsilon, norm = context.epsilon, context.settings.norm
        self.meter = InputMeter(
            self.classifier.logits_fn,
            self.x.shape[1:],
            context.epsilon,
            attack=fgsm(norm),
            reference=pgd(norm, context.settings.reference_steps, REFERENCE_STEP),
            norm=norm,
            seed=context.settings.seed,
            batch_size=context.settings.batch_size,
            eigenvalues=context.settings.input_eigenvalues,
            hs_examples=context.settings.hs_examples,
            jit_compile=context.jit_compile,
        )
        self.pgd10 = self.variance(pgd(norm, 10, REFERENCE_STEP))
        self.reference = self.variance(pgd(norm, context.settings.reference_steps, REFERENCE_STEP))

    def variance(self, attack: Attack) -> Callable[[], np.ndarray]:
        """Returns a function () -> (N,), the adversarial variance of an attack at the present weights."""
        shape = tf.TensorSpec((None, *self.x.shape[1:]), tf.float32)
        graph = variance_graph(self.classifier.logits_fn, shape, attack, self._epsilon, self.settings.seed)

        def measure():
            keys, size = image_keys(self.x), self.settings.batch_size
            parts = batches(len(self.x), size)
            return np.concatenate([graph(self.x[p], self.y[p], keys[p]).numpy() for p in parts])

        return measure

    def per_image(self) -> tuple[InputMeasures, np.ndarray]:
        """Returns the measures of every image with FGSM assessed, and (N,) the variance of PGD-10."""
        return self.meter(self.x, self.y), self.pgd10()

    def __call__(self) -> dict[str, dict]:
        """Returns means with standard errors of loss, ig, hs, fgsm and pgd10 (effectiveness)."""
        measures, variance = self.per_image()
        summary, kept = measures.summary(), measures.assessable
        shown = {name: summary[name] for name in ("loss", "ig", "hs")}
        return shown | {
            "fgsm": summary["effectiveness"],
            "pgd10": estimate(variance[kept] / measures.av_reference[kept]).to_json(),
        }

    def effectiveness(self, variance: Callable[[], np.ndarray]) -> float | None:
        """Returns the mean effectiveness of an attack, or None where it is defined for no image.

        Args:
            variance: what the method `variance` made of the attack.
        """
        reference = self.reference()
        kept = reference > NEGLIGIBLE_VARIANCE
        return estimate(variance()[kept] / reference[kept]).to_json()["mean"]


def kept(cache: ResultCache, name: str, make: Callable[[], Any]) -> Any:
    """Returns the JSON values that `make` returned when it was first called for this name."""
    found = cache.get(name)
    if found is None:
        record = jsonable(make(), name)
        cache.put(name, {"record": np.array(json.dumps(record))})
        return record
    return json.loads(str(found["record"]))


def line(label: str, measures: dict[str, dict]) -> str:
    """Returns one line of a table below `HEADER`."""
    values = [measures[name]["mean"] for name in MEASURES]
    return f"{label:<16}" + "".join(f"{'–':>10}" if v is None else f"{v:>10.4g}" for v in values)


def batches(total: int, size: int) -> Iterator[slice]:
    """Yields the slices of consecutive batches of `size` out of `total` images; the last may be smaller."""
    for start in range(0, total, size):
        yield slice(start, start + size)
