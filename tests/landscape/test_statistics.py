"""Standard errors, rank correlation and means of subsets against formulas, SciPy and enumeration."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from advtf.errors import UsageError
from advtf.landscape.statistics import Estimate, estimate, rank_correlation, subset_means


def test_an_estimate_is_the_mean_and_the_deviation_over_the_root_of_the_count():
    found = estimate([1.0, 2.0, 3.0, 6.0])
    assert (found.mean, found.count) == (3.0, 4)
    assert found.standard_error == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))
    assert found.to_json() == {"mean": 3.0, "standard_error": found.standard_error, "examples": 4}
    rows = np.random.default_rng(0).normal(size=(7, 2, 3))
    many = estimate(rows)
    assert many.mean.shape == many.standard_error.shape == (2, 3) and many.count == 7
    one = estimate(rows[:, 1, 2])
    assert (one.mean, one.standard_error) == pytest.approx((many.mean[1, 2], many.standard_error[1, 2]))


def test_what_is_not_known_is_not_a_number():
    single, none = estimate([2.5]), estimate([])
    assert single.to_json() == {"mean": 2.5, "standard_error": None, "examples": 1}
    assert none.to_json() == {"mean": None, "standard_error": None, "examples": 0}
    several = estimate(np.ones((1, 4)))
    assert (several.mean == 1).all() and np.isnan(several.standard_error).all()


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (1.23449, 0.0561, "1.234 ± 0.056"),
        (123.4, 12.3, "123 ± 12"),
        (123456.0, 7890.0, "123456 ± 7890"),
        (-0.02, 0.5, "-0.02 ± 0.50"),
        (1.23456e-9, 3.21e-11, "1.235e-09 ± 3.2e-11"),
        (2.5e9, 1e8, "2.50e+09 ± 1.0e+08"),
        (0.0, 1e-7, "0e+00 ± 1.0e-07"),
        (3.0, 0.0, "3 ± 0"),
        (3.14159, math.nan, "3.142"),
        (math.nan, math.nan, "-"),
    ],
)
def test_the_text_has_two_digits_of_the_error(mean, error, text):
    assert str(Estimate(mean, error, 9)) == text


def test_rank_correlation_equals_scipy_with_and_without_ties():
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
