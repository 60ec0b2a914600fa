"""Operations on whole batches of images: random crop and flip from an explicit seed, and resizing."""

import tensorflow as tf


def crop_and_flip(x: tf.Tensor, top: tf.Tensor, left: tf.Tensor, flip: tf.Tensor, padding: int) -> tf.Tensor:
    """Pads every image with zeros, cuts one window of the original size from each, mirrors the chosen ones.

    One gather of pixels serves the whole batch; the column indices of an image are reversed to mirror it.

    Args:
        x: images (B, H, W, C), any numeric type.
        top: the first row of each window in the padded image, int32 (B,) in 0..2*padding.
        left: the first column of each window, int32 (B,) in 0..2*padding.
        flip: whether each window is mirrored from left to right, bool (B,).
        padding: the number of zero pixels that are added on each side.

    Returns:
        Images of the same shape and type.
    """
    batch, height, width, channels = tf.unstack(tf.shape(x))
    padded = tf.pad(x, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    rows = top[:, None] + tf.range(height)[None] + tf.range(batch)[:, None] * tf.shape(padded)[1]
    columns = left[:, None] + tf.range(width)[None]
    columns = tf.where(flip[:, None], columns[:, ::-1], columns)
    pixels = rows[:, :, None] * tf.shape(padded)[2] + columns[:, None]
    windows = tf.gather(tf.reshape(padded, [-1, channels]), pixels)
    return tf.ensure_shape(windows, x.shape)


def draw_windows(
    batch: int | tf.Tensor, seed: tf.Tensor, padding: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draws what `crop_and_flip` does to each image of a batch: its `top`, `left` and `flip`.

    Args:
        batch: the number of images.
        seed: two integers, of shape (2,).
        padding: the number of zero pixels on each side.
    """
    top_seed, left_seed, flip_seed = tf.unstack(tf.random.split(seed, 3))
    offsets = {"minval": 0, "maxval": 2 * padding + 1, "dtype": tf.int32}
    top = tf.random.stateless_uniform([batch], top_seed, **offsets)
    left = tf.random.stateless_uniform([batch], left_seed, **offsets)
    flip = tf.random.stateless_uniform([batch], flip_seed) < 0.5
    return top, left, flip


def resize(images: tf.Tensor, size: int, crop: float | None = None) -> tf.Tensor:
    """Resizes images to a square, bilinear and antialiased; the type is kept.

    Args:
        images: (H, W, C) or (B, H, W, C), any numeric type.
        size: the side S of the result in pixels.
        crop: resize the square in the middle whose side is this part of the shorter side, in (0, 1]. None
            resizes the whole image, whatever its proportions.

    Returns:
        Images (S, S, C) or (B, S, S, C).
    """
    if crop is not None:
        height, width = tf.unstack(tf.shape(images)[-3:-1])
        side = tf.cast(tf.round(crop * tf.cast(tf.minimum(height, width), tf.float32)), tf.int32)
        top, left = (height - side) // 2, (width - side) // 2
        images = images[..., top : top + side, left : left + side, :]
    resized = tf.image.resize(images, (size, size), antialias=True)
    if images.dtype.is_integer:
        return tf.saturate_cast(tf.round(resized), images.dtype)
    return tf.cast(resized, images.dtype)
