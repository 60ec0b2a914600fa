"""Adversarial training and loss-landscape analysis for Keras 3 on TensorFlow.

Map of the package, in the order a batch travels:

==================  =================================================================================
config, presets     settings of a run; `rules` checks them, `absl_flags` makes them flags
data                digits, TFDS sets and arrays; batches that depend on the seed and the step only
models              lenet, vgg, resnet18, preact_resnet18, wide_resnet, linear, mlp
attacks             norms, losses, PGD, APGD, FAB, Square: ``attack(logits_fn, x, y, epsilon, seed)``
training            trainer, objectives, averages, optimizers, schedules, checkpoints, a whole run
ensemble, export    mean of probabilities; SavedModels with a manifest
convert             PyTorch checkpoints of the same architectures into Keras models
landscape           weights as a vector, Hessian products, Lanczos, surfaces, dynamics, curves, inputs
theory              linear models in closed form
studies             one module per study of ``advtf.analyze``, over the two above
plots, figures      figures, drawn from result files only
main, evaluate,     the commands ``python -m advtf.main``, ``python -m advtf.evaluate`` and
analyze             ``python -m advtf.analyze``
==================  =================================================================================

The names below are imported on first use, so that ``import advtf`` and ``--help`` are immediate.
"""

import importlib
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

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
    "StopOnNonFiniteLoss": "training.callbacks",
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
