"""Rank correlation and means of subsets against SciPy, enumeration and the finite-population formula."""

import itertools

import numpy as np
import pytest

from advtf.errors import UsageError
from advtf.landscape.resampling import rank_correlation, subset_means


def test_rank_correlation_equals_scipy_with_and_without_ties():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for count, levels in ((5, 1000), (40, 1000), (40, 5)):
        first, second = rng.integers(0, levels, (2, count)).astype(float)
        expected = stats.spearmanr(first, second).statistic
        assert rank_correlation(first, second, draws=10).rho == pytest.approx(expected, abs=1e-12)


def test_only_the_order_matters():
    x = np.array([0.1, 0.5, 2.0, 7.0, 30.0])
    found = rank_correlation(x, -np.log(x))
    assert (found.rho, found.low, found.high, found.points) == pytest.approx((-1.0, -1.0, -1.0, 5))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(1), 0
    truth = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's ρ of a Gaussian pair with correlation 0.6
    for number in range(60):
        first = rng.standard_normal(60)
        second = 0.6 * first + 0.8 * rng.standard_normal(60)
        found = rank_correlation(first, second, draws=200, seed=number)
        covered += found.low <= truth <= found.high
    assert covered >= 50  # 57 expected, standard deviation 1.7; percentile intervals are a little short


def test_too_little_is_said_to_be():
    assert rank_correlation([1, 2, 3], [2, 1, 3]).low is None
    constant = rank_correlation([1, 1, 1, 1, 1], [1, 2, 3, 4, 5])
    assert constant.rho is None and constant.high is None
    for first, second in (([1, 2], [1]), ([1, np.nan], [1, 2]), ([], [])):
        with pytest.raises(UsageError, match="two series of finite numbers"):
            rank_correlation(first, second)


def test_subset_means_are_those_of_all_subsets():
    values = np.array([0.0, 1.0, 10.0, 100.0])
    drawn = subset_means(values, [1, 2, 4], 4000, seed=3)
    for column, size in enumerate((1, 2, 4)):
        possible = [np.mean(chosen) for chosen in itertools.combinations(values, size)]
        found, counts = np.unique(drawn[:, column].round(9), return_counts=True)
        np.testing.assert_allclose(found, sorted(possible))
        spread = 5 * np.sqrt(4000 / len(possible))
        assert np.abs(counts - 4000 / len(possible)).max() <= spread


def test_spread_of_subset_means_follows_the_finite_population_formula():
    values = np.random.default_rng(0).exponential(size=300)
    drawn = subset_means(values, [50, 200, 300], 4000)
    for column, size in enumerate((50, 200, 300)):
        expected = values.std(ddof=1) / np.sqrt(size) * np.sqrt(1 - size / 300)
        assert drawn[:, column].std() == pytest.approx(expected, rel=0.06, abs=1e-12)
        assert drawn[:, column].mean() == pytest.approx(
            values.mean(), abs=5 * values.std() / np.sqrt(50 * 4000)
        )


def test_subsets_are_at_most_the_whole():
    with pytest.raises(UsageError, match="subset size must be a whole number from 1 to 3"):
        subset_means(np.ones(3), [4], 10)
