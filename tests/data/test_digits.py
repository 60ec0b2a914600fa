"""The embedded digits: the published images, and their fixed splits."""

import numpy as np

from advtf.data import sets as data


def test_digits_are_the_published_images_split_in_proportion():
    from sklearn.datasets import load_digits

    digits = data.load("digits", val_fraction=0.1)
    parts = (digits.train, digits.validation, digits.test)
    assert [len(part) for part in parts] == [1295, 143, 359]
    assert digits.input_shape == (8, 8, 1) and digits.num_classes == 10
    everything = np.concatenate([part.images for part in parts]) * 16
    published = load_digits().images
    assert sorted(map(bytes, everything[..., 0].astype("u1"))) == sorted(map(bytes, published.astype("u1")))
    for part in parts:  # 174 to 183 examples per class in all
        per_class = np.bincount(part.labels, minlength=10) * 1797 / len(part)
        assert np.abs(per_class - 178).max() < 22
    assert digits.test.images.dtype == np.float32 and digits.test.images.max() == 1


def test_digits_resize_keeps_the_range():
    images = data.load("digits", image_size=16).test.images
    assert images.shape[1:] == (16, 16, 1) and images.min() >= 0 and images.max() <= 1
