"""Verdicts on values that are made up, where it is known what must come out; intervals against SciPy and by
simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from launch.reproduce.verdicts import (
    FAILS,
    HOLDS,
    OPEN,
    Interval,
    Measured,
    Verdict,
    concordance,
    decide,
    describe,
    exact,
    higher,
    images_interval,
    judged,
    larger,
    lower,
    more,
    number,
    positive,
    provided,
    rises,
    seeds_interval,
    seen_at_least,
    seen_at_most,
    smaller,
    together,
    where_asked,
    within_bound,
)


def measured(**columns):
    """Values by seed from lists of equal length."""
    length = len(next(iter(columns.values())))
    return Measured({seed: {name: each[seed] for name, each in columns.items()} for seed in range(length)})


def test_the_interval_over_seeds_is_students():
    values = [1.0, 2.5, 3.0, 2.0]
    found = seeds_interval(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high)) and found.over == "4 seeds"
    assert seeds_interval([1.0]) is None


def test_runs_are_paired_by_seed():
    """The differences agree while the errors vary far more: unpaired, nothing could be said."""
    ours, theirs = [10.0, 30.0, 50.0], [12.1, 32.0, 51.9]
    assert stats.ttest_ind(ours, theirs).pvalue > 0.9
    found = decide(lower("ours", "theirs"), measured(ours=ours, theirs=theirs))
    assert found.result == HOLDS and found.effect == pytest.approx(2.0)
    reference = stats.ttest_rel(theirs, ours).confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(reference))
    assert decide(higher("ours", "theirs"), measured(ours=ours, theirs=theirs)).result == FAILS
    unclear = decide(lower("ours", "theirs"), measured(ours=[10.0, 30.0], theirs=[14.0, 29.0]))
    assert unclear.result == OPEN and unclear.reasons == ("The interval contains 0.",)


@pytest.mark.parametrize(
    ("effects", "least", "result"),
    [
        ((2.0, 2.1, 1.9), 1.0, HOLDS),
        ((0.5, 0.6, 0.4), 1.0, FAILS),  # above 0 for certain, and below 1 for certain
        ((0.9, 1.0, 0.7), 1.0, OPEN),
        ((0.9, 1.2, 1.6), 1.0, OPEN),  # above 0 for certain, and above 1 on the mean only
        ((-3.0, -2.9, -3.1), 0.0, FAILS),
        ((-3.0, 4.0, 0.1), 0.0, OPEN),
        ((3.0,), 0.0, OPEN),
        ((3.0, math.inf), 0.0, OPEN),
    ],
)
def test_an_effect_is_judged_by_its_interval_and_the_least_that_counts(effects, least, result):
    found = judged(effects, "points", least=least)
    assert found.result == result
    assert bool(found.reasons) == (result == OPEN)


def test_one_run_is_judged_by_its_test_images_only_where_they_tell():
    one = {"images": [1000.0], "theirs": [30.0]}
    clear = decide(lower("ours", "theirs", images="images"), measured(ours=[20.0], **one))
    assert clear.result == HOLDS and clear.interval.over == "1,000 test images of one run each"
    assert clear.reasons == ("One seed, so there is no interval over seeds.",)
    assert decide(lower("ours", "theirs", images="images"), measured(ours=[29.0], **one)).result == OPEN
    assert decide(lower("ours", "theirs"), measured(ours=[20.0], **one)).result == OPEN
    against = decide(lower("ours", "theirs", images="images"), measured(ours=[40.0], **one))
    assert against.result == FAILS and against.effect == pytest.approx(-10)


def test_the_interval_over_images_covers_the_truth():
    """Newcombe's method keeps its promise within simulation error, also near 0."""
    rng, trials, images = np.random.default_rng(0), 1000, 200
    for p, q in ((0.3, 0.2), (0.03, 0.01), (0.5, 0.5)):
        first = 100 * rng.binomial(images, p, trials) / images
        second = 100 * rng.binomial(images, q, trials) / images
        found = [images_interval(one, two, images) for one, two in zip(first, second, strict=True)]
        covered = np.mean([each.low <= 100 * (p - q) <= each.high for each in found])
        assert 0.93 <= covered <= 0.98


def test_the_interval_over_images_is_made_of_wilsons():
    found = images_interval(30.0, 0.0, 50)
    one = stats.binomtest(15, 50).proportion_ci(0.95, "wilson")
    none = stats.binomtest(0, 50).proportion_ci(0.95, "wilson")
    assert found.low == pytest.approx(30 - 100 * math.hypot(0.3 - one.low, none.high))
    assert found.high == pytest.approx(30 + 100 * (one.high - 0.3))


def test_ratios_are_judged_on_their_logarithms():
    values = measured(a=[2.0, 4.4, 1.9], b=[1.0, 2.0, 1.0])
    found = decide(larger("a", "b"), values)
    logs = np.log([2.0, 2.2, 1.9])
    assert found.result == HOLDS and found.unit == "×"
    assert found.effect == pytest.approx(math.exp(logs.mean()))
    low, high = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert decide(smaller("a", "b"), values).result == FAILS
    assert decide(larger("a", "b", times=3.0), values).result == FAILS
    assert decide(larger("a", "b"), measured(a=[1.0], b=[0.0])).result == OPEN


def test_a_trend_is_tested_by_all_orders():
    for table in (np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([[2.0], [1.0], [3.0], [4.0], [5.0]])):
        found, chance = concordance(table)
        reference = stats.kendalltau(range(len(table)), table[:, 0], alternative="greater", method="exact")
        assert found / math.comb(len(table), 2) == pytest.approx(reference.statistic)
        assert chance == pytest.approx(reference.pvalue)


def test_a_trend_over_seeds_counts_every_combination_of_orders():
    table = np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0]])
    orders = list(itertools.permutations(range(3)))

    def score(order):
        return sum(np.sign(b - a) for a, b in itertools.combinations(order, 2))

    scores = [score(one) + score(two) for one in orders for two in orders]
    found, chance = concordance(table)
    assert found == 3 + 1 and chance == pytest.approx(np.mean([each >= 4 for each in scores]))


def test_values_that_rise_with_the_level():
    up = measured(a=[1.0], b=[2.0], c=[4.0], d=[8.0])
    found = decide(rises(("a", "b", "c", "d")), up)
    assert found.result == HOLDS and found.effect == pytest.approx(8) and "p = 0.042" in found.reasons[0]
    assert decide(rises(("d", "c", "b", "a")), up).result == FAILS
    down = decide(rises(("d", "c", "b", "a"), falls=True), up)
    assert down.result == HOLDS and down.effect == pytest.approx(8)
    # Three levels of one seed have six orders only, so that nothing is certain, in either direction.
    for names in (("a", "b", "c"), ("c", "b", "a")):
        few = decide(rises(names), up)
        assert few.result == OPEN and few.reasons[-1] == (
            "No order of 3 levels with 1 seed could be significant: the least p is 0.17, and it must be "
            "below 0.05."
        )
    several = measured(a=[1.0, 1.0], b=[2.0, 2.0], c=[4.0, 3.0])
    assert decide(rises(("a", "b", "c")), several).result == HOLDS
    assert decide(rises(("a",)), up).result == OPEN  # one level is no trend


@pytest.mark.parametrize("order", itertools.permutations(range(4)))
def test_a_trend_of_one_seed_is_decided_by_the_two_extreme_orders_alone(order):
    """Of 24 orders of four levels one has p = 1/24 < 5 %; the next ones have 4/24. So it is downwards."""
    values = measured(**{name: [float(rank + 1)] for name, rank in zip("abcd", order, strict=True)})
    found = decide(rises(("a", "b", "c", "d")), values)
    up = stats.kendalltau(range(4), order, alternative="greater", method="exact").pvalue
    down = stats.kendalltau(range(4), order, alternative="less", method="exact").pvalue
    assert found.result == (HOLDS if up < 0.05 else FAILS if down < 0.05 else OPEN)
    assert (found.result == OPEN) == (list(order) not in ([0, 1, 2, 3], [3, 2, 1, 0]))


def test_bounds_and_exact_claims():
    assert decide(positive("gap", "", least=3.0), measured(gap=[5.0, 5.5, 4.8])).result == HOLDS
    assert decide(positive("gap", "", least=3.0), measured(gap=[1.0, 1.5, 0.8])).result == FAILS
    assert decide(exact("a", "b"), measured(a=[1.0], b=[1.0])).result == HOLDS
    false = decide(exact("a", "b"), measured(a=[1.0], b=[0.0]))
    assert false.result == FAILS and false.reasons == ("Not true: b.",)
    low = decide(within_bound("v", 0.005, ""), measured(v=[0.004, 0.001]))
    assert low.result == HOLDS and low.effect == 0.004
    assert low.reasons == ("Shown is the largest of 2 seeds; the bound is 0.005.",)
    assert decide(within_bound("v", 0.005, ""), measured(v=[0.004, 0.006])).result == FAILS


def test_a_value_may_bring_its_own_interval():
    values = {"rho": [-0.8], "rho_low": [-0.9], "rho_high": [-0.5]}
    found = decide(positive("rho", "ρ", sign=-1, over="20 variants"), measured(**values))
    assert found.result == HOLDS and found.interval == Interval(0.5, 0.9, "20 variants")
    assert decide(positive("rho", "ρ"), measured(**values)).result == FAILS
    # Several seeds have a better one.
    several = measured(rho=[-0.8, 0.9], rho_low=[-0.9, 0.8], rho_high=[-0.5, 1.0])
    assert decide(positive("rho", "ρ"), several).interval.over == "2 seeds"


def test_means_over_images_bring_their_standard_errors():
    values = {"a": [3.0], "a_se": [0.3], "b": [2.0], "b_se": [0.4]}
    found = decide(more("a", "b", "nats"), measured(**values))
    low, high = stats.norm.interval(0.95, loc=1.0, scale=0.5)
    assert found.result == HOLDS and (found.interval.low, found.interval.high) == pytest.approx((low, high))
    rng = np.random.default_rng(0)
    ratios = rng.normal(3.0, 0.03, 100_000) / rng.normal(2.0, 0.04, 100_000)
    found = decide(larger("a", "b"), measured(a=[3.0], a_se=[0.03], b=[2.0], b_se=[0.04]))
    expected = np.quantile(ratios, [0.025, 0.975])
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(expected), rel=2e-3)
    assert decide(more("a", "b", "nats"), measured(a=[3.0], b=[2.0])).result == OPEN


def test_a_precondition_leaves_the_claim_open():
    claim = provided(seen_at_least("gap", 3.0), "It does not overfit.", lower("a", "b"))
    values = {"a": [1.0, 1.1], "b": [2.0, 2.1]}
    assert decide(claim, measured(gap=[4.0, 5.0], **values)).result == HOLDS
    found = decide(claim, measured(gap=[2.0, 1.0], **values))
    assert found.result == OPEN and found.reasons[0].startswith("It does not overfit. It is 1.50 points")
    trains = provided(seen_at_most("error", 80.0), "It does not train.", lower("a", "b"))
    assert decide(trains, measured(error=[90.0, 90.0], **values)).result == OPEN


def test_all_parts_of_a_claim_must_hold():
    values = measured(a=[1.0, 1.1], b=[2.0, 2.1], c=[3.0, 3.1])
    both = decide(together(lower("a", "b"), lower("b", "c"), names=("first", "second")), values)
    assert both.result == HOLDS
    assert both.reasons == ("2 of 2 parts of the claim have this verdict; shown is first.",)
    assert decide(together(lower("a", "b")), values).reasons == ()
    found = decide(together(lower("a", "b"), lower("c", "b"), lower("b", "c")), values)
    assert found.result == FAILS and found.reasons == (
        "1 of 3 parts of the claim have this verdict; shown is part 2.",
    )


def test_a_part_that_is_missing_refutes_nothing_and_hides_no_refutation():
    values = measured(a=[1.0, 1.1], b=[2.0, 2.1], lost=[None, 1.0])
    missing = decide(together(lower("a", "b"), lower("a", "lost")), values)
    assert missing.result == OPEN
    assert missing.reasons[0] == (
        "There is no lost with seed 0: its run has failed, or the value is not finite."
    )
    assert decide(together(lower("a", "lost"), lower("b", "a")), values).result == FAILS


def test_a_phenomenon_that_some_seeds_lack_is_told():
    trains = provided(seen_at_most("row:error", 80.0), "It does not train.", lower("a", "b"))
    values = Measured({n: {"row:error": e, "a": 1.0, "b": 2.0 + n} for n, e in enumerate((10.0, 10.0, 90.0))})
    found = decide(trains, values)
    assert found.reasons[-1] == "With 1 of 3 seeds the error of row is above 80 %."
    assert decide(seen_at_least("row:error", 80.0), values).reasons == (
        "With 2 of 3 seeds the error of row is below 80 points.",
    )


def test_methods_are_compared_over_the_seeds_that_both_were_trained_with():
    """A value that is None was asked for and has failed; one that is absent was not asked for."""
    both = [{"a": 10.0, "b": 12.0 + 0.1 * seed} for seed in range(3)]
    better, values = where_asked(("a", "b"), lower("a", "b")), dict(enumerate([*both, {"a": 10.0}]))
    found = decide(better, Measured(values))
    assert found.result == HOLDS and found.interval.over == "3 seeds"
    assert decide(lower("a", "b"), Measured(values)).result == OPEN
    assert decide(better, Measured(values | {3: {"a": 10.0, "b": None}})).reasons == (
        "There is no b with seed 3: its run has failed, or the value is not finite.",
    )
    assert decide(better, Measured({0: {"a": 10.0}})).result == OPEN


def test_what_was_not_measured_leaves_the_claim_open():
    found = decide(lower("a", "b"), measured(a=[1.0]))
    assert found.result == OPEN and found.reasons == (
        "There is no b: it is not measured at this scale, or its run has failed.",
    )
    assert decide(lower("a", "b"), Measured({})).reasons == ("Nothing has been measured yet.",)
    assert decide(lower("a", "b"), measured(a=[1.0], b=[None])).result == OPEN


NUMBERS = {
    0.0: "0",
    -1.234: "−1.23",
    12.345: "12.3",
    0.0123: "0.0123",
    1e-5: "1.00e-05",
    123456.7: "1.23e+05",
}


@pytest.mark.parametrize("value", NUMBERS)
def test_numbers_in_three_digits(value):
    assert number(value) == NUMBERS[value]


def test_an_effect_in_words():
    found = Verdict(HOLDS, 2.0, "points", Interval(-0.5, 3.0, "3 seeds"))
    assert describe(found) == "2.00 points (−0.500 to 3.00 over 3 seeds)"
    assert describe(Verdict(OPEN)) == "–"
    assert number(math.nan) == "not finite"
