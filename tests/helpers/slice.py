"""What the tests of similarity and surface share: small classifiers of digits and a study's context."""

from advtf import models
from advtf.attacks.pgd import pgd
from advtf.classifiers.classifier import as_classifier
from advtf.data.sets import Split, load
from helpers.analysis import study_context

EPSILON, SHAPE = 0.1, (4, 4, 1)
ATTACK = pgd("linf", 3, 0.5)
OF_ATTACK = {"norm": "linf", "attack_steps": 3, "attack_step_size": "eps/2", "random_start": "uniform"}


def make_classifier(seed=0, name="linear"):
    """A classifier that is not sure of anything, named after its seed."""
    model = models.build(name, SHAPE, 10, seed=seed, **({"width": 1} if name == "mlp" else {}))
    model.name = f"model{seed}"
    return as_classifier(model, movable=True)


def context_of(folder, study, classifiers, say=lambda line: None, **settings):
    """The context of a study over the middles of some digits; `folder` is that of the analysis."""
    train, test = (
        Split(part.images[:count, 2:6, 2:6], part.labels[:count])
        for part, count in ((load("digits").train, 40), (load("digits").test, 30))
    )
    given = {"eps": EPSILON, "batch_size": 32, **OF_ATTACK} | settings
    pairs = ((part.images, part.labels) for part in (train, test))
    return study_context(folder, study, classifiers, *pairs, say=say, **given)
