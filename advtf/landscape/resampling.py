"""What a sample tells: rank correlations with an interval, and how far means of subsets stray. NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advtf.errors import UsageError, require_whole

LEAST_POINTS = 4  # fewer have no interval worth the name


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ of two series, and its percentile bootstrap interval over the points.

    Attributes:
        rho: in [−1, 1]; None where a series is constant.
        low, high: ends of the interval, at `confidence`; None with fewer than four points, or without ρ.
        points: how many.
        confidence: such as 0.95.
    """

    rho: float | None
    low: float | None
    high: float | None
    points: int
    confidence: float


def rank_correlation(
    first: Sequence[float],
    second: Sequence[float],
    *,
    draws: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> RankCorrelation:
    """Measures whether two series rise together, whatever the shape of the relation.

    Args:
        first, second: (N,) finite numbers; equal ones share the mean of their ranks.
        draws: bootstrap samples of the points.
        confidence: of the interval.
        seed: of the bootstrap.

    Raises:
        UsageError: series of different lengths, or numbers that are not finite.
    """
    pairs = np.array([first, second], np.float64) if len(first) == len(second) else np.zeros((2, 0))
    if not pairs.size or not np.isfinite(pairs).all():
        raise UsageError(
            "a rank correlation needs two series of finite numbers, equally long. "
            f"Received: {len(first)} and {len(second)} numbers."
        )
    count = pairs.shape[1]
    rho = _spearman(pairs)
    if rho is None or count < LEAST_POINTS:
        return RankCorrelation(rho, None, None, count, confidence)
    rng = np.random.default_rng(seed)
    drawn = (_spearman(pairs[:, rng.integers(0, count, count)]) for _ in range(draws))
    found = [value for value in drawn if value is not None]
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return RankCorrelation(rho, float(low), float(high), count, confidence)


def _spearman(pairs: np.ndarray) -> float | None:
    ranks = np.stack([_ranks(series) for series in pairs])
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    lengths = np.sqrt((centred**2).sum(axis=1))
    return float(centred[0] @ centred[1] / lengths.prod()) if lengths.all() else None


def _ranks(series: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(series, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def subset_means(values: np.ndarray, sizes: Sequence[int], trials: int, seed: int = 0) -> np.ndarray:
    """Draws means over random subsets, without replacement.

    Each trial shuffles the values once and takes the first of them, so its subsets contain each other.

    Args:
        values: (N,), one per example.
        sizes: of the subsets, each from 1 to N.
        trials: how many means of each size.
        seed: of the shuffles.

    Returns:
        float64 (trials, number of sizes).

    Raises:
        UsageError: a size out of range.
    """
    values = np.asarray(values, np.float64)
    for size in sizes:
        require_whole("subset size", size, 1, len(values))
    require_whole("trials", trials)
    rng, ends = np.random.default_rng(seed), np.asarray(sizes, int) - 1
    means = np.empty((trials, len(ends)))
    for trial in range(trials):
        means[trial] = np.cumsum(rng.permutation(values))[ends] / (ends + 1)
    return means
