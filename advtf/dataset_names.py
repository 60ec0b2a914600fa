"""Which data set names there are; answers a misspelt one before TensorFlow starts."""

import os

from advtf.errors import UsageError, nearest

COMMON = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn_cropped")  # need no look-up


def tfds_directory(data_dir: str | None) -> str:
    """Returns the folder of prepared TFDS data: `data_dir`, TFDS_DATA_DIR or ``~/tensorflow_datasets``."""
    return os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


def require_known(name: str, data_dir: str | None = None) -> None:
    """Checks that TFDS knows a data set, or that one of this name has been prepared.

    Args:
        name: ``digits`` or a TFDS name, with configuration and version or without.
        data_dir: as for `tfds_directory`.

    Raises:
        UsageError: it is neither; the message has the nearest name.
    """
    base = name.split("/")[0].split(":")[0]
    directory = tfds_directory(data_dir)
    if base in COMMON or os.path.isdir(os.path.join(directory, base)):
        return
    import tensorflow_datasets as tfds  # lazy: it does not import TensorFlow

    known = tfds.list_builders(with_community_datasets=False)
    if base not in known:
        raise UsageError(
            f"dataset must be digits, a TFDS image-classification set, or one prepared in {directory}. "
            f"Received: dataset={name}.{nearest(base, [*COMMON, *known])}"
        )
