"""What a study works with: classifiers, images, settings, the attack they describe, and a folder."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advtf.errors import UsageError
from advtf.figures.results import Conditions
from advtf.storage.cache import ResultCache, fingerprint
from advtf.storage.files import jsonable, provenance, write_atomically, write_json
from advtf.studies.registry import STUDIES
from advtf.studies.settings import CommonSettings

if TYPE_CHECKING:
    from advtf.attacks.attack import Attack
    from advtf.classifiers.classifier import Classifier

STATE = "state"  # folder, inside that of a study, of what a killed study continues from


@dataclass(frozen=True, eq=False)
class StudyContext:
    """What an analysis works with, and, in the folder of one study, what that study is given.

    Attributes:
        settings: complete, as `advtf.studies.settings.settings_class` composes them.
        classifiers: with movable weights, of one input shape and number of classes; some studies need none.
        x, y: images float32 (N, H, W, C) in [0, 1] and integer labels (N,) whose mean loss is studied; None
            where there is no data set.
        x_test, y_test: test images and labels, likewise.
        folder: of the analysis; in the context of a study, that of its results.
        say: called with each line for the user. Defaults to silence.
        source: what results tell about the classifiers and the images. Defaults to nothing.

    Raises:
        UsageError: the classifiers, or the images, do not fit each other.
    """

    settings: CommonSettings
    classifiers: "list[Classifier]"
    x: np.ndarray | None
    y: np.ndarray | None
    x_test: np.ndarray | None
    y_test: np.ndarray | None
    folder: Path
    say: Callable[[str], None] = lambda line: None
    source: Mapping = field(default_factory=dict)

    def __post_init__(self) -> None:
        for classifier in self.classifiers[1:]:
            first = self.classifiers[0]
            if (classifier.input_shape, classifier.num_classes) != (first.input_shape, first.num_classes):
                raise UsageError(
                    "models must have one input shape and number of classes. "
                    f"Received: {_shapes(first)} and {_shapes(classifier)}."
                )
        if self.classifiers and self.x is not None:
            _require_images(self.classifiers[0], self.x.shape[1:])

    @functools.cached_property
    def attack(self) -> "Attack":
        """PGD as the settings describe it, ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``."""
        from advtf.attacks.pgd import pgd

        chosen = self.settings
        return pgd(chosen.norm, chosen.attack_steps, chosen.relative_step, chosen.random_start)

    @property
    def epsilon(self) -> float:
        """The radius ε of the attack."""
        return self.settings.eps

    @functools.cached_property
    def jit_compile(self) -> bool:
        """Whether to compile with XLA."""
        from advtf import runtime

        return runtime.compiles(self.settings.jit)

    @property
    def name(self) -> str:
        """The name of the study, which is that of its folder."""
        return self.folder.name

    @property
    def splits(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Images and labels by name: "test", and before it "train" unless the test images were chosen."""
        test = {"test": (self.x_test, self.y_test)}
        return {"train": (self.x, self.y)} | test if self.settings.split == "train" else test

    @property
    def about(self) -> Conditions:
        """What the headings of figures tell: the data, the number of images, the attack and its ε."""
        if self.x is None:
            return Conditions()
        chosen = self.settings
        images = {name: len(y) for name, (_, y) in self.splits.items() if y is not None}
        return Conditions(
            dataset=self.source.get("dataset"),
            images=images,
            attack=f"PGD-{chosen.attack_steps}",
            norm=chosen.norm,
            epsilon=chosen.eps,
        )

    def of_study(self, name: str) -> "StudyContext":
        """Returns the context of a study, whose folder is a new one inside that of the analysis."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return replace(self, folder=folder)

    def identity(self, digest: Callable[..., str] = fingerprint) -> str:
        """Returns a digest of the weights, the images and the labels, made by `digest`."""
        weights = [classifier.parameters.value() for classifier in self.classifiers]
        images = [self.x, self.y, self.x_test, self.y_test]
        return digest(*weights, *(array for array in images if array is not None))

    def adversarial_examples(
        self, classifier: "Classifier", label: str = "adversarial examples"
    ) -> np.ndarray:
        """Returns adversarial examples of `x` against a classifier, float32 (N, H, W, C).

        Args:
            classifier: attacked with the seed of the settings, so that the same call gives the same bits.
            label: of the progress bar. Defaults to "adversarial examples".
        """
        from advtf.landscape.objective import adversarial_examples

        return adversarial_examples(
            classifier,
            self.x,
            self.y,
            self.attack,
            self.epsilon,
            seed=self.settings.seed,
            batch_size=self.settings.batch_size,
            jit_compile=self.jit_compile,
            label=label,
        )

    def cache(self, *parts: object) -> ResultCache:
        """Returns the cache that a killed study continues from; it is removed when the study has returned.

        Args:
            *parts: arrays and JSON values, beside its settings, on which its results depend.

        Raises:
            UsageError: the folder holds results that depend on something else.
        """
        own = STUDIES[self.name].sections[:1]
        settings = self.settings.identity("attack", "compute", *own)
        return ResultCache(self.folder / STATE, fingerprint(settings, *parts))

    def write_json(self, name: str, content: Mapping) -> Path:
        """Writes ``<name>.json``: versions and command, classifiers and images, settings, then `content`.

        Args:
            name: of the file; that of the study for its main result.
            content: JSON values, NumPy numbers and arrays; NaN and infinity become null.

        Returns:
            The path of the file.
        """
        settings = self.settings.of_sections("attack", "compute", *STUDIES[self.name].sections)
        record = provenance() | {"study": self.name} | dict(self.source) | {"settings": settings} | content
        path = self.folder / f"{name}.json"
        write_json(path, jsonable(record, name))
        return path

    def write_arrays(self, name: str, about: Conditions | None = None, **arrays: np.ndarray) -> Path:
        """Writes ``<name>.npz``, with ``about`` for the headings of figures, and returns its path.

        Args:
            name: of the file.
            about: what the arrays were measured on. Defaults to that of the context.
            **arrays: by name.
        """
        path, told = self.folder / f"{name}.npz", (about or self.about).array()
        write_atomically(path, lambda file: np.savez(file, about=told, **arrays))
        return path

    def read_arrays(self, name: str) -> dict[str, np.ndarray]:
        """Returns the arrays of ``<name>.npz``."""
        with np.load(self.folder / f"{name}.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}


def _shapes(classifier):
    return f"{classifier.name} with {_shape(classifier.input_shape)}, {classifier.num_classes} classes"


def _shape(sizes):
    return "×".join("?" if size is None else str(size) for size in sizes)


def _require_images(classifier, shape):
    fits = all(size in (None, given) for size, given in zip(classifier.input_shape, shape, strict=True))
    if not fits:
        raise UsageError(
            f"images must have the {_shape(classifier.input_shape)} pixels and channels of {classifier.name}."
            f" Received: {_shape(shape)}. Choose the data it was trained on."
        )
