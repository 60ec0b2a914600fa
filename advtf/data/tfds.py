"""Image-classification sets of TensorFlow Datasets: prepared data first, else a download."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from advtf.data import augmentation, prepared
from advtf.data.registry import (
    DataSet,
    entry_of,
    not_in_records,
    published_order,
    require_known,
    require_order,
    tfds_directory,
)
from advtf.data.stored import StoredImages, UnreadImages, open_split, scan_split
from advtf.errors import UsageError
from advtf.settings.memory import machine_memory, require_memory


def read(
    name: str,
    data_dir: str | None = None,
    image_size: int | None = None,
    order: str = "stored",
    *,
    parts: tuple[str, ...] = ("train", "test"),
    first: int | None = None,
    images: str = "auto",
) -> dict[str, Any]:
    """Reads the training and test images of a TFDS data set, or opens them where they stay on the disk.

    Args:
        name: a TFDS name, such as ``cifar10`` or ``cifar10_corrupted/fog_3``, or one prepared in `data_dir`.
        data_dir: the folder of prepared data, see `advtf.data.registry.tfds_directory`.
        image_size: the side in pixels of the square that images are resized to; required where the sizes
            vary and the registry has none. The registry also tells whether a part of each image is resized.
        order: one of `advtf.data.registry.ORDERS`.
        parts: what is wanted, "train" and "test" or one of them.
        first: how many of the images of a part are going to be used, the first ones; None for all. The
            published order is required of these only.
        images: one of `advtf.data.registry.PLACES`. Only ArrayRecord files can stay on the disk.

    Returns:
        x_train, y_train, x_test, y_test, or those of `parts`, and num_classes (None if the set does not say).
        Labels are NumPy arrays; images, too, unless they stay on the disk or are not read yet. A set without
        a test split is tested on its validation split.

    Raises:
        UsageError: unknown name, no prepared data and no network, damaged data, no images with labels, or no
            published order.
    """
    directory = tfds_directory(data_dir)
    require_known(name, data_dir)
    builder = prepared.open_builder(name, directory)
    image_key, label_key = _feature_names(builder, name)  # known without the data: no download in vain
    entry = entry_of(name)
    shape = _image_shape(builder, name, image_key, image_size, entry)
    if not builder.data_path.exists():
        _download(builder, name, directory)
    splits = {"train": "train", "test": entry.test_split or _test_split(builder, name)}
    recorded = _is_array_record(builder)
    if images == "disk" and not recorded:
        raise not_in_records(name, builder.data_path, builder.info.file_format.value)
    wanted = tuple(splits[part] for part in parts)
    size = _bytes(builder, shape, wanted)
    on_disk = recorded and (images == "disk" or (images == "auto" and size > machine_memory() / 2))
    if not on_disk:
        _require_memory(builder, name, shape, wanted)
    found = {"num_classes": builder.info.features[label_key].num_classes}
    for part in parts:
        keys = (image_key, label_key)
        if recorded:
            x, labels = _open(builder, splits[part], keys, shape, entry.crop, order, on_disk)
            found |= {f"x_{part}": x, f"y_{part}": labels}
            continue
        if order == "published":
            x, labels, checked = _read_published(builder, name, splits[part], keys, shape)
            if checked < min(first or len(labels), len(labels)):
                known = f"only the first {checked}" if checked else "none"
                remedy = f" or use the first {checked} images only," if checked and parts == ("test",) else ""
                raise UsageError(
                    "order=published needs prepared data in which the places of the published files are "
                    f"known. Received: {builder.data_path}, split {splits[part]}, where the place of "
                    f"{known} of {len(labels)} images is known. Use --order=stored,{remedy} or prepare "
                    "the data anew with TFDS."
                )
        else:
            x, labels, _ = _scan(builder, splits[part], keys, shape, entry.crop)
        found |= {f"x_{part}": x, f"y_{part}": labels}
    return found


def _download(builder: Any, name: str, directory: str) -> None:
    prepared.require_network(builder, name, directory)
    try:
        builder.download_and_prepare()
    except Exception as error:  # downloads, disks, archives and manual steps each fail with their own type
        raise UsageError(
            f"no prepared data in {directory}. Received: dataset={name}, and preparing it failed: "
            f"{prepared.reason_of(error)}. {prepared.ways_out(name, directory)}"
        ) from error


def _feature_names(builder: Any, name: str) -> tuple[str, str]:
    """Returns the names of the image and of the label feature."""
    tfds = prepared.import_tfds()
    features, supervised = builder.info.features, builder.info.supervised_keys
    image, label = supervised if supervised and len(supervised) == 2 else ("image", "label")
    if _is(features, image, tfds.features.Image) and _is(features, label, tfds.features.ClassLabel):
        return image, label
    raise UsageError(
        "the data set must have an image and a class label for each example. "
        f"Received: dataset={name} with {', '.join(sorted(features))}. Use an image-classification set."
    )


def _is(features: Any, key: Any, kind: type) -> bool:
    return isinstance(key, str) and key in features and isinstance(features[key], kind)


def _test_split(builder: Any, name: str) -> str:
    splits = list(builder.info.splits)
    for split in ("test", "validation"):
        if split in splits and "train" in splits:
            return split
    raise UsageError(
        "the data set must have a train and a test (or validation) split. "
        f"Received: dataset={name} with {', '.join(splits) or 'no splits'}. "
        "Split it yourself and pass arrays to advtf.data.sets.from_arrays."
    )


def _image_shape(
    builder: Any, name: str, key: str, image_size: int | None, entry: DataSet
) -> tuple[int, int, int]:
    """Returns the (H, W, C) that the images will have, which must be fixed."""
    height, width, channels = builder.info.features[key].shape
    if image_size is not None:
        height = width = image_size
    elif None in (height, width) and entry.input_shape:
        height, width, _ = entry.input_shape
    if None in (height, width):
        raise UsageError(
            f"image_size is required: the images of this set differ in size. Received: dataset={name}, "
            "image_size=None. Pass for example --image_size=64."
        )
    if channels is None:
        raise UsageError(f"the images must have a fixed number of channels. Received: dataset={name}.")
    return height, width, channels


def _is_array_record(builder: Any) -> bool:
    return builder.info.file_format is not None and builder.info.file_format.value == "array_record"


def _open(
    builder: Any,
    split: str,
    keys: tuple[str, str],
    shape: tuple[int, int, int],
    crop: float | None,
    order: str,
    on_disk: bool,
) -> tuple[StoredImages, np.ndarray]:
    if order == "published":
        raise UsageError(
            f"order=published needs data prepared as TFRecord files. Received: {builder.data_path}, "
            "ArrayRecord files. Use --order=stored."
        )
    failed = functools.partial(_damaged, builder, split)
    try:
        return open_split(builder, split, keys, shape, crop, None if on_disk else failed)
    except Exception as error:  # missing, truncated or foreign files
        raise failed(error) from error


def _bytes(builder: Any, shape: tuple[int, int, int], splits: tuple[str, ...]) -> int:
    return sum(builder.info.splits[split].num_examples for split in splits) * int(np.prod(shape))


def _require_memory(builder: Any, name: str, shape: tuple[int, int, int], splits: tuple[str, ...]) -> None:
    received = f"dataset={name} at {shape[0]}x{shape[1]}"
    remedy = "Pass a smaller --image_size, or prepare the data by TFDS with file_format=array_record."
    require_memory("the data set", _bytes(builder, shape, splits), received, remedy)


def _read_published(
    builder: Any,
    name: str,
    split: str,
    keys: tuple[str, str],
    shape: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns a split in the order of the published files, and how many of its images are those of them."""
    require_order(name, order="published")
    how = published_order(name)
    stored = builder.info.features[keys[0]].shape  # the pixels are checked before they are resized
    unread, labels, numbers = _scan(builder, split, keys, stored, None, how.feature)
    images, checked = unread.read(), len(labels)
    if how.restore:
        images, labels, checked = how.restore(split, images, labels, numbers)
    if shape != stored:
        batches = (images[i : i + 1024] for i in range(0, len(images), 1024))
        images = np.concatenate([augmentation.resize(tf.constant(x), shape[0]) for x in batches])
    return images, labels, checked


def _scan(
    builder: Any,
    split: str,
    keys: tuple[str, str],
    shape: tuple[int, int, int],
    crop: float | None,
    number: str | None = None,
) -> tuple[UnreadImages, np.ndarray, np.ndarray | None]:
    """Returns images, labels, and the feature that numbers the examples if one is named."""
    failed = functools.partial(_damaged, builder, split)
    return scan_split(builder, split, keys, shape, crop, failed, number)


def _damaged(builder: Any, split: str, error: Exception) -> UsageError:
    return UsageError(
        f"the prepared data must be complete. Received: {builder.data_path}, split {split}: "
        f"{prepared.reason_of(error)}. Remove that folder and prepare the data again."
    )
