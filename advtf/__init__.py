"""Adversarial training and loss-landscape analysis for Keras 3 on TensorFlow.

Map of the package, in the order a batch travels:

==================  =================================================================================
config, presets     settings of a run; `rules` checks them, `absl_flags` makes them flags
data                digits, TFDS sets and arrays; batches that depend on the seed and the step only
models              lenet, vgg, resnet18, preact_resnet18, wide_resnet, linear, mlp
attacks             balls, losses, PGD, APGD, FAB, Square: ``attack(logits_fn, x, y, epsilon, seed)``
training            trainer, objectives, optimizers, schedules, callbacks, checkpoints, a whole run
ensemble, export    mean of probabilities; SavedModels with a manifest
convert             PyTorch checkpoints of the same architectures into Keras models
plots               figures, drawn from result files only
main, evaluate      the commands ``python -m advtf.main`` and ``python -m advtf.evaluate``
==================  =================================================================================

The names below are imported on first use, so that ``import advtf`` and ``--help`` are immediate.
"""

import importlib
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

_PUBLIC = {
    "AdversarialTrainer": "training.trainer",
    "Adam": "training.optimizers",
    "SGD": "training.optimizers",
    "Checkpoint": "training.checkpoint",
    "CheckpointFolder": "training.checkpoint",
    "EpsilonSchedule": "training.callbacks",
    "JsonLines": "training.logs",
    "PeriodicReset": "training.callbacks",
    "RateSchedule": "training.callbacks",
    "Snapshots": "training.callbacks",
    "StopOnNonFiniteLoss": "training.callbacks",
    "TensorBoard": "training.logs",
    "UsageError": "errors",
    "WeightStatistics": "training.callbacks",
    "adversarial": "training.objectives",
    "apgd": "attacks.apgd",
    "apgd_targeted": "attacks.apgd",
    "build_ensemble": "ensemble",
    "build_model": "models",
    "convert_state_dict": "convert",
    "epsilon_schedule": "training.schedules",
    "evaluate": "evaluate",
    "evaluation_batches": "data",
    "export_classifier": "export",
    "fab": "attacks.fab",
    "fab_distances": "attacks.fab",
    "fgsm": "attacks.pgd",
    "from_arrays": "data",
    "load_classifier": "export",
    "load_data": "data",
    "load_snapshot": "training.callbacks",
    "load_torch": "convert",
    "pgd": "attacks.pgd",
    "rate_schedule": "training.schedules",
    "reset_slots": "training.optimizers",
    "robust_error": "attacks.evaluation",
    "square": "attacks.square",
    "standard": "training.objectives",
    "training_batches": "data",
}
_RENAMED = {"build_model": "build", "load_data": "load"}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'advtf' has no attribute '{name}'")
    module = importlib.import_module(f"advtf.{_PUBLIC[name]}")
    return getattr(module, _RENAMED.get(name, name))


def __dir__():
    return sorted([*globals(), *__all__])
