"""Images that stay on the disk: ArrayRecord files of TFDS, from which any example is read when it is needed.

A data set larger than memory is trained on through them. `StoredImages` takes the place of the array of
images in `advtf.data.sets.Split`; what reads batches asks it for theirs. The bytes are decoded and resized by
the operations that also read a set into memory, so the images have the same bits.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from advtf.data import augmentation

CHUNK = 256  # records read at a time where many are wanted


class StoredImages:
    """Images in files of records; like an array (N, H, W, C) where it is asked for a part.

    Args:
        records: the serialized examples, with a length and ``__getitems__(indices)``.
        decode: a serialized example, a string tensor -> its image (H, W, C).
        shape: (H, W, C) of every image.
        dtype: of the images.
        rows: int64 (N,), which records these are; None for all.

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
    ):
        self._records, self._decode = records, decode
        self._rows = np.arange(len(records), dtype=np.int64) if rows is None else rows
        self.shape, self.dtype = (len(self._rows), *shape), np.dtype(dtype)
        self._read: Callable | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, which: np.ndarray | slice) -> "StoredImages":
        """Returns the images at these positions, as indices, a mask or a slice, without reading them."""
        return StoredImages(self._records, self._decode, self.shape[1:], self.dtype, self._rows[which])

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
) -> tuple[StoredImages, np.ndarray]:
    """Opens a split that TFDS has prepared as ArrayRecord files.

    Args:
        builder: of TFDS.
        split: its name.
        keys: the names of the image and of the label feature.
        shape: (H, W, C) that the images are to have; they are resized where their own is another one.
        crop: the part of each image that is resized, as in `advtf.data.augmentation.resize`.

    Returns:
        The images, in the order of the records, and the labels int32 (N,), for which every record is read
        once.
    """
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    image_key, label_key = keys
    features = builder.info.features
    stored = features[image_key]
    records = ArrayRecordDataSource(builder.info.splits[split].file_instructions)

    def decode(serialized):
        image = features.deserialize_example(serialized)[image_key]
        return augmentation.resize(image, shape[0], crop) if stored.shape != shape else image

    images = StoredImages(records, decode, shape, stored.np_dtype)
    # Only the label is taken out of a record: decoding the images would take a hundred times as long.
    wanted = {label_key: tf.io.FixedLenFeature((), tf.int64)}
    labels = np.empty(len(records), np.int32)
    for start in range(0, len(records), CHUNK):
        rows = list(range(start, min(start + CHUNK, len(records))))
        labels[rows] = tf.io.parse_example(records.__getitems__(rows), wanted)[label_key].numpy()
    return images, labels
