"""The data sets by name: how each is read, and the training settings that differ from those of CIFAR-10.

Every other image-classification set of TFDS can be named, too; it is trained like CIFAR-10. To add a data set
of one's own, write a function that reads it and add a `DataSet` to `DATASETS`. This module does not import
TensorFlow, so that a misspelt name is answered at once.
"""

import importlib.util
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advtf.data import prepared
from advtf.errors import UsageError, nearest, one_of
from advtf.settings.fields import choice, setting

# The order of the images: as the data are stored, or that of the files they were published as.
ORDERS = ("stored", "published")
# Where the images are while they are used. "auto" leaves ArrayRecord files on the disk whose images would
# take more than half of the memory.
PLACES = ("auto", "memory", "disk")
TINY_IMAGENET_FOLDER = "tiny-imagenet-200"

ADAM = dict(optimizer="adam", lr=1e-4, lr_sched="constant", weight_decay=0.0)


@dataclass(frozen=True)
class PublishedOrder:
    """How the images get into the order of the files that a data set was published as.

    Attributes:
        feature: the feature of TFDS that numbers the examples; None where their order follows from TFDS's.
        restore: ``restore(split, images, labels, numbers)`` -> images and labels in that order, and how many
            of them, the first, have been found to be those of the files. None: the stored order is the
            published one.
    """

    feature: str | None = None
    restore: Callable[[str, Any, Any, Any], tuple[Any, Any, int]] | None = None


@dataclass(frozen=True)
class DataSet:
    """An entry of the registry.

    Attributes:
        read: ``read(data_dir, image_size)`` -> keyword arguments of `advtf.from_arrays`: x_train, y_train,
            x_test, y_test (NumPy) and num_classes. Where it is None, or returns None, TFDS reads the set.
        input_shape: (H, W, C) of its images, unless another size is chosen; None where it is not known
            beforehand. Images that differ in size are resized to it.
        num_classes: how many classes it has; None likewise.
        examples: how many training and test images it has; None likewise.
        settings: training settings by name that differ from those of CIFAR-10, such as model, eps and epochs.
        l2_epsilon: the radius for ``--norm=l2``.
        epsilon_peak: schedule -> ε_max / ε, so that the clipped curve of eq. 5 ends on a plateau at ε.
        optimizers: family of the model (see `advtf.models.MODELS`), or "all" -> optimizer settings that
            replace those of the family.
        widths: model -> width that replaces the model's own.
        attack: ``attack(norm, eps)`` -> attack_steps and attack_step_size; None: 10 steps of ε/4.
        shown: models that ``--help`` shows the presets of.
        require: ``require(data_dir)`` raises UsageError where the data cannot be there.
        training_examples: how many of them are for training; None where the prepared data tell.
        published: how ``--order=published`` is had; None where it is not known.
        crop: what of every image is resized, as in `advtf.data.augmentation.resize`; None for all of it.
        test_split: the split of TFDS with the test images; None: "test", else "validation".
    """

    read: Callable[[str | None, int | None], dict[str, Any] | None] | None = None
    input_shape: tuple[int, int, int] | None = None
    num_classes: int | None = None
    examples: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    l2_epsilon: float = 0.5
    epsilon_peak: Mapping[str, float] = field(default_factory=lambda: {"cosine": 2.0, "linear": 2.0})
    optimizers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    attack: Callable[[str, float], dict[str, Any] | None] = lambda norm, eps: None
    shown: tuple[str, ...] = ()
    require: Callable[[str | None], None] = lambda data_dir: None
    training_examples: int | None = None
    published: PublishedOrder | None = None
    crop: float | None = None
    test_split: str | None = None


def _mnist_attack(norm: str, eps: float) -> dict[str, Any] | None:
    """K = ε/0.01 + 10 steps of 0.01 (Liu et al. 2020, appendix C.1)."""
    if norm == "linf" and (eps == 0 or eps >= 0.01):
        return dict(attack_steps=round(eps / 0.01) + 10, attack_step_size="0.01")
    return None


def _published(name: str) -> Callable[..., tuple[Any, Any, int]]:
    """Returns `advtf.data.published.<name>`, which is imported when it is called."""

    def restore(*arguments: Any) -> tuple[Any, Any, int]:
        from advtf.data import published

        return getattr(published, name)(*arguments)

    return restore


def _read_digits(data_dir: str | None, image_size: int | None) -> dict[str, Any]:
    from advtf.data import digits

    return digits.read(image_size)


def _read_tiny_imagenet(data_dir: str | None, image_size: int | None) -> dict[str, Any] | None:
    from advtf.data import tiny_imagenet

    folder = tiny_imagenet_folder(data_dir)
    return tiny_imagenet.read(folder, image_size) if folder else None


def _require_tiny_imagenet(data_dir: str | None) -> None:
    directory = tfds_directory(data_dir)
    if not (tiny_imagenet_folder(data_dir) or os.path.isdir(os.path.join(directory, "tiny_imagenet"))):
        raise UsageError(
            f"tiny_imagenet must lie in {directory}, as the folder {TINY_IMAGENET_FOLDER} or prepared for "
            "TFDS. Received: dataset=tiny_imagenet and neither. Unpack tiny-imagenet-200.zip (of Stanford's "
            "CS231n) and point --data_dir at it."
        )


# Published values are those of Liu et al. 2020, section 5 and appendix C.1; for tiny_imagenet those of Li &
# Spratling 2023, section 5.1. The others are this library's choices and are marked so.
DATASETS: dict[str, DataSet] = {
    # Our choice: sized so that the embedded data trains in well under a minute on two cores. ε and the rate
    # were picked from six settings with their test errors in view: an example, not a benchmark.
    "digits": DataSet(
        input_shape=(8, 8, 1),
        num_classes=10,
        examples=1_797,
        read=_read_digits,
        settings=dict(
            model="lenet",
            eps=0.1,
            epochs=30,
            batch_size=64,
            val_fraction=0.1,
            periods=(0.5, 0.75),
            augment=False,
        ),
        epsilon_peak={"cosine": 1.5, "linear": 2.0},
        optimizers={"all": ADAM | dict(lr=3e-3)},
        widths={"lenet": 4},
        shown=("lenet",),
        training_examples=1_438,
        published=PublishedOrder(),
    ),
    "mnist": DataSet(
        input_shape=(28, 28, 1),
        num_classes=10,
        examples=70_000,
        settings=dict(model="lenet", eps=0.4, epochs=100, batch_size=128, augment=False),
        l2_epsilon=2.0,  # our choice
        epsilon_peak={"cosine": 1.5, "linear": 2.0},  # 0.6 and 0.8 for 0.4
        optimizers={"all": ADAM},
        attack=_mnist_attack,
        shown=("lenet",),
        published=PublishedOrder(restore=_published("mnist")),
    ),
    "fashion_mnist": DataSet(
        input_shape=(28, 28, 1),
        num_classes=10,
        examples=70_000,
        settings=dict(
            model="lenet", eps=0.1, epochs=100, batch_size=128, augment=False
        ),  # radius: our choice
        l2_epsilon=2.0,  # our choice
        epsilon_peak={"cosine": 1.5, "linear": 2.0},
        optimizers={"all": ADAM},
        attack=_mnist_attack,
        shown=("lenet",),
    ),
    "cifar10": DataSet(
        input_shape=(32, 32, 3),
        num_classes=10,
        examples=60_000,
        shown=("resnet18", "vgg"),
        published=PublishedOrder("id", _published("cifar10")),
    ),
    "cifar100": DataSet(input_shape=(32, 32, 3), num_classes=100, examples=60_000),
    # Mirrored digits are other symbols, so no crop and flip: our choice.
    "svhn_cropped": DataSet(
        input_shape=(32, 32, 3),
        num_classes=10,
        examples=99_289,
        settings=dict(augment=False),
        shown=("resnet18",),
    ),
    "tiny_imagenet": DataSet(
        input_shape=(64, 64, 3),
        num_classes=200,
        examples=110_000,
        read=_read_tiny_imagenet,
        settings=dict(model="preact_resnet18", eps_sched="constant", batch_size=100),
        optimizers={"resnet": dict(optimizer="sgd", lr=0.1, lr_sched="step", weight_decay=1e-4)},
        shown=("preact_resnet18",),
        require=_require_tiny_imagenet,
    ),
    # Settings after Wong et al. 2020 (ICLR), who train on it in 15 epochs; our choice is one size of images
    # and the rate. The labels of its test images are not public: everybody tests on the validation images.
    "imagenet2012": DataSet(
        input_shape=(224, 224, 3),
        num_classes=1000,
        examples=1_281_167 + 50_000,
        settings=dict(
            model="resnet50",
            eps=4 / 255,
            eps_sched="constant",
            epochs=15,
            batch_size=256,
            val_fraction=0.01,
        ),
        l2_epsilon=3.0,  # our choice
        optimizers={"resnet": dict(optimizer="sgd", lr=0.1, lr_sched="step", weight_decay=1e-4)},
        crop=224 / 256,
        test_split="validation",
    ),
}


def entry_of(name: str) -> DataSet:
    """Returns the entry of a data set, an empty one where it has none.

    Args:
        name: of the data set, with a version or without.
    """
    return DATASETS.get(name.split(":")[0], DataSet())


def order_setting(section: str, default: str | None = "stored", default_text: str | None = None) -> Any:
    """Returns the setting ``order`` of every command that reads data sets.

    Args:
        section: the heading of ``--help`` it is listed under.
        default: None where it follows from something else.
        default_text: what ``--help`` shows for the default.
    """
    description = "order of the images: as TFDS stores them, or that of the published files"
    return setting(section, choice(ORDERS), description, default, default_text, earlier="stored")


def published_order(name: str) -> PublishedOrder | None:
    """Returns how the published order of a data set is had, or None where it is not known.

    Args:
        name: of the data set, with a version or without.
    """
    return entry_of(name).published


def require_order(name: str, order: str) -> None:
    """Checks that a data set can be had in an order.

    Args:
        name: of the data set, with a version or without.
        order: one of `ORDERS`.

    Raises:
        UsageError: it cannot.
    """
    if one_of("order", order, ORDERS) == "published" and published_order(name) is None:
        known = [name for name, entry in DATASETS.items() if entry.published]
        raise UsageError(
            f"order=published needs a data set whose published order is known: {', '.join(known)}. "
            f"Received: dataset={name}. Use --order=stored."
        )


def tfds_directory(data_dir: str | None) -> str:
    """Returns the folder of prepared TFDS data: `data_dir`, TFDS_DATA_DIR or ``~/tensorflow_datasets``."""
    return os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def tiny_imagenet_folder(data_dir: str | None = None) -> Path | None:
    """Returns the unpacked folder of Tiny ImageNet, the data directory or one in it, or None."""
    directory = Path(tfds_directory(data_dir))
    if directory.is_dir() and (directory.name == TINY_IMAGENET_FOLDER or (directory / "wnids.txt").exists()):
        return directory
    inside = directory / TINY_IMAGENET_FOLDER
    return inside if inside.is_dir() else None


def tfds_names() -> set[str]:
    """Returns the names of the image data sets of TFDS, and of some others.

    They are read from its source files, which takes a tenth of the time that its import does; where it is
    imported already, it is asked itself, since it knows the sets that a script has added.
    """
    imported = sys.modules.get("tensorflow_datasets")
    if imported is not None:
        return set(imported.list_builders(with_community_datasets=False))
    package = importlib.util.find_spec("tensorflow_datasets").submodule_search_locations[0]
    names = set(os.listdir(os.path.join(package, "datasets")))  # a folder for each data set
    for folder in ("image", "image_classification"):  # older ones: a class for each data set
        for file in Path(package, folder).rglob("*.py"):
            names.update(map(_snake_case, re.findall(r"^class (\w+)\(", file.read_text(), re.MULTILINE)))
    return names


def _snake_case(name):
    """Returns the name that TFDS gives to a class of this name."""
    for pattern in ("(.)([A-Z][a-z0-9]+)", "([a-z0-9])([A-Z])"):
        name = re.sub(pattern, r"\1_\2", name)
    return name.lower()


def require_known(name: str, data_dir: str | None = None) -> None:
    """Checks that a data set is registered, prepared, or known to TFDS.

    Args:
        name: a key of `DATASETS` or a TFDS name, with configuration and version or without.
        data_dir: as for `tfds_directory`.

    Raises:
        UsageError: it is none of these; the message has the nearest name. Or it is registered, and its data
            cannot be there.
    """
    _require_name(name, data_dir)
    entry_of(name.split("/")[0]).require(data_dir)


def _require_name(name, data_dir):
    base = name.split("/")[0].split(":")[0]
    directory = tfds_directory(data_dir)
    prepared.require_version(name)
    if base in DATASETS or os.path.isdir(os.path.join(directory, base)):
        return
    known = tfds_names()
    if base not in known:
        raise UsageError(
            f"dataset must be {', '.join(DATASETS)}, a TFDS image-classification set, or one prepared in "
            f"{directory}. Received: dataset={name}.{nearest(base, [*DATASETS, *known])}"
        )


def require_available(
    name: str,
    data_dir: str | None = None,
    batch_size: int = 1,
    held_out: float = 0.0,
    train_examples: int | None = None,
    *,
    there: bool = True,
) -> None:
    """Checks without TensorFlow, as far as that can be told, that a data set can be read or downloaded.

    Args:
        name, data_dir: as for `require_known`.
        batch_size: the number of training images that must be there.
        held_out: the share of the training images that are held out for validation.
        train_examples: how many of the others are trained on; None for all.
        there: whether the data must be there or within reach. Without it only the name is checked, and the
            numbers where they are known.

    Raises:
        UsageError: the data set is not known, not prepared and out of reach, or has fewer training images.
    """
    (require_known if there else _require_name)(name, data_dir)
    entry, directory = DATASETS.get(name, DataSet()), tfds_directory(data_dir)
    count = entry.training_examples
    if entry.read is None:
        if there:
            prepared.require(name, directory)
        count = prepared.examples(name, directory, "train")
    if count is not None:
        count -= math.floor(count * held_out)
        if train_examples is not None:
            require_train_examples(train_examples, count)
        require_batch_size(batch_size, train_examples or count)


def require_place(name: str, data_dir: str | None, images: str) -> None:
    """Checks without TensorFlow, as far as that can be told, that the images of a data set can stay there.

    Args:
        name, data_dir: as for `require_known`.
        images: one of `PLACES`.

    Raises:
        UsageError: they are to stay on the disk, and are not in ArrayRecord files.
    """
    if images != "disk":
        return
    base, directory = name.split("/")[0].split(":")[0], tfds_directory(data_dir)
    if entry_of(base).read and not os.path.isdir(os.path.join(directory, base)):
        raise not_on_disk(name)
    stored = prepared.file_format(name, directory)
    if stored not in (None, "array_record"):
        raise not_in_records(name, directory, stored)


def not_on_disk(name: str) -> UsageError:
    """Returns the refusal of ``images=disk`` for a data set that TFDS does not read."""
    return UsageError(
        f"images=disk needs data that TFDS has prepared as ArrayRecord files. Received: dataset={name}, "
        "which is read into memory. Use --images=auto."
    )


def not_in_records(name: str, folder: object, stored: str) -> UsageError:
    """Returns the refusal of ``images=disk`` for files of another format.

    Args:
        name: of the data set.
        folder: where its files are.
        stored: their format.
    """
    return UsageError(
        f"images=disk needs data that TFDS has prepared as ArrayRecord files. Received: {folder}, files of "
        f"{stored}. Prepare them by "
        f"tfds.builder('{name}', data_dir=..., file_format='array_record').download_and_prepare()."
    )


def require_train_examples(count: int, examples: int) -> None:
    """Checks that as many examples can be chosen to train on.

    Args:
        count: how many are wanted.
        examples: how many there are, without those held out for validation.

    Raises:
        UsageError: there are fewer, or none is wanted.
    """
    if not 1 <= count <= examples:
        raise UsageError(
            f"train_examples must be between 1 and the {examples} training examples that are not held out "
            f"for validation. Received: train_examples={count}. Leave it out to train on all of them."
        )


def require_batch_size(batch_size: int, examples: int) -> None:
    """Checks that there are as many examples as are in a batch.

    Raises:
        UsageError: there are not.
    """
    if not 1 <= batch_size <= examples:
        raise UsageError(
            f"batch_size must be between 1 and the {examples} examples there are. "
            f"Received: batch_size={batch_size}."
        )
