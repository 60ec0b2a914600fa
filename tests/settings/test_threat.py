"""Radii and steps: what is refused, and how they are written."""

import math

import pytest

from advtf.errors import UsageError
from advtf.settings.fields import number
from advtf.settings.threat import (
    STEP_CEILING,
    describe_pgd,
    format_epsilon,
    relative_step,
    require_radius,
    require_step,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (8 / 255, "8/255"), (0.4, "0.4"), (0.0, "0"), (16 / 255, "16/255"), (64 / 255, "64/255"),
        (65 / 255, "0.2549"), (0.031, "0.031"), (0.2, "0.2"), (1.0, "1"),
    ],
)  # fmt: skip
def test_format_epsilon(value, shown):
    assert format_epsilon(value) == shown
    assert number(shown) == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize(
    ("value", "norm", "times"),
    [(0, "linf", 1), (1, "linf", 1), (2, "linf", 2), (50, "l2", 1), (1e6, None, 1)],
)
def test_a_radius_within_its_range_comes_back_as_a_float(value, norm, times):
    radius = require_radius("eps", value, norm, times=times)
    assert radius == value and type(radius) is float


@pytest.mark.parametrize(
    ("value", "norm", "times", "words"),
    [
        (8, "linf", 1, ["eps must be in [0, 1] for linf", "Received: eps=8", "8/255"]),
        (2.5, "linf", 2, ["in [0, 2]", "eps=2.5"]),
        (51, "l2", 1, ["in [0, 50] for l2", "51/255"]),
        (-0.1, "linf", 1, ["at least 0", "eps=-0.1"]),
        (-0.1, None, 1, ["at least 0", "eps=-0.1"]),
        (math.nan, "linf", 1, ["finite", "eps=nan"]),
        (math.inf, None, 1, ["finite", "eps=inf"]),
    ],
)
def test_a_radius_out_of_range_is_refused_with_what_was_received(value, norm, times, words):
    with pytest.raises(UsageError) as caught:
        require_radius("eps", value, norm, times=times)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


@pytest.mark.parametrize(
    ("step", "epsilon", "relative"),
    [
        ("0.02", 0.1, 0.2),
        (repr(5 / 255), 0.1, 50 / 255),
        ("0.25eps", 0.1, 0.25),
        ("0.25eps", 0.0, 0.25),
        ("0.01", 0.0, 1.0),
    ],
)
def test_relative_step_divides_a_length_by_the_radius(step, epsilon, relative):
    assert relative_step(step, epsilon) == pytest.approx(relative, rel=1e-12)


def test_a_step_may_reach_the_ceiling_and_not_exceed_it():
    require_step("attack_step_size", f"{STEP_CEILING!r}eps", 0.1)
    require_step("attack_step_size", "5.0", 0.0)  # without a radius it has no effect
    with pytest.raises(
        UsageError, match=r"at most 2\.5 times ε\. Received: attack_step_size=0\.26 at eps=0\.1"
    ):
        require_step("attack_step_size", "0.26", 0.1)


def test_one_step_is_a_step():
    assert "1 step of 0.1 (1 ε), start step" in describe_pgd("l2", 0.1, 1, "1.0eps", "step")


def test_pgd_is_described_in_the_units_of_its_settings():
    line = describe_pgd("linf", 8 / 255, 10, "0.25eps", "none")
    assert line == "PGD, linf, ε 8/255, 10 steps of 2/255 (0.25 ε), no random start"
