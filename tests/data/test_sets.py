"""Data sets made of arrays."""

import hashlib

import numpy as np
from helpers.data import numbered_split

from advtf.data import sets as data


def test_arrays_are_taken_as_they_are():
    x, y = np.zeros((4, 6, 5, 3), np.uint8), np.array([[0], [1], [2], [1]], np.int64)
    made = data.from_arrays(x, y, x.astype("f8"), y, num_classes=5)
    assert made.input_shape == (6, 5, 3) and made.num_classes == 5 and made.validation is None
    assert made.train.images.dtype == np.uint8 and made.test.images.dtype == np.float32
    assert made.train.labels.tolist() == [0, 1, 2, 1] and made.train.labels.dtype == np.int32
    assert data.from_arrays(x, y, x, y).num_classes == 3


def test_the_digest_of_images_is_the_one_of_the_documentation():
    split = numbered_split(2050)  # more than are converted at a time
    x, y = split.images.astype("f4") / np.float32(255), split.labels
    text = b"<f4 (2050, 8, 8, 1) " + x.tobytes() + b"<i4 (2050,) " + y.tobytes()
    expected = hashlib.sha256(text).hexdigest()
    assert split.record() == {"examples": 2050, "sha256": expected}
    assert data.Split(x, y).sha256() == data.Split(x.astype("f8"), y.astype("i8")).sha256() == expected
    others = [split.select(slice(None, None, -1)), split.select(slice(2049)), data.Split(x, y[::-1])]
    assert len({expected, *(other.sha256() for other in others)}) == 4


def test_validation_is_disjoint_from_training():
    split = numbered_split(50)
    made = data.from_arrays(split.images, split.labels, split.images, split.labels, val_fraction=0.2)
    assert len(made.validation) == 10
    assert sorted([*made.train.labels, *made.validation.labels]) == list(range(50))
    np.testing.assert_array_equal(made.train.images[:, 0, 0, 0], made.train.labels)
