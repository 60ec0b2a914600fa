"""The handwritten digits of scikit-learn: 1,797 real images of 8×8 pixels, which need no download."""

from typing import Any

import numpy as np
import tensorflow as tf

from advtf.data import arrays, augmentation


def read(image_size: int | None = None) -> dict[str, Any]:
    """Reads the digits and holds a fifth of each class out for testing, by a fixed rule.

    Args:
        image_size: every image is resized to a square of this side, in pixels; None keeps 8×8.

    Returns:
        x_train, y_train, x_test, y_test (images float32 (N, H, W, 1) in [0, 1]) and num_classes.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)  # 17 grey levels, 0..16
    if image_size is not None:
        images = np.clip(augmentation.resize(tf.constant(images), image_size).numpy(), 0, 1)
    held = arrays.held_out(labels, 0.2)
    train = {"x_train": images[~held], "y_train": labels[~held]}
    return {**train, "x_test": images[held], "y_test": labels[held], "num_classes": 10}
