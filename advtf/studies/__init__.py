"""The studies of ``advtf.analyze``, which look at the loss around trained classifiers.

Read `registry` first: its `STUDIES` has an entry for each study, with its settings, its check and what it
needs. `context` is what a study is given, and a study is a function of it that writes results and draws
figures from them:

==============  ====================================================================================
`hessian`       the ends of the spectrum of the Hessian of L_ε, whole and by layer
`density`       the density of its spectrum
`similarity`    perturbations when the weights move along an eigenvector, or at random
`surface`       slices of the loss surface
`dynamics`      the updates of training runs, and dead units
`connectivity`  trained curves between models
`input`         slope, curvature and attacks around each image
`theory`        linear models in closed form, checked on digits
==============  ====================================================================================

`eigenvectors` has the Hessian that several of them share. `settings` composes the flags from the entries,
and `run` carries an analysis out: `run.analyze` in Python, the other functions for the command.
"""

from advtf.studies.registry import STUDIES, Study

__all__ = ["STUDIES", "Study"]
