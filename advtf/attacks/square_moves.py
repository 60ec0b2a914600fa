"""Where the Square Attack starts and what one query changes (Andriushchenko et al. 2020, algorithms 2 and 3).

Each start is ``start(shape, draw) -> displacement`` in units of ε; each family of moves is
``moves(x, epsilon, sides, draw) -> propose``, and ``propose(query, x_adv)`` the next candidate. `draw` is
that of `advtf.attacks.random`. In the authors' program no square ever touches the last row or column;
here its corner is uniform over all places where it fits, as in the paper.
"""

import math

import numpy as np
import tensorflow as tf

from advtf.attacks.norms import TINY, l2_norms
from advtf.attacks.random import below, signs

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries, of 10000, after which p is halved


def fraction(query: int, queries: int, p_init: float, rescale: bool) -> float:
    """Share p of the pixels that a square covers: `p_init`, halved after 10, 50, 200, ..., 8000 queries.

    Args:
        query: number of the query, from 0.
        queries: all that there will be.
        rescale: scale `query` to a search of 10000 queries, for which the schedule was made.
    """
    position = int(query / queries * 10000) if rescale else query
    return p_init / 2 ** sum(position > halving for halving in HALVINGS)


def side(share: float, height: int, width: int, norm: str) -> int:
    """Pixels along a square that covers `share` of an image it fits into; for l2 odd and at least 3."""
    length = max(round(math.sqrt(share * height * width)), 1 if norm == "linf" else 3)
    if norm == "l2" and length % 2 == 0:
        length += 1
    return min(length, height, width)


def pattern(size: int) -> np.ndarray:
    """The l2 update η of Andriushchenko et al. 2020, eq. 2: a positive bump above a negative one.

    Returns:
        (size, size) float64 with l2 norm 1.
    """
    joined = np.concatenate([_bump(size // 2, size), -_bump(size - size // 2, size)])
    return joined / np.linalg.norm(joined)


def _bump(height, width):
    # 1/(d+1)² + 1/(d+2)² + ... + 1/(n+1)² at Chebyshev distance d from the centre, of l2 norm 1.
    rows, columns = np.arange(height)[:, None], np.arange(width)
    distance = np.maximum(abs(rows - height // 2), abs(columns - width // 2))
    terms = 1.0 / np.arange(1, max(height, width) // 2 + 2) ** 2
    bump = np.cumsum(terms[::-1])[::-1][distance]
    return bump / max(np.linalg.norm(bump), TINY)


def linf_start(shape: tf.TensorShape, draw) -> tf.Tensor:
    """Returns (B, 1, W, C): vertical stripes of ±1, one pixel wide."""
    _, width, channels = shape
    return tf.reshape(signs(draw(0, width * channels)), [-1, 1, width, channels])


def l2_start(shape: tf.TensorShape, draw) -> tf.Tensor:
    """Returns (B, H, W, C) of norm 1: a centred grid of patterned tiles, a fifth of the image each."""
    height, width, channels = shape
    tile = max(min(height, width) // 5, 1)
    tile_row, row = _grid(height, tile)
    tile_column, column = _grid(width, tile)
    number = np.maximum(tile_row[:, None] * (width // tile) + tile_column, 0)
    inside = (tile_row[:, None] >= 0) & (tile_column >= 0)
    upright, turned = (eta[row[:, None], column] * inside for eta in (pattern(tile), pattern(tile).T))
    tiles = (height // tile) * (width // tile)
    drawn = signs(tf.reshape(draw(0, tiles * (1 + channels)), [-1, tiles, 1 + channels]))
    by_pixel = tf.gather(drawn, tf.constant(number, tf.int32), axis=1)
    shaped = tf.where(by_pixel[..., :1] < 0, _per_pixel(turned), _per_pixel(upright)) * by_pixel[..., 1:]
    return shaped / (l2_norms(shaped) + TINY)


def _grid(size, tile):
    """Returns for each pixel of an axis its tile, −1 beside the grid, and its place in the tile."""
    offset = np.arange(size) - (size % tile) // 2
    inside = (offset >= 0) & (offset < size - size % tile)
    return np.where(inside, offset // tile, -1), np.where(inside, offset % tile, 0)


def _per_pixel(values):
    return tf.constant(values[None, :, :, None], tf.float32)


def linf_moves(x: tf.Tensor, epsilon: tf.Tensor, sides: np.ndarray, draw):
    """Each candidate is x_adv with one square set to ±ε per channel."""
    _, height, width, channels = x.shape
    sides, lowest, highest = tf.constant(sides), tf.maximum(x - epsilon, 0.0), tf.minimum(x + epsilon, 1.0)

    def propose(query, x_adv):
        length, words = sides[query], draw(query, 2 + channels)
        row, column = below(words[:, 0], height - length + 1), below(words[:, 1], width - length + 1)
        change = 2.0 * epsilon * signs(words[:, None, None, 2:])
        change *= tf.cast(_window(height, width, row, column, length), tf.float32)
        return tf.clip_by_value(x_adv + change, lowest, highest)

    return propose


def l2_moves(x: tf.Tensor, epsilon: tf.Tensor, sides: np.ndarray, draw):
    """Each candidate moves the budget of one square into another, see `move_mass`."""
    _, height, width, channels = x.shape
    lengths, levels = np.unique(sides, return_inverse=True)
    widest = lengths.max()
    patterns = tf.constant(np.stack([np.pad(pattern(s), (0, widest - s)) for s in lengths]), tf.float32)
    lengths, levels = tf.constant(lengths), tf.constant(levels, tf.int32)

    def propose(query, x_adv):
        length, words = lengths[levels[query]], draw(query, 5 + channels)
        rows, columns = below(words[:, :2], height - length + 1), below(words[:, 2:4], width - length + 1)
        gaining, losing = (_window(height, width, rows[:, i], columns[:, i], length) for i in range(2))
        turned = signs(words[:, 4]) < 0
        shape = _placed(patterns[levels[query]], rows[:, 0], columns[:, 0], height, width, turned)
        shape = shape * tf.cast(gaining, tf.float32) * signs(words[:, None, None, 5:])
        moved = move_mass(x_adv - x, shape, gaining, losing, epsilon)
        return tf.clip_by_value(x + epsilon * moved / (l2_norms(moved) + TINY), 0.0, 1.0)

    return propose


def move_mass(
    delta: tf.Tensor, shape: tf.Tensor, gaining: tf.Tensor, losing: tf.Tensor, epsilon: tf.Tensor
) -> tf.Tensor:
    """Moves l2 budget from one window into another (Andriushchenko et al. 2020, algorithm 3).

    Args:
        delta: (B, H, W, C) displacement of norm at most ε.
        shape: (B, H, W, C) signed pattern, 0 outside the gaining window.
        gaining, losing: (B, H, W, 1) bool windows; where they overlap, the first wins.
        epsilon: scalar radius ε.

    Returns:
        (B, H, W, C) of norm ε. In `gaining`, per channel: the direction of `shape` plus that of `delta`
        there, with the squared norm of both windows and a C-th of what `delta` leaves of ε². 0 in the rest
        of `losing`, and `delta` elsewhere.
    """
    kept = delta * tf.cast(~(gaining | losing), tf.float32)
    window = delta * tf.cast(gaining, tf.float32)
    unused = tf.maximum(epsilon**2 - l2_norms(delta) ** 2, 0.0) / delta.shape[-1]
    budget = tf.sqrt(unused + _squares(delta - kept))
    direction = shape + window / (tf.sqrt(_squares(window)) + TINY)
    return kept + budget * direction / (tf.sqrt(_squares(direction)) + TINY)


def _squares(images):
    return tf.reduce_sum(tf.square(images), axis=[1, 2], keepdims=True)


def _window(height, width, row, column, length):
    """Returns (B, H, W, 1) bool: squares of `length` with their upper left corners at `row`, `column`."""
    rows, columns = tf.range(height) - row[:, None], tf.range(width) - column[:, None]
    rows, columns = (rows >= 0) & (rows < length), (columns >= 0) & (columns < length)
    return rows[:, :, None, None] & columns[:, None, :, None]


def _placed(table, row, column, height, width, turned):
    """Returns (B, H, W, 1): `table` from (row, column) on, transposed where `turned`; undefined elsewhere."""
    extent = table.shape[0]
    rows = tf.clip_by_value(tf.range(height) - row[:, None], 0, extent - 1)[:, :, None]
    columns = tf.clip_by_value(tf.range(width) - column[:, None], 0, extent - 1)[:, None, :]
    turned = turned[:, None, None]
    place = tf.where(turned, columns * extent + rows, rows * extent + columns)
    return tf.gather(tf.reshape(table, [-1]), place)[..., None]
