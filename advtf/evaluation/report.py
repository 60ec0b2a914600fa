"""The outcome of an evaluation: what each attack broke and cost, as JSON and as a table. No TensorFlow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from advtf.evaluation.attacks import NAMES
from advtf.evaluation.settings import AttackSettings
from advtf.settings.fields import format_epsilon
from advtf.training.settings import to_json


@dataclass(frozen=True)
class Spent:
    """What an attack cost: passes through the classifier, each counted per image, and seconds."""

    forward: int = 0
    backward: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        passes = self.forward + other.forward, self.backward + other.backward
        return Spent(*passes, self.seconds + other.seconds)


@dataclass(frozen=True)
class ComponentRecord:
    """One attack of a suite: the number of examples it was given and broke, and what it cost."""

    name: str
    attacked: int
    broken: int
    spent: Spent


@dataclass(frozen=True, eq=False)
class AttackResult:
    """One attack, or suite, on every example that is classified correctly without attack.

    Attributes:
        wrong: (N,) bool, misclassified without attack or with it.
        broken: (N,) bool, misclassified only with it.
        loss: (N,) float32, cross-entropy at the point kept: the misclassified one, else the worst.
        components: of a suite, in order; of a single attack, itself.
    """

    wrong: np.ndarray
    broken: np.ndarray
    loss: np.ndarray
    components: tuple[ComponentRecord, ...] = ()

    @property
    def error(self) -> float:
        """Percent misclassified."""
        return 100.0 * float(self.wrong.mean())

    @property
    def spent(self) -> Spent:
        """What all components cost together."""
        return sum((record.spent for record in self.components), Spent())

    def to_json(self) -> dict:
        """Returns the record of `evaluation.json`."""
        found = {"error": self.error, "mean_loss": _finite_mean(self.loss), **_cost(self.spent)}
        if len(self.components) > 1:
            found["components"] = {
                part.name: {"attacked": part.attacked, "broken": part.broken, **_cost(part.spent)}
                for part in self.components
            }
        return found | {"broken": np.flatnonzero(self.broken).tolist()}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All numbers of one evaluation; printing it gives the table.

    Attributes:
        model: the classifier's name.
        settings: what determined the numbers.
        clean: without attack.
        attacks: entry of `settings.attacks` -> its result.
        worst_case: over all of them, for each example.
        adversarial: float32 (N, H, W, C), the worst point of each example.
        curve: ε -> robust accuracy in percent, at ε = 0, the ε evaluated and those asked for beside it.
        warnings: signs that the numbers flatter the classifier.
    """

    model: str
    settings: AttackSettings
    clean: AttackResult
    attacks: Mapping[str, AttackResult]
    worst_case: AttackResult
    adversarial: np.ndarray
    curve: Mapping[float, float]
    warnings: Sequence[str]

    @property
    def clean_error(self) -> float:
        """Percent misclassified without attack."""
        return self.clean.error

    @property
    def robust_error(self) -> float:
        """Percent misclassified without attack or by any of the attacks."""
        return self.worst_case.error

    def to_json(self) -> dict:
        """Returns the numbers of `evaluation.json`; errors in percent, losses in nats, passes per image."""
        return {
            "model": self.model,
            "norm": self.settings.norm,
            "epsilon": self.settings.eps,
            "seed": self.settings.seed,
            "settings": to_json(self.settings),
            "examples": len(self.clean.wrong),
            "clean": {
                "error": self.clean_error,
                "mean_loss": _finite_mean(self.clean.loss),
                "wrong": np.flatnonzero(self.clean.wrong).tolist(),
            },
            "attacks": {name: result.to_json() for name, result in self.attacks.items()},
            "worst_case": {
                "error": self.robust_error,
                "mean_loss": _finite_mean(self.worst_case.loss),
                "broken": np.flatnonzero(self.worst_case.broken).tolist(),
            },
            "robust_accuracy_by_epsilon": [
                {"epsilon": epsilon, "robust_accuracy": accuracy} for epsilon, accuracy in self.curve.items()
            ],
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        settings = self.settings
        columns = {"clean": self.clean_error} | {
            NAMES[name].label: result.error for name, result in self.attacks.items()
        }
        if len(self.attacks) > 1:
            columns["worst case"] = self.robust_error
        width = max(len(self.model), 5)
        wide = {name: max(len(name), len("100.00")) + 3 for name in columns}
        head = f"{'model':<{width}}" + "".join(f"{name:>{wide[name]}}" for name in columns)
        row = f"{self.model:<{width}}" + "".join(f"{v:>{wide[name]}.2f}" for name, v in columns.items())
        ball = f"{settings.norm}, ε {format_epsilon(settings.eps)}"
        title = f"Error in % of {len(self.clean.wrong):,} images ({ball})"
        return "\n".join([title, head, row])


def _cost(spent):
    passes = {"forward_passes": spent.forward, "backward_passes": spent.backward}
    return passes | {"seconds": round(spent.seconds, 3)}


def _finite_mean(values):
    mean = float(np.mean(values, dtype=np.float64))
    return mean if np.isfinite(mean) else None  # JSON has no infinity
