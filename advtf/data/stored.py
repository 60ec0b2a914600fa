"""Images that are in record files of TFDS, while they are not in memory.

`StoredImages` stay on the disk: any example of an ArrayRecord file is read when it is needed. A data set
larger than memory is trained on through them; they take the place of the array of images in
`advtf.data.sets.Split`, and what reads batches asks them for theirs. `UnreadImages` are read into memory, in
one pass through the files, once it is known which of them are used: to decode all images of CIFAR-10 takes
longer than a short training on a few of them. Those of ArrayRecord files that fit into memory are read then,
too. Both decode and resize by the same operations, so the images have the same bits.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from advtf.data import augmentation
from advtf.data.pipelines import untuned

CHUNK = 256  # records read at a time where many are wanted
# Unless the order of the examples is fixed, TFDS takes this many in turn from each of this many files.
TFDS_BLOCK, TFDS_CYCLE = 16, 16


class UnreadImages:
    """Images in files that are read from the first record to the last; `read` makes an array of them.

    Args:
        records: the serialized examples, a dataset of string scalars.
        decode: a serialized example, a string tensor -> its image (H, W, C).
        shape: (H, W, C) of every image.
        dtype: of the images.
        rows: int64 (N,), which of the records these are.
        failed: what went wrong while reading -> the error to raise.

    Attributes:
        shape: (N, H, W, C).
        dtype: of the images, a NumPy type.
    """

    def __init__(
        self,
        records: tf.data.Dataset,
        decode: Callable[[tf.Tensor], tf.Tensor],
        shape: tuple[int, int, int],
        dtype: Any,
        rows: np.ndarray,
        failed: Callable[[Exception], Exception],
    ):
        self._records, self._decode, self._rows, self._failed = records, decode, rows, failed
        self.shape, self.dtype = (len(rows), *shape), np.dtype(dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, which: np.ndarray | slice) -> "UnreadImages":
        """Returns the images at these positions, as indices, a mask or a slice, without reading them."""
        rows = self._rows[which]
        return UnreadImages(self._records, self._decode, self.shape[1:], self.dtype, rows, self._failed)

    def read(self) -> np.ndarray:
        """Returns the images (N, H, W, C). Records that are not among them are passed over undecoded.

        Raises:
            the error that `failed` makes of missing, truncated or foreign files.
        """
        rows, places = np.unique(self._rows, return_inverse=True)
        wanted = np.zeros(rows[-1] + 1 if len(rows) else 0, bool)
        wanted[rows] = True
        masks = tf.data.Dataset.from_tensor_slices(wanted).batch(CHUNK)
        batches = tf.data.Dataset.zip(self._records.take(len(wanted)).batch(CHUNK), masks)
        chosen = batches.map(tf.boolean_mask).unbatch()
        images = chosen.map(self._decode, tf.data.AUTOTUNE).batch(CHUNK).prefetch(1)
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        filled = 0
        try:
            for part in untuned(images).as_numpy_iterator():
                found[filled : filled + len(part)] = part
                filled += len(part)
            if filled != len(rows):
                raise ValueError(f"{filled} of {len(rows)} examples")
        except Exception as error:  # files that are missing, truncated or foreign: the remedy is the same
            raise self._failed(error) from error
        return found if np.array_equal(places, np.arange(len(rows))) else found[places]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.read().astype(dtype or self.dtype, copy=False)


class StoredImages:
    """Images in files of records; like an array (N, H, W, C) where it is asked for a part.

    Args:
        records: the serialized examples, with a length and ``__getitems__(indices)``.
        decode: a serialized example, a string tensor -> its image (H, W, C).
        shape: (H, W, C) of every image.
        dtype: of the images.
        rows: int64 (N,), which records these are; None for all.
        failed: what went wrong while reading -> the error to raise; None for images that stay on the disk.

    Attributes:
        shape: (N, H, W, C).
        dtype: of the images, a NumPy type.
    """

    def __init__(
        self,
        records: Any,
        decode: Callable[[tf.Tensor], tf.Tensor],
        shape: tuple[int, int, int],
        dtype: Any,
        rows: np.ndarray | None = None,
        failed: Callable[[Exception], Exception] | None = None,
    ):
        self._records, self._decode, self._failed = records, decode, failed
        self._rows = np.arange(len(records), dtype=np.int64) if rows is None else rows
        self.shape, self.dtype = (len(self._rows), *shape), np.dtype(dtype)
        self._read: Callable | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, which: np.ndarray | slice) -> "StoredImages":
        """Returns the images at these positions, as indices, a mask or a slice, without reading them."""
        rows = self._rows[which]
        return StoredImages(self._records, self._decode, self.shape[1:], self.dtype, rows, self._failed)

    def read(self) -> "np.ndarray | StoredImages":
        """Returns the images (N, H, W, C) in memory, or these where they stay on the disk.

        Raises:
            the error that `failed` makes of damaged files.
        """
        if self._failed is None:
            return self
        try:
            return self[:]
        except Exception as error:  # as in `UnreadImages.read`
            raise self._failed(error) from error

    def batch(self, positions: tf.Tensor) -> tf.Tensor:
        """Returns the images (B, H, W, C) at positions int64 (B,), in a graph or outside of one."""
        serialized = tf.numpy_function(self._serialized, [positions], tf.string, stateful=False)
        serialized.set_shape(positions.shape)
        spec = tf.TensorSpec(self.shape[1:], self.dtype)
        return tf.map_fn(self._decode, serialized, fn_output_signature=spec, parallel_iterations=CHUNK)

    def _serialized(self, positions):
        found = np.empty(len(positions), object)  # an array of bytes would lose zeros at their ends
        if len(positions):  # a worker may have no part of the last batch, and the reader refuses to read none
            found[:] = self._records.__getitems__([int(row) for row in self._rows[positions]])
        return found

    def __getitem__(self, which: np.ndarray | slice) -> np.ndarray:
        if self._read is None:
            signature = [tf.TensorSpec([None], tf.int64)]
            self._read = tf.function(self.batch, input_signature=signature, autograph=False)
        positions = np.arange(len(self), dtype=np.int64)[which]
        found = np.empty((len(positions), *self.shape[1:]), self.dtype)
        for start in range(0, len(positions), CHUNK):
            part = slice(start, start + CHUNK)
            found[part] = self._read(tf.constant(positions[part]))
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)


def open_split(
    builder: Any,
    split: str,
    keys: tuple[str, str],
    shape: tuple[int, int, int],
    crop: float | None = None,
    failed: Callable[[Exception], Exception] | None = None,
) -> tuple[StoredImages, np.ndarray]:
    """Opens a split that TFDS has prepared as ArrayRecord files.

    Args:
        builder: of TFDS.
        split: its name.
        keys: the names of the image and of the label feature.
        shape: (H, W, C) that the images are to have; they are resized where their own is another one.
        crop: the part of each image that is resized, as in `advtf.data.augmentation.resize`.
        failed: as for `StoredImages`.

    Returns:
        The images, in the order of the records, and the labels int32 (N,), for which every record is read
        once.
    """
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    image_key, label_key = keys
    records = ArrayRecordDataSource(builder.info.splits[split].file_instructions)
    dtype = builder.info.features[image_key].np_dtype
    images = StoredImages(records, _decoder(builder, image_key, shape, crop), shape, dtype, failed=failed)
    labels = np.empty(len(records), np.int32)
    for start in range(0, len(records), CHUNK):
        rows = list(range(start, min(start + CHUNK, len(records))))
        labels[rows] = _feature_of(records.__getitems__(rows), label_key, tf.int64)
    return images, labels


def scan_split(
    builder: Any,
    split: str,
    keys: tuple[str, str],
    shape: tuple[int, int, int],
    crop: float | None,
    failed: Callable[[Exception], Exception],
    number: str | None = None,
) -> tuple[UnreadImages, np.ndarray, np.ndarray | None]:
    """Reads the labels of a split that TFDS has prepared in any format, and leaves the images unread.

    Args:
        builder, split, keys, shape, crop: as for `open_split`.
        failed: as for `UnreadImages`.
        number: name of a text feature that numbers the examples, which is read with the labels.

    Returns:
        The images in the order in which TFDS gives them, the labels int32 (N,), and what `number` holds as
        bytes (N,), None where no name is given.

    Raises:
        the error that `failed` makes of missing, truncated or foreign files.
    """
    image_key, label_key = keys
    records, count = _in_order(builder, split), builder.info.splits[split].num_examples
    labels, numbers = np.empty(count, np.int32), None if number is None else np.empty(count, object)
    filled = 0
    try:
        for part in untuned(records.batch(CHUNK).prefetch(1)):
            rows = slice(filled, filled + len(part))
            labels[rows] = _feature_of(part, label_key, tf.int64)
            if numbers is not None:
                numbers[rows] = _feature_of(part, number, tf.string)
            filled += len(part)
        if filled != count:
            raise ValueError(f"{filled} of {count} examples")
    except Exception as error:
        raise failed(error) from error
    decode, dtype = _decoder(builder, image_key, shape, crop), builder.info.features[image_key].np_dtype
    return UnreadImages(records, decode, shape, dtype, np.arange(count), failed), labels, numbers


def _in_order(builder, split):
    """Returns the serialized examples in the order of ``builder.as_dataset(split, shuffle_files=False)``."""
    from tensorflow_datasets.core.file_adapters import ADAPTER_FOR_FORMAT

    files = [os.fspath(part.filename) for part in builder.info.splits[split].file_instructions]
    opened = ADAPTER_FOR_FORMAT[builder.info.file_format].make_tf_data
    cycle = 1 if builder.info.disable_shuffling else TFDS_CYCLE
    return tf.data.Dataset.from_tensor_slices(files).interleave(
        opened, cycle_length=cycle, block_length=TFDS_BLOCK
    )


def _decoder(builder, image_key, shape, crop):
    features = builder.info.features
    resized = features[image_key].shape != shape

    def decode(serialized):
        image = features.deserialize_example(serialized)[image_key]
        return augmentation.resize(image, shape[0], crop) if resized else image

    return decode


def _feature_of(serialized, name, dtype):
    """Returns a scalar feature of examples: decoding the images would take a hundred times as long."""
    return tf.io.parse_example(serialized, {name: tf.io.FixedLenFeature((), dtype)})[name].numpy()
