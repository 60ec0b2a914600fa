"""Image data sets, loaded by name or made from arrays, and checked."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from advtf.data import arrays, tfds
from advtf.data.registry import DATASETS, not_on_disk, require_order
from advtf.data.stored import StoredImages, UnreadImages
from advtf.errors import UsageError
from advtf.storage.cache import array_header


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels.

    Attributes:
        images: (N, H, W, C), uint8 in 0..255 or float32 in [0, 1]; an array, or images that stay on the
            disk, or, while a data set is loaded, some that have not been read yet.
        labels: classes, int32 (N,).
    """

    images: np.ndarray | StoredImages | UnreadImages
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, which: np.ndarray | slice) -> "Split":
        """Returns the examples at these positions, as indices, a mask or a slice."""
        images = self.images[which] if isinstance(self.images, np.ndarray) else self.images.take(which)
        return Split(images, self.labels[which])

    def read(self) -> "Split":
        """Returns the examples with their images in memory, unless these are to stay on the disk."""
        return self if isinstance(self.images, np.ndarray) else Split(self.images.read(), self.labels)

    def record(self) -> dict[str, Any]:
        """Returns which images these are, as result files tell it: their number and their SHA-256."""
        return {"examples": len(self), "sha256": self.sha256()}

    def sha256(self) -> str:
        """Returns the digest by which result files tell which images were used, in which order.

        It is that of the images as float32 in [0, 1] and of the labels as int32, each after its type and
        shape, and so the same for images in 0..255 and in [0, 1].

        Examples:
            >>> parts = images.astype("<f4") / np.float32(255), labels.astype("<i4")
            >>> texts = [f"{part.dtype.str} {part.shape} ".encode() + part.tobytes() for part in parts]
            >>> hashlib.sha256(b"".join(texts)).hexdigest()
        """
        digest = hashlib.sha256(array_header("<f4", self.images.shape))
        for start in range(0, len(self), 1000):  # float32 training images may not fit into memory
            part = self.images[start : start + 1000]
            part = part.astype("<f4") / np.float32(255) if part.dtype == np.uint8 else part.astype("<f4")
            digest.update(part.tobytes())
        digest.update(array_header("<i4", self.labels.shape) + self.labels.astype("<i4").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set.

    Attributes:
        name: what messages and files call it.
        train: the examples to train on.
        validation: examples held out from the training data, by which a training chooses; None without any.
        test: the examples that measure the result.
        num_classes: the number K of classes.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    num_classes: int

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape (H, W, C) of an image."""
        return self.train.images.shape[1:]

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of images, by the names "train", "validation" (where there are any) and "test"."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: len(split) for name, split in splits.items() if split is not None}


def load(
    name: str,
    data_dir: str | None = None,
    val_fraction: float = 0.0,
    image_size: int | None = None,
    order: str = "stored",
    images: str = "auto",
    train_examples: int | None = None,
) -> ImageData:
    """Loads a data set by name.

    Args:
        name: a key of `advtf.data.registry.DATASETS`, such as ``digits``, or any image-classification set of
            TFDS.
        data_dir: the folder of prepared data, see `advtf.data.registry.tfds_directory`.
        val_fraction: share of the training examples held out for validation, by a fixed rule, in [0, 1).
        image_size: the images are resized to a square of this side, in pixels; None keeps their size.
        order: "stored", as TFDS stores them, or "published", that of the files which the data set was
            published as; it is known for digits, mnist and cifar10. It decides which images are the first
            ones, which are held out and which are chosen.
        images: one of `advtf.data.registry.PLACES`: whether they are read into memory, or stay on the disk.
        train_examples: train on so many of the examples that are not held out, see `from_arrays`.

    Raises:
        UsageError: unknown name, no data and no network, damaged or unsuitable data, bad fraction, size or
            number, no such order, or images that cannot stay on the disk.
    """
    _require_fraction(val_fraction)
    found = _read(name, data_dir, image_size, order, images=images)
    data = from_arrays(**found, val_fraction=val_fraction, train_examples=train_examples, name=name)
    held_out = data.validation.read() if data.validation else None
    return replace(data, train=data.train.read(), validation=held_out, test=data.test.read())


def load_test(
    name: str,
    data_dir: str | None = None,
    image_size: int | None = None,
    order: str = "stored",
    first: int | None = None,
) -> tuple[Split, int]:
    """Loads the test images of a data set without those for training.

    Args:
        name, data_dir, image_size, order: as for `load`.
        first: the number of examples taken, the first ones; None takes all.

    Returns:
        The examples, and the number of classes.

    Raises:
        UsageError: as for `load`.
    """
    found = _read(name, data_dir, image_size, order, parts=("test",), first=first)
    test = Split(*arrays.checked("test", found["x_test"], found["y_test"]))
    labels = [test.labels, *(found[part] for part in ("y_train",) if part in found)]
    return test.select(slice(first)).read(), arrays.class_count(labels, found.get("num_classes"))


def _read(name, data_dir, image_size, order, **wanted):
    """Returns the arguments of `from_arrays`; where TFDS reads the data, those of the parts wanted."""
    if image_size is not None and image_size < 1:
        raise UsageError(f"image_size must be at least 1. Received: image_size={image_size}.")
    require_order(name, order)
    read = DATASETS[name].read if name in DATASETS else None
    found = read(data_dir, image_size) if read else None
    if found and wanted.get("images") == "disk":
        raise not_on_disk(name)
    return found or tfds.read(name, data_dir, image_size, order, **wanted)


def from_arrays(
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray,
    y_test: np.ndarray,
    *,
    val_fraction: float = 0.0,
    train_examples: int | None = None,
    num_classes: int | None = None,
    name: str = "arrays",
) -> ImageData:
    """Makes a data set of arrays, after checking them.

    Args:
        x_train: images (N, H, W, C), uint8 in 0..255 or float in [0, 1].
        y_train: integer labels (N,) or (N, 1) in [0, num_classes).
        x_test: test images of the same shape and range.
        y_test: their labels, in the same form.
        val_fraction: share of the training examples held out for validation, in [0, 1).
        train_examples: train on so many of the others, a stratified subset: the first ones of every class, as
            many of one class as of another. Those of a smaller number are among those of a larger one, and
            what is held out does not depend on it. None trains on all.
        num_classes: the number K of classes; None takes the largest label + 1.
        name: what messages and files call it.

    Raises:
        UsageError: wrong shapes, types, ranges or lengths; the message says which and how to mend it.
    """
    _require_fraction(val_fraction)
    train = Split(*arrays.checked("train", x_train, y_train))
    test = Split(*arrays.checked("test", x_test, y_test))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UsageError(
            "x_train and x_test must have the same image shape. "
            f"Received: {train.images.shape[1:]} and {test.images.shape[1:]}."
        )
    classes = arrays.class_count([train.labels, test.labels], num_classes)
    train, validation = _hold_out(train, val_fraction)
    if train_examples is not None:
        train = train.select(arrays.stratified(train.labels, train_examples))
    return ImageData(name, train, validation, test, classes)


def _hold_out(train: Split, fraction: float) -> tuple[Split, Split | None]:
    if fraction == 0:
        return train, None
    held = arrays.held_out(train.labels, fraction)
    if not held.any():
        raise UsageError(
            f"val_fraction must hold out at least one of the {len(train)} training examples. "
            f"Received: val_fraction={fraction}. Use 0 for no validation."
        )
    return train.select(~held), train.select(held)


def _require_fraction(value: float) -> None:
    if not 0 <= value < 1:
        raise UsageError(f"val_fraction must be in [0, 1). Received: val_fraction={value}.")
