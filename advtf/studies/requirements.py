"""What single studies demand of the settings, told before TensorFlow starts; a rule is one line of error."""

from pathlib import Path
from typing import TYPE_CHECKING

from advtf.errors import UsageError

LEAST_TOLERANCE = 1e-5  # of a float32 product

if TYPE_CHECKING:
    from advtf.studies.settings import AnalyzeSettings


def hessian(settings: "AnalyzeSettings", models: int) -> None:
    """Power iteration finds the largest eigenvalues only; a basis holds more vectors than are asked for.

    Raises:
        UsageError: `eigen_end`, `basis_size` or `max_products` does not fit.
    """
    if settings.eigen_method == "power" and settings.eigen_end != "largest":
        raise UsageError(
            "eigen_end must be largest for eigen_method=power. "
            f"Received: eigen_end={settings.eigen_end}. Use --eigen_method=lanczos."
        )
    pairs = settings.eigenvalues * (2 if settings.eigen_end == "both" else 1)
    _require_at_least("basis_size", settings.basis_size, pairs + 2)
    _require_at_least("max_products", settings.max_products, pairs)
    if settings.eigen_tol < LEAST_TOLERANCE:
        raise UsageError(
            f"eigen_tol must be at least {LEAST_TOLERANCE:g}, the rounding of float32. "
            f"Received: eigen_tol={settings.eigen_tol:g}."
        )


def similarity(settings: "AnalyzeSettings", models: int) -> None:
    """Without attack there are no perturbations to compare.

    Raises:
        UsageError: ε = 0.
    """
    if not settings.eps:
        raise UsageError("study=similarity needs perturbations. Received: eps=0. Give --eps above 0.")


def surface(settings: "AnalyzeSettings", models: int) -> None:
    """A direction towards another model needs that model; around a model, the model itself is on the grid.

    Raises:
        UsageError: too few models, or an even number of points.
    """
    towards = settings.surface == "towards"
    if not towards and settings.surface_points % 2 == 0:
        raise UsageError(
            "surface_points must be odd, so that the model itself is on the grid. "
            f"Received: surface_points={settings.surface_points}. Use {settings.surface_points + 1}."
        )
    needed = 1 + settings.surface_dims if towards else 1
    if models < needed:
        raise UsageError(
            f"surface=towards in {settings.surface_dims} dimensions needs {needed} models, with commas "
            f"between. Received: {models}. Add the models to go towards to --model."
        )


def dynamics(settings: "AnalyzeSettings", models: int) -> None:
    """Training runs, each with the log of its updates, or a model whose dead units are counted.

    Raises:
        UsageError: neither, or a run without a log.
    """
    if not (settings.run_dirs or models):
        raise UsageError(
            "study=dynamics needs run_dirs or model. Received: neither. "
            "Train with --dynamics_steps=500 and name the run with --run_dirs."
        )
    for folder in settings.run_dirs:
        if not (Path(folder) / "dynamics.npz").is_file():
            raise UsageError(
                f"run_dirs must hold dynamics.npz. Received: {folder}, which does not. "
                "Train with --dynamics_steps=500."
            )


def connectivity(settings: "AnalyzeSettings", models: int) -> None:
    """The curve is trained on the images of `split`, and its test error must be one.

    Raises:
        UsageError: `split` is not train.
    """
    if settings.split != "train":
        raise UsageError(
            "study=connectivity trains a curve, so split must be train. "
            f"Received: split={settings.split}. Leave out --split."
        )


def input_landscape(settings: "AnalyzeSettings", models: int) -> None:
    """Effectiveness compares perturbations with those of a stronger attack.

    Raises:
        UsageError: ε = 0, or the assessed PGD takes more steps than the reference.
    """
    if not settings.eps:
        raise UsageError("study=input needs perturbations. Received: eps=0. Give --eps above 0.")
    steps = settings.attack_steps
    if settings.assessed_attack == "pgd" and steps and steps > settings.reference_steps:
        raise UsageError(
            f"reference_steps must be at least attack_steps, {steps}. "
            f"Received: reference_steps={settings.reference_steps}. Raise --reference_steps."
        )


def _require_at_least(name, value, least):
    if value is not None and value < least:
        raise UsageError(
            f"{name} must be at least {least} for so many eigenvalues. Received: {name}={value}."
        )
