"""Square Attack: random search over square patches, from logits alone (Andriushchenko et al. 2020).

"Square Attack: a query-efficient black-box adversarial attack via random search", ECCV 2020; algorithm 1.
Each example draws its own squares from (seed, key, query), whatever batch it is in, so a long search may be
cut into pieces between which the examples already broken are left out, and still ends the same.
"""

from dataclasses import dataclass
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from advtf.attacks.losses import get_loss, is_correct
from advtf.attacks.norms import get_ball
from advtf.attacks.pgd import NEGLIGIBLE_EPSILON, Attack, LogitsFn
from advtf.attacks.random import words_by_key
from advtf.attacks.square_moves import fraction, l2_moves, l2_start, linf_moves, linf_start, side
from advtf.errors import UsageError

START_DRAWS, QUERY_DRAWS = 0, 1  # streams of words_by_key


class SquareState(NamedTuple):
    """What a search knows of each example: enough to go on from."""

    x_adv: tf.Tensor  # (B, H, W, C): misclassified if `broken`, else where the loss was largest
    loss: tf.Tensor  # (B,) float32 at x_adv
    broken: tf.Tensor  # (B,) bool


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
        ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``, as `advtf.attacks.pgd.pgd` describes; no gradient
        is taken. The search for an example ends when it is misclassified.

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
        get_ball(self.norm), get_loss(self.loss)
        if not isinstance(self.queries, Integral) or self.queries < 1:
            raise UsageError(
                f"queries must be a whole number of at least 1. Received: queries={self.queries}."
            )
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
            pixels = tf.reshape(taken, [-1, 1, 1, 1])
            return query + 1, SquareState(
                tf.stop_gradient(tf.where(pixels, candidate, state.x_adv)),
                tf.where(taken, loss, state.loss),
                state.broken | broken,
            )

        state = SquareState(*map(tf.stop_gradient, state))
        return tf.while_loop(unfinished, query_once, (tf.cast(first_query, tf.int32), state))[1]

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
