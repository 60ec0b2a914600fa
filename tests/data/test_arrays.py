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


def dealt(labels, count):
    """The rule as one would deal cards: round after round, the next example of every class."""
    rest = {label: [i for i, other in enumerate(labels) if other == label] for label in sorted(set(labels))}
    rounds = []
    while any(rest.values()):
        rounds += [examples.pop(0) for examples in rest.values() if examples]
    return sorted(rounds[:count])


def test_a_stratified_subset_takes_the_first_of_every_class_in_turn():
    assert arrays.stratified(np.array([2, 2, 0, 2, 0, 1]), 4).tolist() == [0, 2, 4, 5]
    labels = np.random.default_rng(1).choice([0, 1, 2, 5], 90, p=[0.05, 0.15, 0.3, 0.5])
    most, smaller = np.bincount(labels, minlength=6), set()
    for count in range(1, 91):
        chosen = arrays.stratified(labels, count)
        assert chosen.tolist() == dealt(labels.tolist(), count)
        assert smaller < set(chosen)  # each number's examples are among those of the next
        counts, smaller = np.bincount(labels[chosen], minlength=6), set(chosen)
        assert all(
            counts[a] <= most[a] and (counts[a] == most[a] or counts[a] >= counts.max() - 1) for a in range(6)
        )


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
        ({"train_examples": 0}, "train_examples=0"),
        ({"train_examples": 4, "val_fraction": 0.25}, r"the 3 training examples .* train_examples=4\. Leave"),
    ],
)
def test_unsuitable_arrays_are_refused_in_one_line(changed, message):
    given = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y, **changed}
    with pytest.raises(UsageError, match=message) as raised:
        data.from_arrays(**given)
    assert "\n" not in str(raised.value)
