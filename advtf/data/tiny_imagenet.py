"""Tiny ImageNet (Le & Yang 2015) from its standard folder, ``tiny-imagenet-200``, as NumPy arrays."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from advtf.data import augmentation
from advtf.data.pipelines import untuned
from advtf.errors import UsageError
from advtf.runtime import progress

BATCH = 512
ENDINGS = (".jpeg", ".jpg")
REMEDY = "Remove the folder and unpack tiny-imagenet-200.zip again."


def read(folder: Path, image_size: int | None = None) -> dict[str, Any]:
    """Reads the training images and the labelled ``val`` images, on which everybody tests, into memory.

    The classes are those of wnids.txt, numbered in alphabetical order, as PyTorch's ImageFolder does, so that
    published checkpoints keep their meaning. Training images come class by class, by file name; test images
    in the order of val_annotations.txt. Grey images become RGB.

    Args:
        folder: holds wnids.txt, train and val.
        image_size: every image is resized to a square of this side; with None all must have the size of
            the first.

    Returns:
        x_train, y_train, x_test, y_test (uint8 images, int32 labels) and num_classes.

    Raises:
        UsageError: a file is missing, damaged or of another size.
    """
    numbers = class_numbers(folder)
    train, test = list(_train_files(folder, numbers)), list(_validation_files(folder, numbers))
    shape = (image_size, image_size, 3) if image_size else _first_shape(train[0][0])
    parts: dict[str, Any] = {"num_classes": len(numbers)}
    for part, files in (("train", train), ("test", test)):
        paths, labels = zip(*files, strict=True)
        parts[f"x_{part}"] = decode(paths, shape, resized=image_size is not None, label=part)
        parts[f"y_{part}"] = np.array(labels, np.int32)
    return parts


def class_numbers(folder: Path) -> dict[str, int]:
    """Returns the number of each class in wnids.txt, counted from 0 in alphabetical order.

    Raises:
        UsageError: the file is missing, empty, or names a class twice.
    """
    names = [line.strip() for line in _lines(folder / "wnids.txt") if line.strip()]
    if len(names) < 2 or len(set(names)) < len(names):
        repeated = f", {len(names) - len(set(names))} of them again" if names else ""
        raise UsageError(
            f"{folder / 'wnids.txt'} must name two or more classes, each once. "
            f"Received: {len(names)}{repeated}. {REMEDY}"
        )
    return {name: number for number, name in enumerate(sorted(names))}


def _train_files(folder: Path, numbers: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for name, number in numbers.items():
        images = folder / "train" / name / "images"
        found = sorted(os.listdir(images)) if images.is_dir() else []
        found = [file for file in found if file.lower().endswith(ENDINGS) and not file.startswith(".")]
        if not found:
            raise UsageError(f"{images} must hold the JPEGs of class {name}. Received: none. {REMEDY}")
        yield from ((str(images / file), number) for file in found)


def _validation_files(folder: Path, numbers: Mapping[str, int]) -> list[tuple[str, int]]:
    table, files = folder / "val" / "val_annotations.txt", []
    for number, line in enumerate(_lines(table), start=1):
        file, _, rest = line.partition("\t")
        name = rest.split("\t")[0].strip()
        if line.strip() and name not in numbers:
            raise UsageError(
                f"{table} must give a file and a class of wnids.txt on each line, with tabs between. "
                f"Received: line {number}, {line.strip()[:60]!r}. {REMEDY}"
            )
        if line.strip():
            files.append((str(folder / "val" / "images" / file), numbers[name]))
    if not files:
        raise UsageError(f"{table} must name the validation images. Received: none. {REMEDY}")
    return files


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise UsageError(f"{file} must be a readable text file. Received: {reason}. {REMEDY}") from error


def decode(
    paths: Sequence[str], shape: tuple[int, int, int], *, resized: bool = False, label: str | None = None
) -> np.ndarray:
    """Decodes JPEGs in parallel; the order is that of `paths`.

    Args:
        paths: the files.
        shape: (H, W, 3) that each must have.
        resized: whether each is resized to that shape, a square, instead.
        label: the text of the progress bar; None shows no bar.

    Returns:
        uint8 (N, H, W, 3).

    Raises:
        UsageError: a file is missing, damaged or of another shape; the message names it.
    """
    images, filled = np.empty((len(paths), *shape), np.uint8), 0
    with tf.device("CPU:0"):
        batches = tf.data.Dataset.from_tensor_slices(list(paths))
        batches = batches.map(
            lambda path: _shaped(_pixels(path), shape, resized), tf.data.AUTOTUNE, deterministic=True
        )
        batches = batches.batch(BATCH).prefetch(1)
        with progress(total=len(paths), desc=label, unit="image", shown=label is not None) as shown:
            try:
                for batch in untuned(batches).as_numpy_iterator():
                    images[filled : filled + len(batch)] = batch
                    filled += len(batch)
                    shown.update(len(batch))
            except tf.errors.OpError as error:
                raise _first_bad(paths[filled : filled + BATCH], shape, resized) from error
    return images


def _pixels(path):
    # The accurate transform: the pixels of libjpeg, which Pillow and torchvision show too.
    return tf.io.decode_jpeg(tf.io.read_file(path), channels=3, dct_method="INTEGER_ACCURATE")


def _shaped(image, shape, resized):
    return tf.ensure_shape(augmentation.resize(image, shape[0]) if resized else image, shape)


def _first_shape(path: str) -> tuple[int, int, int]:
    try:
        return tuple(_pixels(path).shape)
    except tf.errors.OpError as error:
        raise _bad(path, _reason(error)) from error


def _first_bad(paths, shape, resized) -> UsageError:
    """The error of the first file that cannot be had, decoded one at a time."""
    for path in paths:
        try:
            image = _pixels(path)
        except tf.errors.OpError as error:
            return _bad(path, _reason(error))
        if not resized and image.shape != shape:
            height, width, _ = image.shape
            wanted = f"{shape[0]}×{shape[1]} pixels like the first"
            return UsageError(
                f"{path} must have {wanted}. Received: {height}×{width}. Pass for example --image_size=64."
            )
    return _bad(paths[0], "a failure that did not come again")


def _reason(error: tf.errors.OpError) -> str:
    if isinstance(error, tf.errors.NotFoundError):
        return "no such file"
    return "damaged data" if isinstance(error, tf.errors.InvalidArgumentError) else type(error).__name__


def _bad(path: str, reason: str) -> UsageError:
    return UsageError(f"{path} must be a whole JPEG. Received: {reason}. {REMEDY}")
