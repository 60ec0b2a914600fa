"""What figures share: readable ticks, perturbations amplified, channels reduced, values clipped."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from advtf.figures.style import amplified, displayable, log_axis


def test_amplified_uses_the_whole_range_and_leaves_zero_grey():
    shown, factor = amplified(np.array([-0.1, 0.0, 0.05]))
    assert factor == pytest.approx(5.0)
    np.testing.assert_allclose(shown, [0.0, 0.5, 0.75])
    grey, factor = amplified(np.zeros(3))
    assert (grey.tolist(), factor) == ([0.5] * 3, 1.0)


@pytest.mark.parametrize("high", [1.1, 3, 8, 60, 500, 1e4, 1e9])
def test_logarithmic_axis_has_readable_ticks_whatever_it_spans(high):
    axes = Figure().subplots()
    axes.plot([0.7, 0.7 * high])
    log_axis(axes.yaxis)
    low, top = axes.get_ylim()
    shown = [tick for tick in axes.get_yticks() if low <= tick <= top]
    labels = [text for text in axes.yaxis.get_major_formatter().format_ticks(shown) if text]
    assert axes.get_yscale() == "log" and 2 <= len(shown) <= 9 and len(labels) == len(shown)


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3), (4, 1)])
def test_displayable_channels(channels, shown):
    images = np.linspace(-1, 2, 8 * channels).reshape(2, 2, 2, channels)
    result = displayable(images)
    assert result.shape == (2, 2, 2, shown)
    assert (result.min(), result.max()) == (0.0, 1.0)
