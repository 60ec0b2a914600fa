"""The studies by name, with everything that the rest of the program needs to know about each.

An entry of `STUDIES` names the code of a study, declares its settings with their help, default and range,
checks them, and tells how many models the study needs and whether it measures the test error. Flags, help,
checks, figures' folders and the library call all follow from the entries, so that a new study is one file
with ``run(context) -> list[Path]`` and one entry here. A script registers a study of its own in the same way,
``STUDIES["mine"] = Study(run)``; see ``docs/examples/own_study.py``.

No TensorFlow here: the module of a study is imported when the study is run.
"""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advtf.errors import UsageError, quantity
from advtf.settings.fields import Settings, choice, numbers, real, setting, switch, texts, whole
from advtf.settings.threat import NEGLIGIBLE_EPSILON

LEAST_TOLERANCE = 1e-5  # of eigenpairs, whose products are rounded to float32
# λ₁ of adversarially trained models is 10 to 100: a step of 0.2 adds 0.2 to 2 nats, 0.01 turns perturbations.
OFFSETS = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)


@dataclasses.dataclass(frozen=True)
class Study:
    """An entry of `STUDIES`.

    Attributes:
        code: a function ``run(context) -> list[Path]`` of an `advtf.studies.context.StudyContext`, which
            writes its results and figures and returns their paths, results first; or the name of a module
            that has it, imported when the study is run.
        settings: the dataclass of its settings. Their names must differ from those of all other studies.
            Defaults to none.
        check: called with the settings of the analysis and the number of models before any compute; it
            raises UsageError if the study cannot be done with them. Defaults to no check.
        models: smallest number of models it needs. Defaults to 1.
        test_images: whether it measures the test error, too. Defaults to False.
        uses: names of other studies whose settings it reads, too. Defaults to none.
    """

    code: Callable[[Any], list[Path]] | str
    settings: type[Settings] | None = None
    check: Callable[[Any, int], None] = lambda settings, models: None
    models: int = 1
    test_images: bool = False
    uses: tuple[str, ...] = ()

    @property
    def sections(self) -> tuple[str, ...]:
        """The sections of settings it reads besides those that concern every study; its own come first."""
        own = dataclasses.fields(self.settings) if self.settings else ()
        others = [section for name in self.uses for section in STUDIES[name].sections]
        return tuple(dict.fromkeys([*(field.metadata["section"] for field in own), *others]))

    def run(self, context: Any) -> list[Path]:
        """Runs the study and returns the files it wrote."""
        code = importlib.import_module(self.code).run if isinstance(self.code, str) else self.code
        return code(context)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HessianSettings(Settings):
    """Settings of the study ``hessian``."""

    eigenvalues: int = setting(
        "hessian", whole(1, 10_000), "number of eigenvalues at each end of the spectrum", 20
    )
    eigen_method: str = setting(
        "hessian",
        choice(("lanczos", "power")),
        "solver; power: power iteration with deflation, as in the paper",
        "lanczos",
    )
    eigen_end: str = setting(
        "hessian", choice(("largest", "smallest", "both")), "end of the spectrum that is computed", "largest"
    )
    eigen_tol: float = setting(
        "hessian", real(0, 1, open_low=True), "largest residual relative to the largest |eigenvalue|", 1e-3
    )
    max_products: int = setting("hessian", whole(1), "largest number of Hessian-vector products", 400)
    basis_size: int | None = setting(
        "hessian", whole(2), "number of Lanczos vectors kept; default as memory allows", None
    )
    per_layer: bool = setting(
        "hessian", switch(), "compute also the eigenvalues of the diagonal block of each layer", False
    )
    normalise_draws: int = setting(
        "hessian", whole(0), "number of random θ whose mean loss normalises the eigenvalues; 0: none", 10
    )


def _check_hessian(settings: HessianSettings, models: int) -> None:
    """Power iteration finds the largest eigenvalues only; a basis has room for more vectors than pairs."""
    if settings.eigen_method == "power" and settings.eigen_end != "largest":
        raise UsageError(
            "eigen_end must be largest for eigen_method=power. "
            f"Received: eigen_end={settings.eigen_end}. Use --eigen_method=lanczos."
        )
    pairs = settings.eigenvalues * (2 if settings.eigen_end == "both" else 1)
    for name, least in (("basis_size", pairs + 2), ("max_products", pairs)):
        value = getattr(settings, name)
        if value is not None and value < least:
            raise UsageError(
                f"{name} must be at least {least} for {quantity(pairs, 'eigenvalue')}. "
                f"Received: {name}={value}. "
                f"Raise --{name} or lower --eigenvalues."
            )
    if settings.eigen_tol < LEAST_TOLERANCE:
        raise UsageError(
            f"eigen_tol must be at least {LEAST_TOLERANCE:g}, the rounding of float32. "
            f"Received: eigen_tol={settings.eigen_tol:g}. Raise --eigen_tol."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DensitySettings(Settings):
    """Settings of the study ``density``."""

    density_probes: int = setting("density", whole(1, 10_000), "number of random vectors", 4)
    density_steps: int = setting("density", whole(2, 10_000), "number of Lanczos steps from each", 80)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimilaritySettings(Settings):
    """Settings of the study ``similarity``."""

    offsets: tuple[float, ...] = setting(
        "similarity", numbers("lengths a of the moves θ ± a·v"), "lengths a of the moves θ ± a·v", OFFSETS
    )
    runs: int = setting("similarity", whole(1), "number of attacks, each from other random starts", 4)


def _require_perturbations(study: str, settings: Any) -> None:
    if settings.eps < NEGLIGIBLE_EPSILON:
        raise UsageError(
            f"study={study} needs perturbations. Received: eps={settings.eps:g}. Give a larger --eps."
        )


def _check_similarity(settings: Any, models: int) -> None:
    """Without an attack there are no perturbations to compare."""
    _require_perturbations("similarity", settings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurfaceSettings(Settings):
    """Settings of the study ``surface``."""

    surface: str = setting(
        "surface",
        choice(("eigen", "random", "filter", "towards")),
        "directions: eigenvectors, random, filter-normalised, or towards other models",
        "eigen",
    )
    surface_dims: int = setting("surface", whole(1, 2), "number of directions", 2)
    surface_radius: float = setting("surface", real(open_low=True), "largest step along each direction", 0.2)
    surface_points: int = setting("surface", whole(3, 1001), "number of points along each direction", 21)


def _check_surface(settings: SurfaceSettings, models: int) -> None:
    """A direction towards another model needs that model; around a model, the model itself is on the grid."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicsSettings(Settings):
    """Settings of the study ``dynamics``."""

    run_dirs: tuple[str, ...] = setting(
        "dynamics", texts("folders"), "folders of training runs with dynamics.npz, with commas between", ()
    )


def _check_dynamics(settings: DynamicsSettings, models: int) -> None:
    """There must be training runs, each with the log of its updates, or a model to count dead units of."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConnectivitySettings(Settings):
    """Settings of the study ``connectivity``."""

    curve: str = setting(
        "connectivity",
        choice(("bezier", "chain")),
        "kind of the curve between two models; chain: straight pieces",
        "bezier",
    )
    curve_order: int = setting(
        "connectivity", whole(2, 10), "order of the curve; 2: one control point is trained", 2
    )
    curve_epochs: int = setting("connectivity", whole(1), "number of epochs the curve is trained for", 100)
    curve_lr: float = setting(
        "connectivity", real(open_low=True), "learning rate of the training of the curve (Adam)", 1e-3
    )
    curve_points: int = setting(
        "connectivity", whole(2, 10_001), "number of points at which the curve is measured", 51
    )


def _check_connectivity(settings: Any, models: int) -> None:
    """The curve is trained on the images of `split`, and its test error must be one."""
    if settings.split != "train":
        raise UsageError(
            "study=connectivity trains a curve, so split must be train. "
            f"Received: split={settings.split}. Leave out --split."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputSettings(Settings):
    """Settings of the study ``input``."""

    assessed_attack: str = setting(
        "input",
        choice(("pgd", "fgsm", "fgsm_r", "fgsm_n")),
        "attack whose effectiveness is measured; pgd: as configured",
        "pgd",
    )
    reference_steps: int = setting(
        "input", whole(1), "number of steps of the PGD that effectiveness is relative to", 50
    )
    hs_examples: int = setting("input", whole(0), "number of images with a Hessian spectrum; 0: none", 200)
    input_eigenvalues: int = setting(
        "input", whole(1, 1000), "number of eigenvalues of each input Hessian, largest |λ| first", 20
    )
    softplus_twin: bool = setting(
        "input",
        switch(),
        "measure also each model with softplus in place of ReLU and the same weights",
        False,
    )


def _check_input(settings: Any, models: int) -> None:
    """Effectiveness compares perturbations with those of a stronger attack."""
    _require_perturbations("input", settings)
    steps = settings.attack_steps
    if settings.assessed_attack == "pgd" and steps and steps > settings.reference_steps:
        raise UsageError(
            f"reference_steps must be at least attack_steps, {steps}. "
            f"Received: reference_steps={settings.reference_steps}. Raise --reference_steps."
        )


def _check_attacked(study: str) -> Callable[[Any, int], None]:
    return lambda settings, models: _require_perturbations(study, settings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseSettings(Settings):
    """Settings of the study ``noise``."""

    variants: int = setting("noise", whole(1), "classifiers with noise on their weights", 40)
    noise_scale: float = setting("noise", real(open_low=True), "largest s of the noise U(−s, s)", 1.0)
    absolute_noise: bool = setting(
        "noise", switch(), "s in no unit, as published, not in that of each tensor's root mean square", False
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DegradedSettings(Settings):
    """Settings of the study ``degraded``."""

    factors: tuple[float, ...] = setting(
        "degraded", numbers("factors on perturbations"), "factors on the perturbations",
        (0, 0.2, 0.4, 0.6, 0.8, 1),
    )  # fmt: skip
    flips: tuple[float, ...] = setting(
        "degraded", numbers("shares of signs"), "shares of the perturbations' signs that are reversed",
        (0.1, 0.2, 0.3, 0.4, 0.5),
    )  # fmt: skip
    degraded_epochs: int = setting("degraded", whole(1), "epochs of training on degraded examples", 1)
    degraded_lr: float | None = setting(
        "degraded", real(open_low=True), "its learning rate; default a tenth of the training's", None
    )
    moments: int = setting("degraded", whole(2), "points of it at which the examples are assessed", 4)


def _check_degraded(settings: Any, models: int) -> None:
    """A share is at most 1, and the classifier is trained on the images of `split`."""
    _require_perturbations("degraded", settings)
    if settings.split != "train":
        raise UsageError(
            "study=degraded trains on the images, so split must be train. "
            f"Received: split={settings.split}. Leave out --split."
        )
    for name in ("factors", "flips"):
        largest = max(getattr(settings, name), default=0)
        if largest > 1:
            raise UsageError(f"{name} must be at most 1. Received: {largest:g}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvergenceSettings(Settings):
    """Settings of the study ``convergence``."""

    convergence_steps: tuple[int | float, ...] = setting(
        "convergence", numbers("numbers of steps"), "numbers of steps of PGD", (1, 2, 5, 10, 20, 50, 100, 200)
    )


def _check_convergence(settings: Any, models: int) -> None:
    """Steps are counted."""
    _require_perturbations("convergence", settings)
    steps = settings.convergence_steps
    if not steps or not all(isinstance(each, int) and each >= 1 for each in steps):
        raise UsageError(
            "convergence_steps must be whole numbers of at least 1. "
            f"Received: {','.join(map(str, steps)) or 'none'}."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingSettings(Settings):
    """Settings of the study ``sampling``."""

    trials: int = setting("sampling", whole(1), "random subsets of each size", 1000)
    sizes: tuple[int | float, ...] = setting(
        "sampling",
        numbers("numbers of images"),
        "sizes of the subsets; those above the number of images are left out",
        (10, 20, 50, 100, 200, 500, 1000, 2000, 5000),
    )


def _check_sampling(settings: Any, models: int) -> None:
    """Images are counted."""
    _require_perturbations("sampling", settings)
    if not all(isinstance(each, int) and each >= 1 for each in settings.sizes):
        raise UsageError(
            "sizes must be whole numbers of at least 1. "
            f"Received: {','.join(map(str, settings.sizes)) or 'none'}."
        )


STUDIES: dict[str, Study] = {
    "hessian": Study("advtf.studies.hessian", HessianSettings, _check_hessian),
    "density": Study("advtf.studies.density", DensitySettings),
    "similarity": Study(
        "advtf.studies.similarity",
        SimilaritySettings,
        _check_similarity,
        test_images=True,
        uses=("hessian",),  # it moves the weights along eigenvectors
    ),
    "surface": Study("advtf.studies.surface", SurfaceSettings, _check_surface, uses=("hessian",)),
    "dynamics": Study("advtf.studies.dynamics", DynamicsSettings, _check_dynamics, models=0),
    "connectivity": Study(
        "advtf.studies.connectivity",
        ConnectivitySettings,
        _check_connectivity,
        models=2,
        test_images=True,
    ),
    "input": Study("advtf.studies.input", InputSettings, _check_input, test_images=True),
    "noise": Study("advtf.studies.noise", NoiseSettings, _check_attacked("noise"), uses=("input",)),
    "degraded": Study("advtf.studies.degraded", DegradedSettings, _check_degraded, uses=("input",)),
    "convergence": Study(
        "advtf.studies.convergence", ConvergenceSettings, _check_convergence, test_images=True
    ),
    "sampling": Study("advtf.studies.sampling", SamplingSettings, _check_sampling, uses=("input",)),
    "theory": Study("advtf.studies.theory", models=0),
}


def check(settings: Any, models: int) -> None:
    """Checks what the chosen studies require of the settings and of the number of models.

    Raises:
        UsageError: a study cannot be done with them.
    """
    for name in settings.study:
        study = STUDIES[name]
        if models < study.models:
            kind = "one model" if study.models == 1 else f"{study.models} models, with commas between"
            raise UsageError(
                f"study={name} needs at least {kind}. Received: {models or 'no --model'}. "
                "Name SavedModels with --model, or pass classifiers to advtf.analyze."
            )
        study.check(settings, models)
