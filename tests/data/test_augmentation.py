"""Crop, flip and resizing of whole batches."""

import numpy as np
import pytest
import tensorflow as tf

from advtf.data import augmentation


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_crop_and_flip_equal_numpy(dtype):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (16, 7, 9, 3)).astype(dtype)
    top, left = rng.integers(0, 5, (2, 16)).astype("i4")
    flip = rng.integers(0, 2, 16).astype(bool)
    expected = np.empty_like(x)
    for i, image in enumerate(x):
        padded = np.zeros((11, 13, 3), dtype)
        padded[2:9, 2:11] = image
        window = padded[top[i] : top[i] + 7, left[i] : left[i] + 9]
        expected[i] = window[:, ::-1] if flip[i] else window
    result = augmentation.crop_and_flip(tf.constant(x), top, left, flip, padding=2)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, expected)


def test_augmentation_draws_every_offset_and_both_sides_evenly():
    """One marked pixel in the centre, and a second beside it, tell the offsets and the flip of each image."""
    count, padding = 4000, 2
    x = np.zeros((count, 9, 9, 1), np.uint8)
    x[:, 4, 4], x[:, 4, 5] = 1, 2
    seed = tf.constant([3, 4], tf.int64)

    def augmented():
        windows = augmentation.draw_windows(count, seed, padding)
        return augmentation.crop_and_flip(tf.constant(x), *windows, padding).numpy()[..., 0]

    result = augmented()
    rows, columns = np.argmax(result.max(2) == 2, axis=1), np.argmax(result.max(1) == 1, axis=1)
    flipped = columns > np.argmax(result.max(1) == 2, axis=1)
    shifts = np.stack([rows - 4, np.where(flipped, 4 - columns, columns - 4)], axis=1)
    for axis in (0, 1):
        values, counts = np.unique(shifts[:, axis], return_counts=True)
        assert values.tolist() == [-2, -1, 0, 1, 2]
        assert np.abs(counts - count / 5).max() < 130  # five standard deviations
    assert abs(flipped.mean() - 0.5) < 0.04
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.08 and abs(np.corrcoef(shifts[:, 0], flipped)[0, 1]) < 0.08
    np.testing.assert_array_equal(result, augmented())


def test_resize_keeps_type_and_constant_images():
    x = tf.fill([5, 7, 3], tf.constant(200, tf.uint8))
    resized = augmentation.resize(x, 4)
    assert resized.dtype == tf.uint8 and resized.shape == (4, 4, 3)
    assert np.unique(resized).tolist() == [200]


@pytest.mark.parametrize(("height", "width", "square"), [(300, 400, 262), (401, 256, 224), (8, 8, 7)])
def test_the_square_in_the_middle_is_resized(height, width, square):
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    top, left = (height - square) // 2, (width - square) // 2
    middle = images[:, top : top + square, left : left + square]
    crop = 224 / 256
    np.testing.assert_array_equal(augmentation.resize(tf.constant(images), square, crop), middle)
    expected = augmentation.resize(tf.constant(middle), 5)
    np.testing.assert_array_equal(augmentation.resize(tf.constant(images), 5, crop), expected)
    np.testing.assert_array_equal(augmentation.resize(tf.constant(images[0]), 5, crop), expected[0])
