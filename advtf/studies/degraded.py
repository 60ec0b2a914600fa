"""The study ``degraded``: training on weaker examples leaves a more curved loss around the images.

Li & Spratling 2023, section 4.3 and figures 4b and 4c. From the weights of the classifier, one or more epochs
of training follow on the perturbations of PGD-20 multiplied by a factor, or with the sign of a part of their
entries reversed. Then IG, HS and the effectiveness of FGSM and PGD-10 are measured. Every variant sees the
same batches, those of `x`.
"""

import itertools
from pathlib import Path

import numpy as np

from advtf.attacks import degraded
from advtf.attacks.pgd import pgd
from advtf.classifiers.classifier import Classifier
from advtf.data.batches import steps_per_epoch_of, training_batches
from advtf.data.sets import Split
from advtf.errors import UsageError
from advtf.figures.input_experiments import degraded_training
from advtf.landscape.inputs import REFERENCE_STEP
from advtf.studies.context import StudyContext
from advtf.studies.strength import HEADER, Strength, kept, line
from advtf.training.optimizers import build_optimizer
from advtf.training.settings import TrainConfig
from advtf.training.trainer import AdversarialTrainer

STEPS = 20  # of the PGD whose perturbations are degraded
LATE = 10  # the initial learning rate is divided by this, as after the first decay; the paper names none


def run(context: StudyContext) -> list[Path]:
    """Writes degraded.json and degraded.png, and tells a line for each variant.

    The effectiveness of the training examples themselves is the mean over `moments` points of the training.

    Raises:
        UsageError: a classifier that was not trained and exported by this package, or without second
            derivatives; or a folder with the state of another study.
    """
    classifier, settings = context.classifiers[0], context.settings
    training = _Training(context, training_of(classifier))
    strength = Strength(context)
    cache = context.cache(classifier.parameters.value(), context.x, context.y)
    records = {"before": kept(cache, "before", strength)}
    context.say(f"{HEADER}{'train':>10}")
    context.say(line("before", records["before"]))
    variants = [("scaled", value) for value in settings.factors]
    variants += [("flipped", value) for value in settings.flips]
    for kind, value in variants:
        name = f"{kind} {value:g}"
        make = lambda kind=kind, value=value: _variant(training, strength, kind, value)  # noqa: E731
        records[name] = kept(cache, name.replace(" ", "-"), make)
        mean = records[name]["train"]["mean"]
        context.say(line(name, records[name]) + f"{np.nan if mean is None else mean:>10.4g}")
    about = context.about.only("train", "test").replaced(attack=None).to_json()
    results = context.write_json("degraded", {"about": about, "records": records})
    return [results, degraded_training(results, context.folder / "degraded.png")]


def training_of(classifier: Classifier) -> TrainConfig:
    """Returns the settings that a classifier was trained with, also by an earlier version.

    Raises:
        UsageError: it does not tell them, or has no model to train.
    """
    reason = "."
    if classifier.model is not None and classifier.config:
        try:  # the ramp of an objective's strength, which an earlier version made otherwise, plays no part
            return TrainConfig.from_json({**classifier.config, "strength_ramp": False})
        except UsageError as error:
            reason = f" as this version needs it: {error}"
    raise UsageError(
        "study=degraded trains a classifier that advtf has trained and exported. Received: "
        f"{classifier.name}, which does not tell its training{reason}"
    )


def _variant(training, strength, kind, value):
    """Trains on one kind of degraded examples, measures, and gives the classifier its weights back."""
    attack = getattr(degraded, kind)(pgd(strength.settings.norm, STEPS, REFERENCE_STEP), value)
    variance = strength.variance(attack)
    model = strength.classifier.model
    weights = model.get_weights()
    try:
        moments = [strength.effectiveness(variance) for _ in training.run(attack)]
        measured = strength()
    finally:
        model.set_weights(weights)
    known = [moment for moment in moments if moment is not None]
    train = {"mean": float(np.mean(known)) if known else None, "moments": moments}
    return {"kind": kind, "value": value, "train": train} | measured


class _Training:
    """Some epochs of the classifier's own training, with another attack each time."""

    def __init__(self, context: StudyContext, config: TrainConfig):
        self.context, self.config = context, config
        self.split = Split(context.x, context.y)
        self.batch_size = min(config.batch_size, len(self.split))
        self.steps = steps_per_epoch_of(self.split, self.batch_size)

    def run(self, attack):
        """Trains the classifier's model; yields at each moment, the first before any step."""
        context, settings = self.context, self.context.settings
        trainer = AdversarialTrainer(
            context.classifiers[0].model, attack, context.epsilon, seed=settings.seed
        )
        trainer.compile(self._optimizer(), jit_compile=False)
        total = self.steps * settings.degraded_epochs
        yield
        for start, end in itertools.pairwise(np.linspace(0, total, settings.moments).astype(int).tolist()):
            if end > start:  # there may be more moments than steps
                batches = training_batches(
                    self.split,
                    self.batch_size,
                    seed=settings.seed,
                    start_step=start,
                    total_steps=end,
                    augment=self.config.augment,
                )
                trainer.fit(batches, steps_per_epoch=end - start, shuffle=False, verbose=0)
            yield

    def _optimizer(self):
        config = self.config
        return build_optimizer(
            config.optimizer,
            self.context.settings.degraded_lr or config.lr / LATE,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            decoupled=config.decoupled_weight_decay,
        )
