"""Data sets made of arrays."""

import hashlib

import numpy as np
import pytest
from helpers.data import numbered_split

from advtf.data import sets as data
from advtf.errors import UsageError


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


@pytest.mark.parametrize("order", ["stored", "published"])
def test_a_subset_of_the_digits_leaves_the_other_parts_as_they_are(order):
    whole = data.load("digits", val_fraction=0.1, order=order)
    parts = [data.load("digits", val_fraction=0.1, order=order, train_examples=n) for n in (57, 200, 1295)]
    rows = [[row.tobytes() for row in part.train.images] for part in parts]
    assert set(rows[0]) < set(rows[1]) < set(rows[2]) and len(rows[0]) == 57
    assert rows[1] == [row for row in rows[2] if row in set(rows[1])]  # in the order of the data
    for part in parts:
        assert (
            part.validation.sha256() == whole.validation.sha256()
            and part.test.sha256() == whole.test.sha256()
        )
        assert not {row.tobytes() for row in part.validation.images} & {
            row.tobytes() for row in part.train.images
        }
    assert sorted(np.bincount(parts[0].train.labels)) == [5] * 3 + [6] * 7
    assert parts[2].train.sha256() == whole.train.sha256()
    with pytest.raises(UsageError, match=r"the 1295 training examples .* train_examples=1296"):
        data.load("digits", val_fraction=0.1, train_examples=1296)


def test_validation_is_disjoint_from_training():
    split = numbered_split(50)
    made = data.from_arrays(split.images, split.labels, split.images, split.labels, val_fraction=0.2)
    assert len(made.validation) == 10
    assert sorted([*made.train.labels, *made.validation.labels]) == list(range(50))
    np.testing.assert_array_equal(made.train.images[:, 0, 0, 0], made.train.labels)
