"""Schedules against hand-computed numbers, exact rationals and the formulas of the paper."""

import decimal
import math
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from advtf.errors import UsageError
from advtf.training import schedules
from advtf.training.schedules import epsilon_schedule, period_progress, rate_schedule, strength_ramp


def test_cosine_epsilon_of_mnist_at_hand_computed_epochs():
    epsilon = epsilon_schedule("cosine", target=0.4, maximum=0.6, epochs=100)
    assert epsilon(0) == 0.0
    assert epsilon(25) == pytest.approx(0.3 * (1 - math.sqrt(0.5)), rel=1e-12)  # 0.0879
    assert epsilon(50) == pytest.approx(0.3, rel=1e-12)
    assert epsilon(60) == pytest.approx(0.3927050983, rel=1e-9)  # cos 108 deg = -0.30901699437
    assert epsilon(61) == 0.4  # the unclipped curve passes 0.4 at arccos(-1/3)/pi = 60.8 epochs
    assert epsilon(99) == epsilon(100) == epsilon(250) == 0.4


def test_linear_epsilon_reaches_the_target_at_half_of_training():
    epsilon = epsilon_schedule("linear", target=8 / 255, maximum=16 / 255, epochs=200)
    assert epsilon(50) == pytest.approx(4 / 255, rel=1e-12)
    assert epsilon(99.5) < 8 / 255
    assert epsilon(100) == epsilon(199) == 8 / 255
    assert epsilon_schedule("linear", target=0.4, maximum=0.8, epochs=100)(30) == pytest.approx(0.24)


def test_epsilon_minimum_and_default_maximum():
    linear = epsilon_schedule("linear", target=0.5, minimum=0.1, epochs=10)
    assert [linear(d) for d in (0, 5, 10)] == pytest.approx([0.1, 0.3, 0.5])
    cosine = epsilon_schedule("cosine", target=0.5, minimum=0.1, epochs=10)
    assert [cosine(d) for d in (0, 5, 10)] == pytest.approx([0.1, 0.3, 0.5])
    assert cosine(2.5) == pytest.approx(0.1 + 0.2 * (1 - math.sqrt(0.5)))


def test_epsilon_is_clipped_from_below():
    assert schedules.linear_epsilon(0.25, -1.0, 1.0, 0.5) == 0.0
    assert schedules.cosine_epsilon(0.25, -1.0, 1.0, 0.5) == 0.0


def test_constant_epsilon_ignores_position_and_periods():
    epsilon = epsilon_schedule("constant", target=0.3, boundaries=(1, 2), epochs=3)
    assert {epsilon(d) for d in (0, 0.7, 1, 2, 3, 99)} == {0.3}


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_epsilon_restarts_and_is_scaled_to_each_period(kind):
    periodic = epsilon_schedule(kind, target=8 / 255, maximum=16 / 255, boundaries=(100, 150), epochs=200)
    single = epsilon_schedule(kind, target=8 / 255, maximum=16 / 255, epochs=100)
    for d in range(100):
        assert periodic(d) == single(d)
    for start in (100, 150):
        for d in range(50):
            assert periodic(start + d) == single(2 * d)
    assert periodic(100) == periodic(150) == 0.0
    assert periodic(200) == 8 / 255


def test_resnet_recipe_divides_by_ten_at_half_and_three_quarters():
    rate = rate_schedule("step", 0.1, milestones=(0.5, 0.75), epochs=200)
    expected = [0.1] * 100 + [0.01] * 50 + [0.001] * 50
    assert [rate(d) for d in range(200)] == pytest.approx(expected, rel=1e-12)
    periodic = rate_schedule("step", 0.1, milestones=(0.5, 0.75), boundaries=(100, 150), epochs=200)
    expected = [0.1] * 50 + [0.01] * 25 + [0.001] * 25 + 2 * ([0.1] * 25 + [0.01] * 13 + [0.001] * 12)
    assert [periodic(d) for d in range(200)] == pytest.approx(expected, rel=1e-12)


def test_vgg_recipe_decays_geometrically_between_100_and_150():
    rate = rate_schedule("exponential", 1e-3, milestones=(0.5, 0.75), epochs=200)
    assert rate(0) == rate(99) == rate(100) == 1e-3
    assert rate(125) == pytest.approx(1e-3 / math.sqrt(10), rel=1e-12)
    assert rate(150) == rate(199) == pytest.approx(1e-4, rel=1e-12)
    ratios = [rate(d + 1) / rate(d) for d in range(100, 150)]
    assert ratios == pytest.approx([0.1 ** (1 / 50)] * 50, rel=1e-12)


def test_warmup_in_epochs_and_as_a_fraction():
    for warmup in (10, 0.1):
        rate = rate_schedule("warmup", 1e-3, warmup=warmup, epochs=100)
        assert rate(0) == 0.0
        assert rate(5) == pytest.approx(5e-4, rel=1e-12)
        assert rate(10) == rate(99) == 1e-3
    whole = rate_schedule("warmup", 1.0, warmup=10, boundaries=(100,), epochs=150)
    assert [whole(d) for d in (100, 105, 110)] == pytest.approx([0.0, 0.5, 1.0])
    fraction = rate_schedule("warmup", 1.0, warmup=0.1, boundaries=(100,), epochs=150)
    assert [fraction(d) for d in (100, 102, 105)] == pytest.approx([0.0, 0.4, 1.0])


def test_cosine_and_constant_rate():
    rate = rate_schedule("cosine", 0.2, epochs=12)
    assert [rate(d) for d in (0, 4, 6, 8, 12)] == pytest.approx([0.2, 0.15, 0.1, 0.05, 0.0], abs=1e-15)
    assert schedules.cosine_rate(1.0, 0.2, minimum=0.05) == pytest.approx(0.05)
    assert rate_schedule("constant", 1e-4, epochs=100)(57) == 1e-4


def test_progress_at_boundaries_and_outside_the_training():
    assert period_progress(150, (100, 150), 200) == 0.0
    assert period_progress(149, (100, 150), 200) == 49 / 50
    assert period_progress(200, (100, 150), 200) == period_progress(300, (100, 150), 200) == 1.0
    assert period_progress(-1, (100, 150), 200) == 0.0
    assert period_progress(np.float32(1.5), (), np.int64(3)) == 0.5


@pytest.mark.parametrize("length", [1, 3, 7, 10, 30, 110, 200])
@pytest.mark.parametrize("steps", [1, 3, 10, 22, 390, 469])
def test_progress_per_step_is_the_correctly_rounded_exact_quotient(length, steps):
    start = 0.1 * 3  # 0.30000000000000004 as a float, three tenths as meant
    for step in range(0, length * steps, 1 + length * steps // 97):
        position = step / steps
        assert period_progress(position, (), length) == float(Fraction(step, steps * length))
        expected = (Fraction(step, steps) - Fraction(3, 10)) / (length - Fraction(3, 10))
        if expected >= 0:
            assert period_progress(position, (start,), length) == float(expected)


def test_no_milestone_is_missed_by_rounding():
    assert 1.4 / 7 < 0.2, "the trap: plain float progress misses this milestone by one step"
    for length in (7, 10, 30, 50, 110, 200):
        for steps in (10, 20, 390):
            for tenths in range(1, 10):
                rate = rate_schedule("step", 1.0, milestones=(tenths / 10,), epochs=length)
                reached = length * steps * tenths // 10
                assert rate(reached / steps) == pytest.approx(0.1), (length, steps, tenths)
                assert rate((reached - 1) / steps) == 1.0, (length, steps, tenths)


PI = Decimal("3.1415926535897932384626433832795028841972")
ROUNDING = Decimal("1.5e-16")  # less than a unit in the last place of a number just below 1


def decimal_cosine(x):
    """The Taylor series of the cosine, in the digits of the context."""
    term = total = Decimal(1)
    for k in range(1, 40):
        term *= -x * x / (2 * k * (2 * k - 1))
        total += term
    return total


def share_of_period(step, steps, periods):
    """Progress d/D of a step within its period of whole epochs, as a decimal number, and D."""
    start = max(edge for edge in periods[:-1] if edge * steps <= step)
    length = periods[periods.index(start) + 1] - start
    return (Decimal(step) / steps - start) / length, length


@pytest.fixture
def forty_digits():
    with decimal.localcontext(prec=40):
        yield


# Tasks of Liu et al. 2020: the target, the maxima of the curves, the edges of the periods, steps per epoch.
EPSILONS_OF_2020 = {
    "mnist": ("0.4", {"cosine": "0.6", "linear": "0.8"}, (0, 100), 469),
    "cifar10": ("8/255", {"cosine": "16/255", "linear": "16/255"}, (0, 200), 391),
    "cifar10 periodic": ("8/255", {"cosine": "16/255", "linear": "16/255"}, (0, 100, 150, 200), 391),
}


def number(text):
    top, _, bottom = text.partition("/")
    return Decimal(top) / Decimal(bottom or 1)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("task", EPSILONS_OF_2020)
def test_epsilon_is_equation_5_to_the_last_digit(forty_digits, task, kind):
    target, maxima, periods, steps = EPSILONS_OF_2020[task]
    target, maximum = number(target), number(maxima[kind])
    settings = {"boundaries": periods[1:-1], "epochs": periods[-1]}
    epsilon = epsilon_schedule(kind, target=float(target), maximum=float(maximum), **settings)
    for step in range(0, periods[-1] * steps, 197):
        t, _ = share_of_period(step, steps, periods)
        curve = (1 - decimal_cosine(PI * t)) / 2 if kind == "cosine" else t
        expected = min(curve * maximum, target)
        assert abs(Decimal(epsilon(step / steps)) - expected) <= ROUNDING, step


@pytest.mark.parametrize("periods", [(0, 200), (0, 100, 150, 200)])
@pytest.mark.parametrize("kind", ["step", "exponential", "cosine", "warmup"])
def test_rates_are_their_formulas_to_the_last_digit(forty_digits, kind, periods):
    rate, steps = Decimal("0.1"), 391
    settings = {"step": {"milestones": (0.5, 0.75)}, "exponential": {"milestones": (0.5, 0.75)}}
    settings["warmup"] = {"warmup": 10}
    schedule = rate_schedule(
        kind, 0.1, boundaries=periods[1:-1], epochs=periods[-1], **settings.get(kind, {})
    )
    for step in range(0, periods[-1] * steps, 197):
        t, length = share_of_period(step, steps, periods)
        share = {
            "step": lambda t=t: Decimal(10) ** -((t >= Decimal("0.5")) + (t >= Decimal("0.75"))),
            "exponential": lambda t=t: Decimal(10) ** -min(max(4 * t - 2, Decimal(0)), Decimal(1)),
            "cosine": lambda t=t: (1 + decimal_cosine(PI * t)) / 2,
            "warmup": lambda t=t, length=length: min(t * length / 10, Decimal(1)),
        }[kind]()
        assert abs(Decimal(schedule(step / steps)) - share * rate) <= ROUNDING, step


INVALID_EPSILON = [
    dict(kind="cosin"),
    dict(target=-0.1),
    dict(target=math.nan),
    dict(target=math.inf),
    dict(kind="linear", minimum=-0.1),
    dict(kind="linear", minimum=0.5),
    dict(kind="linear", minimum=math.nan),
    dict(kind="linear", maximum=math.nan),
    dict(kind="cosine", minimum=0.2, maximum=0.1),
    dict(maximum=0.5),
    dict(minimum=0.1),
    dict(epochs=0),
    dict(epochs=math.inf),
    dict(boundaries=(0,)),
    dict(boundaries=(10,)),
    dict(boundaries=(5, 5)),
    dict(boundaries=(6, 5)),
    dict(boundaries=(math.nan,)),
]


@pytest.mark.parametrize("changes", INVALID_EPSILON, ids=str)
def test_invalid_epsilon_schedules_are_refused_in_one_line(changes):
    settings = {"kind": "constant", "target": 0.4, "epochs": 10, **changes}
    with pytest.raises(UsageError, match="Received: ") as caught:
        epsilon_schedule(settings.pop("kind"), **settings)
    assert "\n" not in str(caught.value)


INVALID_RATE = [
    dict(kind="steps"),
    dict(rate=0.0),
    dict(rate=math.nan),
    dict(factor=0.0),
    dict(kind="step"),
    dict(kind="step", milestones=(0.75, 0.5)),
    dict(kind="step", milestones=(50, 75)),
    dict(kind="step", milestones=(math.nan,)),
    dict(kind="exponential", milestones=(0.5,)),
    dict(kind="exponential", milestones=(0.5, 0.5)),
    dict(kind="cosine", milestones=(0.5,)),
    dict(kind="step", milestones=(0.5,), warmup=0.1),
    dict(kind="warmup"),
    dict(kind="warmup", warmup=-1),
    dict(kind="warmup", warmup=11),
    dict(kind="warmup", warmup=3, boundaries=(8,)),
    dict(boundaries=(12,)),
]


@pytest.mark.parametrize("changes", INVALID_RATE, ids=str)
def test_invalid_rate_schedules_are_refused_in_one_line(changes):
    settings = {"kind": "constant", "rate": 0.1, "epochs": 10, **changes}
    with pytest.raises(UsageError, match="Received: ") as caught:
        rate_schedule(settings.pop("kind"), settings.pop("rate"), **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(milestones=(2,)), r"milestones must be increasing .* Received: milestones=2\."),
        (
            dict(milestones=(0.5,), boundaries=(12,)),
            r"Received: boundaries=12, epochs=10\.",
        ),
        (dict(milestones=()), r"needs at least one fraction.* Received: milestones=none\."),
        (dict(milestones=(0.5,), factor=-1), r"factor must be .* above 0\. Received: factor=-1\."),
    ],
)
def test_the_library_calls_the_arguments_by_their_names(arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        rate_schedule("step", 0.1, **{"epochs": 10, **arguments})
    assert not {"lr_milestones", "periods", "lr_factor"} & set(str(caught.value).replace("=", " ").split())


def test_the_ramp_of_a_strength_starts_above_zero_and_ends_with_the_whole():
    ramp = strength_ramp(epochs=4)
    assert [ramp(epoch) for epoch in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert strength_ramp(epochs=1)(0) == 1.0
    each_step = strength_ramp(3, "step", steps_per_epoch=2)
    assert [each_step(step / 2) for step in range(6)] == [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0]
    last = strength_ramp(200, "step", steps_per_epoch=391)
    assert last(200 - 1 / 391) == 1.0


def test_unknown_kind_names_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'cosine'"):
        epsilon_schedule("cosin", target=0.4, epochs=10)


def test_schedules_import_neither_tensorflow_nor_numpy():
    heavy = "{'tensorflow', 'keras', 'numpy'}"
    code = f"import sys, advtf.training.schedules; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
