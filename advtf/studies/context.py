"""What a study is given: classifiers, images, an attack, settings, and a folder for its results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advtf.storage.files import write_atomically, write_json
from advtf.storage.provenance import jsonable, provenance
from advtf.studies import STUDIES
from advtf.studies.settings import AnalyzeSettings

if TYPE_CHECKING:
    from advtf.attacks.attack import Attack
    from advtf.classifiers.classifier import Classifier

SHARED_SECTIONS = ("attack", "compute")


@dataclass(frozen=True, eq=False)
class StudyContext:
    """The material of one study.

    Attributes:
        settings: complete.
        classifiers: the classifiers, of one input shape and number of classes; none for some studies.
        x, y: images float32 (N, H, W, C) in [0, 1] and labels int32 (N,) of the subset asked for; None
            where there is no data set.
        x_test, y_test: test images, likewise.
        num_classes: K; 0 where there is no data set.
        attack: PGD as configured, ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``.
        epsilon: its radius ε.
        folder: of this study's results; state to resume from goes to ``folder / "state"``, and is removed
            when the study has returned.
        jit_compile: compile with XLA.
        say: called with each line for the user.
        source: what the results say about the classifiers and the images.
    """

    settings: AnalyzeSettings
    classifiers: "list[Classifier]"
    x: np.ndarray | None
    y: np.ndarray | None
    x_test: np.ndarray | None
    y_test: np.ndarray | None
    num_classes: int
    attack: "Attack"
    epsilon: float
    folder: Path
    jit_compile: bool
    say: Callable[[str], None]
    source: Mapping = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The study's."""
        return self.folder.name

    @property
    def splits(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Images and labels by name: "test", and before it "train" unless the test images were asked for."""
        test = {"test": (self.x_test, self.y_test)}
        return {"train": (self.x, self.y)} | test if self.settings.split == "train" else test

    def write_json(self, name: str, content: Mapping) -> Path:
        """Writes ``<name>.json``: versions and command, classifiers and images, settings, then `content`.

        Args:
            name: of the file; that of the study for its main result.
            content: JSON values, NumPy numbers and arrays; NaN and infinity become null.

        Returns:
            The file's path.
        """
        settings = self.settings.of_sections(*SHARED_SECTIONS, *STUDIES[self.name].sections)
        record = provenance() | {"study": self.name} | dict(self.source) | {"settings": settings} | content
        path = self.folder / f"{name}.json"
        write_json(path, jsonable(record, name))
        return path

    def write_arrays(self, name: str, **arrays: np.ndarray) -> Path:
        """Writes ``<name>.npz`` and returns its path."""
        path = self.folder / f"{name}.npz"
        write_atomically(path, lambda file: np.savez(file, **arrays))
        return path

    def read_arrays(self, name: str) -> dict[str, np.ndarray]:
        """Returns the arrays of ``<name>.npz``."""
        with np.load(self.folder / f"{name}.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
