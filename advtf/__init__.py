"""Adversarial training and loss-landscape analysis for Keras 3 on TensorFlow.

The rooms of the package, from the ground up; imports go one way, downwards:

=========================  ==========================================================================
errors, runtime            the error a user can mend; TensorFlow started quietly, progress bars
settings                   how a setting is declared once: field, flag, help, check, JSON
storage                    files that appear whole or not at all, run directories, cached results
data                       images by name or from arrays; batches that depend on seed and step only
models                     lenet, vgg, resnet18, resnet50, preact_resnet18, wide_resnet, linear, mlp
attacks                    ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``: PGD, APGD, FAB, Square
classifiers                what is attacked and analysed: live models, SavedModels, ensembles
landscape                  curvature, slices and curves over the weights; the loss around an image
theory                     linear models in closed form
figures                    figures, drawn from result files only
training                   the compiled step, objectives, schedules, checkpoints, a whole run
evaluation                 suites of attacks on any classifier, sanity checks, the report
studies                    one file per study of ``advtf.analyze``
reports                    HTML pages about runs and exports, made from their files
main, evaluate, analyze,   the commands: flags become settings, settings a run or a page
convert, report
=========================  ==========================================================================

To follow one batch, read `advtf.training.trainer`; to follow one evaluation, `advtf.evaluation.engine`; to
follow one study, `advtf.studies.hessian`. Every room's docstring says what to read first.

The names below are imported on first use, so that ``import advtf`` and ``--help`` are immediate.
"""

import importlib
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

__version__ = "0.1.0"

_PUBLIC = {
    "Adam": "training.optimizers",
    "adversarial": "training.objectives",
    "adversarial_examples": "landscape.objective",
    "adversarial_minus_standard": "training.objectives",
    "AdversarialObjective": "landscape.objective",
    "AdversarialTrainer": "training.trainer",
    "advlc": "training.regularizers",
    "analyze": "analyze",
    "apgd": "attacks.apgd",
    "apgd_targeted": "attacks.apgd",
    "as_classifier": "classifiers.classifier",
    "as_subject": "classifiers.classifier",
    "BatchStatistics": "landscape.batch_statistics",
    "build_ensemble": "classifiers.ensemble",
    "build_model": "models",
    "Checkpoint": "training.checkpoint",
    "CheckpointFolder": "training.checkpoint",
    "consistency": "training.regularizers",
    "convert_state_dict": "classifiers.pytorch",
    "cure": "training.regularizers",
    "CurveScanner": "landscape.curves",
    "CurveSettings": "training.curve",
    "dead_units": "landscape.units",
    "epsilon_schedule": "training.schedules",
    "EpsilonSchedule": "training.callbacks",
    "evaluate": "evaluate",
    "evaluation_batches": "data.batches",
    "export_classifier": "classifiers.export",
    "fab": "attacks.fab",
    "fab_distances": "attacks.fab",
    "fgsm": "attacks.pgd",
    "fgsm_n": "attacks.pgd",
    "from_arrays": "data.sets",
    "gradalign": "training.regularizers",
    "GradientDynamics": "training.callbacks",
    "HessianOperator": "landscape.hessian",
    "igr": "training.regularizers",
    "input_measures": "landscape.inputs",
    "InputLandscape": "training.callbacks",
    "JsonLines": "training.logs",
    "kdsa": "training.regularizers",
    "lanczos": "landscape.lanczos",
    "load_classifier": "classifiers.export",
    "load_data": "data.sets",
    "load_snapshot": "training.callbacks",
    "load_torch": "classifiers.pytorch",
    "logitalign": "training.regularizers",
    "loss_surface": "landscape.surface",
    "mart": "training.objectives",
    "noisy": "attacks.pgd",
    "parameter_count": "models",
    "PeriodicReset": "training.callbacks",
    "PerturbationSimilarity": "landscape.similarity",
    "pgd": "attacks.pgd",
    "power_iteration": "landscape.power",
    "random_loss": "landscape.random_loss",
    "rate_schedule": "training.schedules",
    "RateSchedule": "training.callbacks",
    "reset_slots": "training.optimizers",
    "robust_error": "attacks.robust_error",
    "SGD": "training.optimizers",
    "Snapshots": "training.callbacks",
    "softplus_twin": "landscape.twin",
    "spectral_density": "landscape.density",
    "square": "attacks.square",
    "standard": "training.objectives",
    "StopOnNonFiniteLoss": "training.checks",
    "StrengthSchedule": "training.callbacks",
    "TensorBoard": "training.logs",
    "trades": "training.objectives",
    "train_curve": "training.curve",
    "training_batches": "data.batches",
    "UsageError": "errors",
    "WeightAverage": "training.averaging",
    "WeightAveraging": "training.averaging",
    "WeightStatistics": "training.callbacks",
}
_RENAMED = {"build_model": "build", "load_data": "load", "loss_surface": "surface"}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'advtf' has no attribute '{name}'")
    module = importlib.import_module(f"advtf.{_PUBLIC[name]}")
    return getattr(module, _RENAMED.get(name, name))


def __dir__():
    return sorted([*globals(), *__all__])
