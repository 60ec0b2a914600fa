"""What an evaluation knows of its examples while it runs: worst points and costs. Imports no TensorFlow."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(eq=False)
class Points:
    """The worst point known of some examples: a misclassified one, else that of the largest cross-entropy.

    Attributes:
        x_adv: float32 (N, H, W, C).
        broken: (N,) bool, misclassified by an attack.
        loss: (N,) float32, cross-entropy at x_adv in nats.
    """

    x_adv: np.ndarray
    broken: np.ndarray
    loss: np.ndarray

    @classmethod
    def unattacked(cls, x: np.ndarray, loss: np.ndarray) -> "Points":
        """The images themselves, with their clean losses."""
        return cls(x.copy(), np.zeros(len(x), bool), loss.copy())

    def update(self, rows: np.ndarray, found: "Points") -> None:
        """Takes the points `found` for examples `rows` where they are worse; a broken one keeps its own."""
        better = ~self.broken[rows] & (found.broken | (found.loss > self.loss[rows]))
        self.replace(rows[better], found.select(better))

    def replace(self, rows: np.ndarray, points: "Points") -> None:
        """Takes the points for examples `rows`, worse or not."""
        self.x_adv[rows], self.broken[rows], self.loss[rows] = points.x_adv, points.broken, points.loss

    def select(self, rows: np.ndarray) -> "Points":
        """Returns a copy of these rows, given as indices or a mask."""
        return Points(self.x_adv[rows], self.broken[rows], self.loss[rows])


@dataclass(frozen=True)
class Spent:
    """What an attack cost: passes through the classifier, each counted per image, and seconds."""

    forward: int = 0
    backward: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        passes = self.forward + other.forward, self.backward + other.backward
        return Spent(*passes, self.seconds + other.seconds)


@dataclass(frozen=True, eq=False)
class Stored:
    """Points with what the attack carries from stage to stage and what it cost: one file of state.

    Attributes:
        carried: arrays of one row per example; empty for most attacks.
        stages: how many have been finished.
    """

    points: Points
    carried: tuple[np.ndarray, ...] = ()
    spent: Spent = field(default_factory=Spent)
    stages: int = 0

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns named arrays for an NPZ file."""
        spent = np.array([self.spent.forward, self.spent.backward]), np.array(self.spent.seconds)
        named = dict(zip(("passes", "seconds"), spent, strict=True)) | {"stages": np.array(self.stages)}
        carried = {f"carried{number}": array for number, array in enumerate(self.carried)}
        points = {"x_adv": self.points.x_adv, "broken": self.points.broken, "loss": self.points.loss}
        return named | carried | points

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Stored":
        """Reads what `arrays` returned."""
        points = Points(arrays["x_adv"], arrays["broken"], arrays["loss"])
        carried = tuple(arrays[name] for name in sorted(arrays) if name.startswith("carried"))
        spent = Spent(*map(int, arrays["passes"]), float(arrays["seconds"]))
        return cls(points, carried, spent, int(arrays["stages"]))
