"""Which data set names there are; answers a misspelt one before TensorFlow starts."""

import os
from pathlib import Path

from advtf.errors import UsageError, nearest

COMMON = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn_cropped")  # need no look-up
TINY_IMAGENET, TINY_FOLDER = "tiny_imagenet", "tiny-imagenet-200"


def tfds_directory(data_dir: str | None) -> str:
    """Returns the folder of prepared TFDS data: `data_dir`, TFDS_DATA_DIR or ``~/tensorflow_datasets``."""
    return os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def tiny_imagenet_folder(data_dir: str | None = None) -> Path | None:
    """Returns the unpacked folder of Tiny ImageNet, the data directory or one in it, or None."""
    directory = Path(tfds_directory(data_dir))
    if directory.is_dir() and (directory.name == TINY_FOLDER or (directory / "wnids.txt").exists()):
        return directory
    inside = directory / TINY_FOLDER
    return inside if inside.is_dir() else None


def require_known(name: str, data_dir: str | None = None) -> None:
    """Checks that TFDS knows a data set, or that one of this name has been prepared or unpacked.

    Args:
        name: ``digits``, ``tiny_imagenet`` or a TFDS name, with configuration and version or without.
        data_dir: as for `tfds_directory`.

    Raises:
        UsageError: it is neither; the message has the nearest name.
    """
    base = name.split("/")[0].split(":")[0]
    directory = tfds_directory(data_dir)
    if base in COMMON or os.path.isdir(os.path.join(directory, base)):
        return
    if name == TINY_IMAGENET and tiny_imagenet_folder(data_dir):
        return
    import tensorflow_datasets as tfds  # lazy: it does not import TensorFlow

    known = tfds.list_builders(with_community_datasets=False)
    if base in known:
        return
    if base == TINY_IMAGENET:
        raise UsageError(
            f"tiny_imagenet must lie in {directory}, as the folder {TINY_FOLDER} or prepared for TFDS. "
            f"Received: dataset={name} and neither. Unpack tiny-imagenet-200.zip (of Stanford's CS231n) and "
            "point --data_dir at it."
        )
    raise UsageError(
        f"dataset must be digits, a TFDS image-classification set, or one prepared in {directory}. "
        f"Received: dataset={name}.{nearest(base, [*COMMON, TINY_IMAGENET, *known])}"
    )
