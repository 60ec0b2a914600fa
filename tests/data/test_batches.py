"""The streams of training and evaluation batches."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.data import numbered_split

from advtf.data.batches import Share, evaluation_batches, training_batches
from advtf.data.sets import Split, load
from advtf.errors import UsageError


def labels_of(batches):
    return [y.tolist() for _, y in batches.as_numpy_iterator()]


def test_each_epoch_is_a_permutation_and_epochs_differ():
    split = numbered_split(24)
    steps = labels_of(training_batches(split, 6, seed=0, total_steps=12))
    epochs = np.reshape(steps, (3, 24)).tolist()
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0] and epochs[0] != list(range(24))


def test_the_rest_of_an_epoch_is_left_out_and_images_follow_labels():
    batches = list(training_batches(numbered_split(23), 5, seed=3, total_steps=4).as_numpy_iterator())
    seen = np.concatenate([y for _, y in batches])
    assert len(set(seen)) == len(seen) == 20
    for x, y in batches:
        assert x.shape == (5, 8, 8, 1) and x.dtype == np.float32 and y.dtype == np.int32
        np.testing.assert_array_equal(x[:, 3, 4, 0], y.astype("f4") / np.float32(255))


@pytest.mark.parametrize("augment", [False, True])
def test_a_later_start_delivers_exactly_the_tail(augment):
    split = load("digits").train
    options = {"seed": 5, "steps_per_epoch": 3, "total_steps": 8, "augment": augment}
    whole = list(training_batches(split, 16, **options).as_numpy_iterator())
    for start in (0, 1, 4, 7, 8):
        tail = list(training_batches(split, 16, start_step=start, **options).as_numpy_iterator())
        assert len(tail) == 8 - start
        for (x, y), (x_whole, y_whole) in zip(tail, whole[start:], strict=True):
            np.testing.assert_array_equal(x, x_whole)
            np.testing.assert_array_equal(y, y_whole)


def test_seeds_differ_and_repeat():
    first, again, other = (
        labels_of(training_batches(numbered_split(), 5, seed=seed, total_steps=4)) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_no_thread_that_tunes_a_pipeline_holds_up_its_end():
    split = numbered_split(24)
    for made in (training_batches(split, 6, seed=0, total_steps=2), evaluation_batches(split, 6)):
        assert made.options().autotune.enabled is False and made.options().deterministic is True


def test_a_shortened_epoch_changes_order_after_its_steps():
    steps = labels_of(training_batches(numbered_split(24), 6, seed=0, steps_per_epoch=2, total_steps=4))
    full = labels_of(training_batches(numbered_split(24), 6, seed=0, total_steps=6))
    assert steps == full[:2] + full[4:6]


def test_a_stream_without_an_end_is_infinite_and_has_fixed_shapes():
    batches = training_batches(numbered_split(), 5, seed=0)
    assert batches.cardinality() == tf.data.INFINITE_CARDINALITY
    assert batches.element_spec[0].shape == (5, 8, 8, 1) and batches.element_spec[1].shape == (5,)
    policy = batches.options().experimental_distribute.auto_shard_policy
    assert policy == tf.data.experimental.AutoShardPolicy.OFF


def test_augmentation_changes_from_epoch_to_epoch_and_stays_in_range():
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    split = Split(image, np.zeros(1, np.int32))
    batches = training_batches(split, 1, seed=0, total_steps=20, augment=True)
    seen = [x for x, _ in batches.as_numpy_iterator()]
    assert len({x.tobytes() for x in seen}) > 10
    assert min(x.min() for x in seen) >= 0 and max(x.max() for x in seen) <= 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 24}, "batch_size must be between 1 and the 23"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 5, "steps_per_epoch": 5}, "between 1 and 4"),
        ({"batch_size": 5, "steps_per_epoch": 0}, "steps_per_epoch"),
    ],
)
def test_impossible_batches_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        training_batches(numbered_split(), seed=0, **options)


def test_evaluation_keeps_the_order_and_the_ragged_last_batch():
    assert labels_of(evaluation_batches(numbered_split(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert labels_of(evaluation_batches(numbered_split(7), 3, limit=4)) == [[0, 1, 2], [3]]
    x, _ = next(evaluation_batches(numbered_split(7), 3).as_numpy_iterator())
    np.testing.assert_array_equal(x[2], np.full((8, 8, 1), np.float32(2) / np.float32(255)))
    with pytest.raises(UsageError, match="limit must be at least 1"):
        evaluation_batches(numbered_split(7), 3, limit=0)


@pytest.mark.parametrize("views", [1, 2])
def test_shares_of_several_processes_are_the_whole_batches(views):
    # Two processes with two replicas each, from step 1 on. Each draws the augmentation of the whole batch.
    split = numbered_split(30)
    settings = dict(seed=3, start_step=1, total_steps=4, augment=True, views=views)
    whole = list(training_batches(split, 8, **settings))
    assert len(whole) == 3
    rows = [
        [
            tf.nest.flatten(element)
            for element in training_batches(split, 8, **settings, share=Share(first, 2, 4))
        ]
        for first in (0, 2)
    ]
    for step, batch in enumerate(whole):
        parts = [rows[process][2 * step + replica] for process in (0, 1) for replica in (0, 1)]
        joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        for one, other in zip(tf.nest.flatten(batch), joined, strict=True):
            np.testing.assert_array_equal(one, other)


def test_shares_of_an_evaluation_end_with_what_is_left():
    split = numbered_split(11)
    shares = [list(evaluation_batches(split, 8, share=Share(first, 1, 4))) for first in range(4)]
    assert [[len(y) for _, y in share] for share in shares] == [[2, 2], [2, 1], [2, 0], [2, 0]]
    order = [label for step in (0, 1) for share in shares for label in share[step][1].numpy()]
    np.testing.assert_array_equal(order, split.labels)
