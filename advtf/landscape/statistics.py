"""What a sample tells: means with their standard errors, rank correlations, and means of subsets."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advtf.errors import UsageError, require_whole

LEAST_POINTS = 4  # fewer have no interval worth the name


@dataclass(frozen=True, eq=False)
class Estimate:
    """A mean and how far it may be from the truth; as text, "1.234 ± 0.056".

    Attributes:
        mean: of a sample, a number or an array of numbers; NaN of an empty sample.
        standard_error: of the mean, s/√n with s² the unbiased variance; NaN with fewer than two values.
        count: n, how many values were averaged.
    """

    mean: float | np.ndarray
    standard_error: float | np.ndarray
    count: int

    def __str__(self) -> str:
        """Shows two digits of the error, and the mean to as many decimals."""
        mean, error = float(self.mean), float(self.standard_error)
        if not math.isfinite(mean):
            return "-"
        if not (math.isfinite(error) and error > 0):
            return f"{mean:.4g}" if math.isnan(error) else f"{mean:.4g} ± {error:g}"
        decimals = 1 - math.floor(math.log10(error))
        size = math.floor(math.log10(max(abs(mean), error)))
        if -4 <= size < 6:
            return f"{mean:.{max(decimals, 0)}f} ± {error:.{max(decimals, 0)}f}"
        digits = decimals + math.floor(math.log10(abs(mean))) if mean else 0
        return f"{mean:.{max(digits, 0)}e} ± {error:.1e}"

    def to_json(self) -> dict:
        """Returns ``{"mean", "standard_error", "examples"}``, with None for NaN."""
        mean, error = (None if math.isnan(each) else each for each in (self.mean, self.standard_error))
        return {"mean": mean, "standard_error": error, "examples": self.count}


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    """Estimates a mean from independent values.

    Args:
        values: (n, ...), real numbers; the mean is taken over the first axis.

    Returns:
        Floats for values (n,), else float64 arrays (...).
    """
    values = np.asarray(values, np.float64)
    count, unknown = len(values), np.full(values.shape[1:], np.nan)
    mean = values.mean(axis=0) if count else unknown
    error = values.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else unknown
    if values.ndim == 1:
        mean, error = float(mean), float(error)
    return Estimate(mean, error, count)


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
        draws: bootstrap samples of the points; one in which a series is constant has no ρ and does not count.
        confidence: of the interval, in (0, 1).
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
    from scipy import stats  # importing it takes a second, which a mean and its error do not need

    def spearman(*series, axis=-1):
        ranks = (stats.rankdata(each, axis=axis) for each in series)
        return stats.pearsonr(*ranks, axis=axis).statistic

    count = pairs.shape[1]
    with warnings.catch_warnings():
        # Of a constant series ρ is NaN, which is seen to here; an interval may be a single point.
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        rho = float(spearman(*pairs)) if count > 1 else math.nan
        if math.isnan(rho):
            return RankCorrelation(None, None, None, count, confidence)
        if count < LEAST_POINTS:
            return RankCorrelation(rho, None, None, count, confidence)
        sampled = stats.bootstrap(
            pairs, spearman, paired=True, n_resamples=draws, method="percentile", rng=seed
        )
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.nanquantile(sampled.bootstrap_distribution, ends)
    return RankCorrelation(rho, float(low), float(high), count, confidence)


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
