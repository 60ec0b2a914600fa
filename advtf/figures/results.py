"""How figures read result files: the arrays or the record, or one line that says which file is required.

`conditions` reads what a heading tells of them: the data, the number of images, the attack and its ε.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from advtf.errors import UsageError
from advtf.settings.threat import format_epsilon

NORM_NAMES = {"linf": "l∞", "l2": "l2"}
SPLIT_NAMES = {"train": "training", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class Conditions:
    """What results were measured on, as far as their files tell; as text, "digits, 300 test images, ...".

    Attributes:
        dataset: its name, or None.
        images: how many, by the names "train", "validation" and "test".
        attack: its name with its steps, such as "PGD-10", or None.
        norm: "linf", "l2" or None.
        epsilon: the radius ε of the attack, or None.
    """

    dataset: str | None = None
    images: Mapping[str, int] = field(default_factory=dict)
    attack: str | None = None
    norm: str | None = None
    epsilon: float | None = None

    def only(self, *splits: str) -> "Conditions":
        """Returns the conditions of a figure that shows these images alone, the first one that there is."""
        found = next((name for name in splits if name in self.images), None)
        return self.replaced(images={found: self.images[found]} if found else {})

    def replaced(self, **changes: object) -> "Conditions":
        """Returns a copy with other values."""
        return replace(self, **changes)

    def to_json(self) -> dict:
        """Returns the conditions as JSON values, for the entry ``about`` of a JSON file."""
        return asdict(self)

    def array(self) -> np.ndarray:
        """Returns the conditions as JSON text, for the entry ``about`` of an NPZ file."""
        return np.array(json.dumps(self.to_json(), ensure_ascii=False))

    def __str__(self) -> str:
        counts = [f"{count:,} {SPLIT_NAMES[split]}" for split, count in self.images.items()]
        parts = [self.dataset, f"{' and '.join(counts)} images" if counts else None]
        if self.epsilon != 0:
            parts += [self.attack, NORM_NAMES.get(self.norm)]
        if self.epsilon is not None:
            parts.append(f"ε = {format_epsilon(self.epsilon)}")
        return ", ".join(part for part in parts if part)


def agreed(each: Sequence[Conditions]) -> Conditions:
    """Returns what several files have in common; what differs is left to the labels of the curves."""
    first = each[0]
    shared = {
        one.name: getattr(first, one.name)
        for one in fields(Conditions)
        if all(getattr(other, one.name) == getattr(first, one.name) for other in each)
    }
    return Conditions(**shared)


def conditions(paths: Iterable[str | Path]) -> Conditions:
    """Returns what result files tell of the data and the attack, as far as they agree.

    An NPZ tells it in ``about``, the array of `Conditions.array`, and a JSON file in ``about`` or in its
    settings. For the files of a training run it is in the config.json beside them. Older files tell less.

    Raises:
        UsageError: a file is damaged.
    """
    return agreed([_conditions_in(Path(path)) for path in paths] or [Conditions()])


def _conditions_in(path: Path) -> Conditions:
    with required(path, "a readable result file"):
        found = _of_arrays(path) if path.suffix == ".npz" else conditions_of(_entries(path))
        str(found)  # reads every part, so that rubbish in one is told here
        return found


def _of_arrays(path: Path) -> Conditions:
    with np.load(path, allow_pickle=False) as file:
        if "about" in file.files:
            return Conditions(**json.loads(str(file["about"])))
        single = "epsilon" in file.files and file["epsilon"].ndim == 0
        told = {"epsilon": float(file["epsilon"])} if single else {}
    return conditions_of(_of_run(path) | told)


def _entries(path: Path) -> dict:
    return json.loads(path.read_text()) if path.suffix == ".json" else _of_run(path)


def _of_run(path: Path) -> dict:
    """Returns what config.json tells of the training run that a file belongs to."""
    config = path.with_name("config.json")
    if not config.exists():
        return {}
    record = read_record(config, "a readable config.json")
    return {"image_counts": record.get("image_counts"), "settings": record.get("config", {})}


def conditions_of(record: Mapping) -> Conditions:
    """Returns the conditions that the content of a JSON result file tells.

    Args:
        record: its entries: ``about``; or ``settings``, and beside them the numbers of images.
    """
    if "about" in record:
        return Conditions(**record["about"])
    settings = record.get("settings") or {}
    known = {**settings, **record}
    images = dict(record.get("image_counts") or {})
    if not images and isinstance(record.get("examples"), int):
        split = known.get("split") or ("test" if "worst_case" in record else "train")
        images = {split: record["examples"]}
        if split == "train" and isinstance(record.get("test_examples"), int):
            images["test"] = record["test_examples"]
    steps, epsilon = known.get("attack_steps"), known.get("epsilon", known.get("eps"))
    return Conditions(
        dataset=known.get("dataset"),
        images=images,
        attack=f"PGD-{steps}" if steps else None,
        norm=known.get("norm"),
        epsilon=None if epsilon is None else float(epsilon),
    )


@contextlib.contextmanager
def required(path: str | Path, kind: str, remedy: str = "") -> Iterator[None]:
    """Turns whatever goes wrong in the block into a `UsageError` that names the file.

    Args:
        path: of the file that the block reads and checks.
        kind: what it must be, with an article, such as "a density.npz".
        remedy: what to do about it, a sentence. Defaults to none.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # damage shows as almost any exception of zipfile, zlib, json and NumPy
        reason = f"no {error.args[0]}" if type(error) is KeyError and error.args else error
        advice = f" {remedy}" if remedy else ""
        raise UsageError(f"{kind} is required. Received: {path} ({reason}).{advice}") from error


def read_arrays(path: str | Path, names: Iterable[str], kind: str, remedy: str = "") -> dict[str, np.ndarray]:
    """Returns the arrays `names` of an NPZ file.

    Raises:
        UsageError: it cannot be read, or an array is missing.
    """
    with required(path, kind, remedy), np.load(path, allow_pickle=False) as file:
        missing = [name for name in names if name not in file.files]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
        return {name: file[name] for name in names}


def read_record(path: str | Path, kind: str, remedy: str = "") -> dict:
    """Returns the content of a JSON file, an object.

    Raises:
        UsageError: it cannot be read, or holds no object.
    """
    with required(path, kind, remedy):
        record = json.loads(Path(path).read_text())
        if not isinstance(record, dict):
            raise ValueError("no JSON object")
        return record


def require_some(files: Sized, kind: str) -> None:
    """Checks that there is a file to draw.

    Raises:
        UsageError: there is none.
    """
    if not files:
        raise UsageError(f"the figure needs at least one {kind}. Received: none.")


def curve_labels(label: str, names: Iterable[str]) -> list[str]:
    """Returns a label for each classifier of one file.

    Args:
        label: that of the file; it may be empty.
        names: those of the classifiers in it.

    Returns:
        The label of the file where it has one classifier, else this label and the classifier's name, or the
        name alone where the label is empty.
    """
    names = list(names)
    if label and len(names) == 1:
        return [label]
    return [f"{label}: {name}" if label else name for name in names]
