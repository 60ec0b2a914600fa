"""Square Attack: random search over square patches, from logits alone (Andriushchenko et al. 2020).

"Square Attack: a query-efficient black-box adversarial attack via random search", ECCV 2020; algorithm 1.
Each example draws its own squares from (seed, key, query), whatever batch it is in, so a long search may be
cut into pieces between which the examples already broken are left out, and still ends the same.

An evaluation goes through the same queries faster (`SquareSearch.ask_once`): whether a candidate is taken is
known beforehand where it is the present point itself, or was refused already since that point was found, so
the classifier is not asked. On MNIST that is more than half of the queries.

In the authors' program no square ever touches the last row or column; here its corner is uniform over all
positions where it fits, as in the paper.
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from advtf.attacks.attack import Attack, LogitsFn, per_image
from advtf.attacks.losses import get_loss, is_correct
from advtf.attacks.norms import TINY, get_norm, l2_norms
from advtf.attacks.random import below, signs, words_by_key
from advtf.errors import UsageError, require_whole
from advtf.settings.threat import NEGLIGIBLE_EPSILON
from advtf.storage.builders import recorded

START_DRAWS, QUERY_DRAWS = 0, 1  # streams of words_by_key
LOOK_AHEAD = 16  # queries among which an example finds the next one that asks something new
ROWS = 8  # a batch is filled up to a multiple: for every other size oneDNN prepares its kernels anew
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries, of 10000, after which p is halved


class SquareState(NamedTuple):
    """What a search knows of each example: enough to go on from."""

    x_adv: tf.Tensor  # (B, H, W, C): misclassified if `broken`, else where the loss was largest
    loss: tf.Tensor  # (B,) float32 at x_adv
    broken: tf.Tensor  # (B,) bool


@recorded
def square(
    norm: str = "linf",
    queries: int = 5000,
    p_init: float = 0.8,
    rescale_schedule: bool = False,
    loss: str = "margin",
) -> Attack:
    """Builds the Square Attack; the defaults are those of the standard AutoAttack.

    Args:
        norm: "linf" or "l2".
        queries: candidates tried per example, one forward pass each; the start costs one more.
        p_init: share of the pixels that the first squares cover, in (0, 1].
        rescale_schedule: shrink the squares over `queries` rather than over 10000 queries.
        loss: "margin", "ce" or "dlr"; see `advtf.attacks.losses`.

    Returns:
        ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``, as `advtf.attacks.pgd.pgd` describes, where
        `seed` is two integers; no gradient is taken. The search for an example ends when it is misclassified.

    Raises:
        UsageError: a setting out of range; when called, `x` without static height, width and channels.
    """
    search = SquareSearch(norm, queries, p_init, rescale_schedule, loss)

    def attack(logits_fn, x, y, epsilon, seed):
        keys = tf.range(tf.shape(x)[0])
        state = search.start(logits_fn, x, y, epsilon, seed, keys)
        return search.advance(state, logits_fn, x, y, epsilon, seed, keys, 0, queries).x_adv

    return attack


@dataclass(frozen=True)
class SquareSearch:
    """The search behind `square`, in pieces; the attributes are its arguments.

    ``start`` then ``advance`` over consecutive queries, with the same `seed` and with the rows of the state,
    `x`, `y` and `keys` dropped together, equals one run over all examples (for a classifier whose logits do
    not depend on the batch). All pieces may share one trace: `first_query` and `count` can be tensors.

    Raises:
        UsageError: a setting out of range.
    """

    norm: str = "linf"
    queries: int = 5000
    p_init: float = 0.8
    rescale_schedule: bool = False
    loss: str = "margin"

    def __post_init__(self):
        get_norm(self.norm), get_loss(self.loss)
        require_whole("queries", self.queries)
        if not isinstance(self.p_init, Real) or not 0 < self.p_init <= 1:
            raise UsageError(
                f"p_init must be a share of the pixels in (0, 1]. Received: p_init={self.p_init}."
            )

    def start(
        self,
        logits_fn: LogitsFn,
        x: tf.Tensor,
        y: tf.Tensor,
        epsilon: tf.Tensor,
        seed: tf.Tensor,
        keys: tf.Tensor,
    ) -> SquareState:
        """Tries the first point: vertical stripes of ±ε (linf) or a grid of patterned tiles (l2).

        Args:
            logits_fn, x, y, epsilon, seed: as for an attack.
            keys: (B,) int32, the number that each example draws under, whatever its row.
        """
        x, epsilon = _images(x), tf.convert_to_tensor(epsilon, tf.float32)
        initial = linf_start if self.norm == "linf" else l2_start
        displaced = x + epsilon * initial(x.shape[1:], words_by_key(seed, keys, START_DRAWS))
        first = tf.where(epsilon < NEGLIGIBLE_EPSILON, x, tf.clip_by_value(displaced, 0.0, 1.0))
        return SquareState(first, *self._judge(logits_fn, first, y))

    def advance(
        self,
        state: SquareState,
        logits_fn: LogitsFn,
        x: tf.Tensor,
        y: tf.Tensor,
        epsilon: tf.Tensor,
        seed: tf.Tensor,
        keys: tf.Tensor,
        first_query: int | tf.Tensor,
        count: int | tf.Tensor,
    ) -> SquareState:
        """Makes the queries `first_query`, ..., `first_query` + `count` − 1, counted from 0.

        Stops early when every example is broken, and at the end of `queries`.

        Args:
            state: of these examples, from `start` or the piece before.
            logits_fn, x, y, epsilon, seed, keys: as for `start`.
        """
        x, epsilon = _images(x), tf.convert_to_tensor(epsilon, tf.float32)
        moves, sides = linf_moves if self.norm == "linf" else l2_moves, self._sides(*x.shape[1:3])
        propose = moves(x, epsilon, sides, words_by_key(seed, keys, QUERY_DRAWS))
        last = tf.minimum(tf.cast(first_query + count, tf.int32), self.queries)

        def unfinished(query, state):
            return (query < last) & (epsilon >= NEGLIGIBLE_EPSILON) & ~tf.reduce_all(state.broken)

        def query_once(query, state):
            candidate = propose(query, state.x_adv)
            loss, broken = self._judge(logits_fn, candidate, y)
            taken = ~state.broken & (broken | (loss > state.loss))
            return query + 1, SquareState(
                tf.stop_gradient(tf.where(per_image(taken, x), candidate, state.x_adv)),
                tf.where(taken, loss, state.loss),
                state.broken | broken,
            )

        state = SquareState(*map(tf.stop_gradient, state))
        return tf.while_loop(unfinished, query_once, (tf.cast(first_query, tf.int32), state))[1]

    def ask_once(
        self,
        state: SquareState,
        taken: tf.Tensor,
        logits_fn: LogitsFn,
        x: tf.Tensor,
        y: tf.Tensor,
        epsilon: tf.Tensor,
        seed: tf.Tensor,
        keys: tf.Tensor,
        first_query: int | tf.Tensor,
        count: int | tf.Tensor,
    ) -> tuple[SquareState, tf.Tensor, tf.Tensor]:
        """Ends as `advance` does in linf, with a pass for those queries only whose answer is not known yet.

        An example goes through its queries at its own pace. A candidate that is the present point cannot have
        a larger loss, and neither can one that was refused after that point was found. The batches in which
        the classifier sees the others hold those examples only that ask. For a classifier whose logits depend
        on the images alone; not under XLA, because the batches' sizes vary.

        Args:
            state: of these examples, from `start` or the piece before.
            taken: (B,) int32, the last query whose candidate was taken, −1 if none was.
            logits_fn, x, y, epsilon, seed, keys, first_query, count: as for `advance`.

        Returns:
            The state; `taken`; and the number of passes of each example, (B,) int32.
        """
        x, epsilon = _images(x), tf.convert_to_tensor(epsilon, tf.float32)
        sides = self._sides(*x.shape[1:3])
        draw, begins = words_by_key(seed, keys, QUERY_DRAWS), np.searchsorted(-sides, -sides)
        last = tf.minimum(tf.cast(first_query + count, tf.int32), self.queries)
        table = _Queries.drawn(x.shape[1:], sides, draw, tf.constant(begins, tf.int32)[first_query], last)
        bounds = tf.maximum(x - epsilon, 0.0), tf.minimum(x + epsilon, 1.0)

        def unfinished(query, state, *_):
            return (epsilon >= NEGLIGIBLE_EPSILON) & tf.reduce_any((query < last) & ~state.broken)

        def ask(query, state, taken, asked):
            asks, chosen, query = table.next(query, state.x_adv, taken, epsilon, bounds)
            asks &= ~state.broken
            groups = (tf.math.count_nonzero(asks, dtype=tf.int32) + ROWS - 1) // ROWS
            filled = tf.minimum(ROWS * tf.maximum(groups, 1), tf.size(asks))
            rows = tf.math.top_k(tf.cast(asks, tf.int32), filled).indices
            known = SquareState(*(tf.gather(part, rows) for part in state))
            low, high = (tf.gather(bound, rows) for bound in bounds)
            change = 2.0 * epsilon * table.change(rows, tf.gather(chosen, rows))
            candidate = tf.clip_by_value(known.x_adv + change, low, high)
            loss, broken = self._judge(logits_fn, candidate, tf.gather(y, rows))
            better = tf.gather(asks, rows) & (broken | (loss > known.loss))
            found = SquareState(
                tf.where(per_image(better, x), candidate, known.x_adv),
                tf.where(better, loss, known.loss),
                known.broken | (better & broken),
            )
            places = rows[:, None]
            state = SquareState(
                *(
                    tf.tensor_scatter_nd_update(*parts)
                    for parts in zip(state, [places] * 3, found, strict=True)
                )
            )
            now = tf.where(better, tf.gather(chosen, rows), tf.gather(taken, rows))
            taken = tf.tensor_scatter_nd_update(taken, places, now)
            return query, state, taken, asked + tf.cast(asks, tf.int32)

        nothing = tf.zeros_like(taken)
        initial = (
            nothing + tf.cast(first_query, tf.int32),
            SquareState(*map(tf.stop_gradient, state)),
            taken,
            nothing,
        )
        return tf.while_loop(unfinished, ask, initial)[1:]

    def _judge(self, logits_fn, x, y):
        logits = logits_fn(tf.stop_gradient(x))
        return tf.stop_gradient(get_loss(self.loss)(y, logits)), is_correct(y, logits) < 1

    def _sides(self, height, width):
        shares = (fraction(i, self.queries, self.p_init, self.rescale_schedule) for i in range(self.queries))
        return np.array([side(share, height, width, self.norm) for share in shares], np.int32)


def _images(x):
    x = tf.convert_to_tensor(x, tf.float32)
    if x.shape.rank != 4 or None in x.shape[1:]:
        raise UsageError(
            f"The square attack requires images (B, H, W, C) of known size. Received: x of shape {x.shape}."
        )
    return x


# What follows holds the squares themselves. A start is ``start(shape, draw) -> displacement`` in units of ε.
# A family of moves is ``moves(x, epsilon, sides, draw) -> propose``; ``propose(query, x_adv)`` is the next
# candidate. `draw` is a function that `words_by_key` builds.


def fraction(query: int, queries: int, p_init: float, rescale: bool) -> float:
    """Returns the share p of the pixels that a square covers: `p_init`, halved after the `HALVINGS`.

    Args:
        query: number of the query, from 0.
        queries: all that there will be.
        rescale: scale `query` to a search of 10000 queries, for which the schedule was made.
    """
    position = int(query / queries * 10000) if rescale else query
    return p_init / 2 ** sum(position > halving for halving in HALVINGS)


def side(share: float, height: int, width: int, norm: str) -> int:
    """Returns the side of a square that covers `share` of an image; for l2 it is odd and at least 3.

    Args:
        share: of the pixels, in (0, 1].
        height, width: of the image in pixels; the square fits into it.
        norm: "linf" or "l2".
    """
    length = max(round(math.sqrt(share * height * width)), 1 if norm == "linf" else 3)
    if norm == "l2" and length % 2 == 0:
        length += 1
    return min(length, height, width)


def pattern(size: int) -> np.ndarray:
    """Computes the l2 update η of Andriushchenko et al. 2020, eq. 2: a positive bump above a negative one.

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
    """Builds moves whose candidates are x_adv with one square set to ±ε per channel."""
    _, height, width, channels = x.shape
    sides, lowest, highest = tf.constant(sides), tf.maximum(x - epsilon, 0.0), tf.minimum(x + epsilon, 1.0)

    def propose(query, x_adv):
        length, words = sides[query], draw(query, 2 + channels)
        row, column = below(words[:, 0], height - length + 1), below(words[:, 1], width - length + 1)
        change = 2.0 * epsilon * signs(words[:, None, None, 2:])
        change *= tf.cast(_window(height, width, row, column, length), tf.float32)
        return tf.clip_by_value(x_adv + change, lowest, highest)

    return propose


class _Queries(NamedTuple):
    """The queries of each example from `begin` on: what they set, and which of them are repetitions."""

    shape: tuple  # (H, W, C)
    begin: tf.Tensor  # scalar int32, the first query
    corner: tf.Tensor  # (B, Q, 2) int32, row and column
    length: tf.Tensor  # (Q,) int32
    sign: tf.Tensor  # (B, Q, C) float32, ±1
    before: tf.Tensor  # (B, Q) int32, the last query before that sets the same square to the same; −1: none

    @classmethod
    def drawn(cls, shape, sides, draw, begin, end):
        height, width, channels = shape
        queries = tf.range(begin, end)
        words, length = draw(queries, 2 + channels), tf.gather(tf.constant(sides), queries)
        corner = tf.stack(
            [below(words[..., 0], height - length + 1), below(words[..., 1], width - length + 1)], axis=-1
        )
        sign = signs(words[..., 2:])
        # Equal numbers mean equal moves; with its query as the last digits every number is another one, and
        # sorting brings equal moves together, in the order of their queries.
        number = tf.cast(length * height + corner[..., 0], tf.int64) * width + tf.cast(
            corner[..., 1], tf.int64
        )
        for channel in range(channels):
            number = 2 * number + tf.cast(sign[..., channel] > 0, tf.int64)
        count = tf.cast(tf.size(queries), tf.int64)
        ordered = tf.sort(number * count + tf.range(count), axis=1)
        move, query = ordered // count, tf.cast(ordered % count, tf.int32)
        earlier = tf.where(move[:, 1:] == move[:, :-1], begin + query[:, :-1], -1)
        earlier = tf.pad(earlier, [[0, 0], [1, 0]], constant_values=-1)
        row = tf.broadcast_to(tf.range(tf.shape(query)[0])[:, None], tf.shape(query))
        before = tf.scatter_nd(tf.stack([row, query], axis=-1), earlier, tf.shape(query))
        return cls(tuple(shape), begin, corner, length, sign, before)

    def next(self, query, x_adv, taken, epsilon, bounds):
        """Finds the next query of each example whose candidate is neither its point nor refused already.

        Returns:
            (B,) bool, whether there is one among the next few; (B,) int32, which; (B,) int32, the query from
            which to go on.
        """
        height, width, channels = self.shape
        ahead = query[:, None] + tf.range(LOOK_AHEAD)
        there = ahead < self.begin + tf.size(self.length)
        places = tf.where(there, ahead - self.begin, 0)
        corner, sign, before = (
            tf.gather(part, places, batch_dims=1) for part in (self.corner, self.sign, self.before)
        )
        up, down = (
            tf.cast(tf.clip_by_value(x_adv + move, *bounds) != x_adv, tf.float32)
            for move in (2.0 * epsilon, -2.0 * epsilon)
        )
        length = tf.gather(self.length, places)
        rows = _interval(height, corner[..., 0], length)
        columns = _interval(width, corner[..., 1], length)
        # How many pixels of the square a move changes, by channel: rows · image · columns.
        counts = [
            tf.reduce_sum(
                tf.reshape(
                    rows @ tf.reshape(image, [-1, height, width * channels]),
                    [-1, LOOK_AHEAD, width, channels],
                )
                * columns[..., None],
                axis=2,
            )
            for image in (up, down)
        ]
        changes = tf.reduce_any(tf.where(sign > 0, *counts) > 0, axis=-1)
        # The candidate taken last is no exception: rounding may let the same move change a last bit.
        refused = (before >= 0) & (before > taken[:, None])
        new = there & changes & ~refused
        found = tf.reduce_any(new, axis=1)
        chosen = query + tf.argmax(new, axis=1, output_type=tf.int32)
        return found, chosen, tf.where(found, chosen + 1, query + LOOK_AHEAD)

    def change(self, rows, query):
        """Returns (A, H, W, C): ±1 in the square of one query of each of the examples `rows`, 0 elsewhere."""
        places = tf.where(query < self.begin + tf.size(self.length), query - self.begin, 0)
        corner, sign = (
            tf.gather_nd(part, tf.stack([rows, places], axis=1)) for part in (self.corner, self.sign)
        )
        window = _window(*self.shape[:2], corner[:, 0], corner[:, 1], tf.gather(self.length, places)[:, None])
        return sign[:, None, None, :] * tf.cast(window, tf.float32)


def _interval(size, begin, length):
    """Returns (..., size) float32: 1 from `begin` on for `length` pixels of an axis."""
    pixel = tf.range(size) - begin[..., None]
    return tf.cast((pixel >= 0) & (pixel < length[..., None]), tf.float32)


def l2_moves(x: tf.Tensor, epsilon: tf.Tensor, sides: np.ndarray, draw):
    """Builds moves whose candidates have the budget of one square moved into another, see `move_mass`."""
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
