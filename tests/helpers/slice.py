"""What the tests of similarity and surface share: small classifiers of digits and a study's context."""

import numpy as np

from advtf import models
from advtf.attacks.pgd import pgd
from advtf.classifiers.classifier import as_classifier
from advtf.data.sets import Split, load
from advtf.studies.context import StudyContext
from advtf.studies.settings import AnalyzeSettings

EPSILON, SHAPE = 0.1, (4, 4, 1)
ATTACK = pgd("linf", 3, 0.5)


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
    place = folder / study
    place.mkdir(parents=True, exist_ok=True)
    given = {"norm": "linf", "eps": EPSILON, "batch_size": 32} | settings
    return StudyContext(
        settings=AnalyzeSettings(study=(study,), **given),
        classifiers=classifiers,
        x=train.images,
        y=train.labels,
        x_test=test.images,
        y_test=test.labels,
        num_classes=10,
        attack=ATTACK,
        epsilon=given["eps"],
        folder=place,
        jit_compile=False,
        say=say,
    )


def drawn_panels(monkeypatch, module):
    """Keeps the panels of every sheet that `module` draws."""
    seen, original = [], module.sheet

    class Recording:
        def __init__(self, *args, **kwargs):
            self.sheet = original(*args, **kwargs)

        def __enter__(self):
            seen.append(self.sheet.__enter__())
            return seen[-1]

        def __exit__(self, *error):
            return self.sheet.__exit__(*error)

    monkeypatch.setattr(module, "sheet", Recording)
    return seen


def lines(axes):
    """Data of the lines drawn in a panel."""
    return [np.stack([line.get_xdata(), line.get_ydata()]) for line in axes.get_lines()]
