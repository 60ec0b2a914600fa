"""Arrays of one's own: what is held out of them, and what is refused."""

import numpy as np
import pytest

from advtf.data import arrays
from advtf.data import sets as data
from advtf.errors import UsageError


def test_held_out_examples_follow_the_rule_within_sorted_classes():
    labels = np.array([1, 0, 1, 0, 1, 0, 0, 1, 0, 1])
    # In class order: examples 1 3 5 6 8 | 0 2 4 7 9; a fraction of 0.2 takes the fifth and the tenth.
    assert np.flatnonzero(arrays.held_out(labels, 0.2)).tolist() == [8, 9]


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.3, 0.5])
def test_every_class_gives_its_share(fraction):
    labels = np.repeat(np.arange(7), 100)
    shuffled = np.random.default_rng(0).permutation(labels)
    for order in (labels, shuffled):
        counts = np.bincount(order[arrays.held_out(order, fraction)], minlength=7)
        assert np.abs(counts - 100 * fraction).max() <= 1


X, Y = np.zeros((4, 6, 5, 3), np.float32), np.array([0, 1, 2, 1])


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"x_train": X[..., 0]}, r"x_train.*\(N, H, W, C\).*x_train\[\.\.\., None\]"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "not empty"),
        ({"x_test": X + 255}, r"x_test must be finite and in \[0, 1\].*255.*Divide by 255"),
        ({"x_train": X - 1}, r"\[-1, -1\]"),
        ({"x_train": X * np.nan}, "nan"),
        ({"x_train": X + np.inf}, "inf"),
        ({"x_train": X.astype("i4")}, r"dtype=int32.*astype\('uint8'\)"),
        ({"y_train": Y[:3]}, "4 images and 3 labels"),
        ({"y_train": Y.astype("f4")}, "dtype=float32"),
        ({"y_test": np.eye(3, dtype=int)[Y]}, r"y_test.*argmax\(-1\)"),
        ({"y_train": Y - 1}, r"labels in \[-1, 2\]"),
        ({"num_classes": 2}, r"\[0, 2\).*labels in \[0, 2\]"),
        ({"x_test": X[:, :5]}, "same image shape"),
        ({"val_fraction": 1.0}, "val_fraction=1.0"),
        ({"val_fraction": float("nan")}, "val_fraction=nan"),
        ({"val_fraction": 0.1}, "hold out at least one of the 4"),
    ],
)
def test_unsuitable_arrays_are_refused_in_one_line(changed, message):
    given = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y, **changed}
    with pytest.raises(UsageError, match=message) as raised:
        data.from_arrays(**given)
    assert "\n" not in str(raised.value)
