"""The settings of ``python -m advtf.analyze``: two frozen dataclasses, from which its flags follow.

No TensorFlow here, so that a wrong flag is answered at once.
"""

import dataclasses

from advtf.errors import one_of
from advtf.settings.commands import CommandOptions
from advtf.settings.fields import (
    Settings,
    choice,
    numbers,
    real,
    setting,
    step_size,
    switch,
    text,
    texts,
    whole,
)
from advtf.settings.threat import NORMS, relative_step, require_radius, require_step
from advtf.studies import STUDIES
from advtf.training.settings import DATASET_NAME

_AS_TRAINED = "default as in training"
# λ₁ of adversarially trained models is 10 to 100: a step of 0.2 adds 0.2 to 2 nats, 0.01 turns perturbations.
_OFFSETS = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)

ASSESSED = ("pgd", "fgsm", "fgsm_r", "fgsm_n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnalyzeSettings(Settings):
    """Everything but the classifiers' weights and the images that determines the numbers of an analysis.

    A section named after a study concerns that study only. `advtf.studies.run` fills what is None here
    and has a default in training.

    Raises:
        UsageError: a bad value, an unknown study, a radius out of range, or a step too long for it.
    """

    study: tuple[str, ...] = setting("target", texts("studies"), f"with commas: {', '.join(STUDIES)}", ())
    model: tuple[str, ...] = setting("target", texts("paths"), "SavedModels, with commas between", ())
    dataset: str | None = setting("target", DATASET_NAME, f"images; {_AS_TRAINED}", None)
    split: str = setting("target", choice(("train", "test")), "images the loss is the mean over", "train")
    num_examples: int = setting("target", whole(1), "of them and of the test images, the first ones", 2000)

    norm: str | None = setting("attack", choice(NORMS), f"norm of the perturbation; {_AS_TRAINED}", None)
    eps: float | None = setting("attack", real(), f"radius of the perturbation; {_AS_TRAINED}", None)
    attack_steps: int | None = setting("attack", whole(1), f"gradient steps of PGD; {_AS_TRAINED}", None)
    attack_step_size: str | None = setting("attack", step_size(), f"2/255 or eps/4; {_AS_TRAINED}", None)
    random_start: str | None = setting(
        "attack", choice(("uniform", "step", "none")), f"start of PGD; {_AS_TRAINED}", None
    )

    eigenvalues: int = setting("hessian", whole(1), "how many, at each end asked for", 20)
    eigen_method: str = setting(
        "hessian", choice(("lanczos", "power")), "power: with deflation, as in the paper", "lanczos"
    )
    eigen_end: str = setting(
        "hessian", choice(("largest", "smallest", "both")), "end of the spectrum", "largest"
    )
    eigen_tol: float = setting(
        "hessian", real(0, 1, open_low=True), "largest residual, as a part of the eigenvalue of norm", 1e-3
    )
    max_products: int = setting("hessian", whole(1), "Hessian-vector products at most", 400)
    basis_size: int | None = setting("hessian", whole(2), "vectors kept; default as memory allows", None)
    per_layer: bool = setting("hessian", switch(), "also the diagonal block of each layer", False)
    normalise_draws: int = setting("hessian", whole(0), "random θ whose mean loss normalises; 0: none", 10)

    density_probes: int = setting("density", whole(1), "random vectors", 4)
    density_steps: int = setting("density", whole(2), "Lanczos steps from each", 80)

    offsets: tuple[float, ...] = setting(
        "similarity", numbers("lengths a of the moves θ ± a·v"), "lengths a", _OFFSETS
    )
    runs: int = setting("similarity", whole(1), "attacks from other random starts", 4)

    surface: str = setting(
        "surface",
        choice(("eigen", "random", "filter", "towards")),
        "directions; towards other models",
        "eigen",
    )
    surface_dims: int = setting("surface", whole(1, 2), "directions", 2)
    surface_radius: float = setting("surface", real(open_low=True), "largest step along each", 0.2)
    surface_points: int = setting("surface", whole(3), "points along each direction", 21)

    run_dirs: tuple[str, ...] = setting(
        "dynamics", texts("folders"), "training runs with dynamics.npz, with commas between", ()
    )

    curve: str = setting("connectivity", choice(("bezier", "chain")), "kind of the path", "bezier")
    curve_order: int = setting("connectivity", whole(2, 10), "order; 2: one point is trained", 2)
    curve_epochs: int = setting("connectivity", whole(1), "length of the curve's training", 100)
    curve_lr: float = setting("connectivity", real(open_low=True), "learning rate (Adam)", 1e-3)
    curve_points: int = setting("connectivity", whole(2), "points of the scan", 51)

    assessed_attack: str = setting(
        "input", choice(ASSESSED), "whose effectiveness is measured; pgd: as configured", "pgd"
    )
    reference_steps: int = setting("input", whole(1), "of the PGD that effectiveness is relative to", 50)
    hs_examples: int = setting("input", whole(0), "images of the Hessian spectrum; 0: none", 200)
    input_eigenvalues: int = setting("input", whole(1), "of each input Hessian, by absolute value", 20)
    softplus_twin: bool = setting("input", switch(), "also with softplus for ReLU, same weights", False)

    seed: int = setting("compute", whole(0, 2**31 - 1), "of attacks, directions and start vectors", 0)
    batch_size: int = setting("compute", whole(1), "images at a time", 250)
    jit: str = setting("compute", choice(("auto", "on", "off")), "XLA; auto: on a GPU", "auto")

    def check(self) -> None:
        """Checks the studies' names, the radius and the step."""
        for name in self.study:
            one_of("study", name, STUDIES)
        if self.eps is not None:
            require_radius("eps", self.eps, self.norm or max(NORMS, key=NORMS.get))
            if self.attack_step_size is not None:
                require_step("attack_step_size", self.attack_step_size, self.eps)

    @property
    def relative_step(self) -> float:
        """The attack's step size divided by ε; 1 at ε = 0, where it has no effect."""
        return relative_step(self.attack_step_size, self.eps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnalyzeOptions(CommandOptions):
    """Where the command reads and writes and what it shows; none of it changes the numbers."""

    out_dir: str | None = setting("files", text(), "results; default runs/analyze-<run>-<export>", None)
    resume: bool = setting("files", switch(), "continue the analysis in out_dir, or add to it", False)
