"""Attacks a saved classifier and reports its error under each attack and in the worst case.

python -m advtf.evaluate --model=saved_models/digits-lenet-cosine-seed0/last --dataset=digits
python -m advtf.evaluate --model=saved_models/x/ensemble --attacks=pgd,apgd_ce,apgd_dlr,square --norm=l2
python -m advtf.evaluate --out_dir=runs/evaluate-x-ensemble --resume      continue a killed evaluation

Everything is measured in float32, whatever the precision of the training.
In Python, ``advtf.evaluate(classifier, x, y, attacks=["autoattack"], epsilon=8/255)`` does the same.
"""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from advtf.data.registry import require_available
from advtf.errors import UsageError
from advtf.evaluation import run as evaluation_run
from advtf.evaluation import sharing
from advtf.evaluation.run import EvaluateOptions
from advtf.evaluation.settings import AttackSettings, require_grid
from advtf.settings import commands
from advtf.settings.commands import CallableModule
from advtf.settings.threat import read_radius

if TYPE_CHECKING:
    import numpy as np

    from advtf.evaluation.report import Evaluation


def evaluate(
    classifier: object,
    x: "np.ndarray",
    y: "np.ndarray",
    attacks: Sequence[str] | str = ("autoattack",),
    epsilon: float = 8 / 255,
    norm: str = "linf",
    *,
    epsilon_grid: Sequence[float] = (),
    state_dir: str | Path | None = None,
    checks: bool = True,
    say: Callable[[str], None] | None = None,
    **settings: object,
) -> "Evaluation":
    """Attacks a classifier and measures its error, attack by attack and in the worst case.

    Example: ``print(advtf.evaluate(model, images, labels, attacks=["pgd", "autoattack"], epsilon=8 / 255))``.

    Args:
        classifier: a Keras model, a list of them (attacked as their ensemble), a SavedModel's path or what
            `advtf.load_classifier` made of it, or any differentiable function from images to logits.
        x: images (N, H, W, C), uint8 or float in [0, 1].
        y: integer labels (N,).
        attacks: names of `advtf.evaluation.attacks.NAMES`; each attack or suite is measured on its own.
        epsilon: radius ε for pixels in [0, 1].
        norm: "linf" or "l2".
        epsilon_grid: more radii; the worst case over all attacks is measured there.
        state_dir: folder for what is finished, so that the same call continues after a crash; at the end it
            is removed, unless other files were put into it.
        checks: look for masked gradients and random outputs; see `advtf.evaluation.sanity_checks`.
        say: called with one line per attack finished.
        **settings: other fields of `advtf.evaluation.settings.AttackSettings`: steps, queries, restarts,
            targets, seed, batch_size, ... None takes the default.

    Returns:
        The errors, attack by attack and in the worst case; printing it gives a table.

    Raises:
        UsageError: a bad setting, images or labels that do not fit, not a classifier, or `state_dir`
            belongs to another evaluation.
    """
    if "eps" in settings:
        raise UsageError(f"the radius must be given as epsilon. Received: eps={settings['eps']}.")
    radius = read_radius("epsilon", epsilon, norm)
    chosen = AttackSettings.of({"attacks": attacks, "eps": radius, "norm": norm, **settings})
    epsilon_grid = require_grid("epsilon_grid", epsilon_grid, chosen.norm)
    from advtf.classifiers.classifier import as_classifier
    from advtf.data import arrays
    from advtf.data.arrays import to_unit_float
    from advtf.evaluation.engine import evaluate_classifier
    from advtf.storage import cache

    x, y = arrays.checked("test", x, y)
    arrays.class_count([y])
    x = to_unit_float(x).numpy()
    classifier = as_classifier(classifier, x, y, outputs=chosen.outputs)
    evaluation = evaluate_classifier(
        classifier, x, y, chosen, epsilon_grid=epsilon_grid, state_dir=state_dir, checks=checks, say=say
    )
    cache.clear(state_dir)
    return evaluation


def main(argv: list[str], script: str | None = None) -> None:
    """Evaluates one classifier; exits with 2 for a mistake, 130 when interrupted.

    Args:
        argv: is not used.
        script: the path of the script that has started the command, if one has.
    """
    del argv
    given = {cls: commands.given_flags(flags.FLAGS, cls) for cls in (AttackSettings, EvaluateOptions)}
    run, settings, options = evaluation_run.plan(given[AttackSettings], given[EvaluateOptions])
    if options.resume and run.state() == "finished":
        print(f"{run.path} is finished; its results are in {run.results}.")
        return
    with run.tell_how_to_continue():
        require_available(options.dataset, options.data_dir)
        print(evaluation_run.describe(settings, options, run), flush=True)
        evaluation_run.execute(run, settings, options, script)


sys.modules[__name__].__class__ = CallableModule  # advtf.evaluate is the function, too

if __name__ == "__main__":
    _started_from = None if os.path.realpath(sys.argv[0]) == os.path.realpath(__file__) else sys.argv[0]
    if _started_from and (_folder := sharing.leader_of_script()):
        sharing.follow_to_the_end(_folder)
    else:
        commands.run_command(functools.partial(main, script=_started_from), EvaluateOptions, AttackSettings)
