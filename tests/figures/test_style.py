"""Images made fit to show: perturbations amplified, channels reduced, values clipped."""

import numpy as np
import pytest

from advtf.figures.style import amplified, displayable


def test_amplified_uses_the_whole_range_and_leaves_zero_grey():
    shown, factor = amplified(np.array([-0.1, 0.0, 0.05]))
    assert factor == pytest.approx(5.0)
    np.testing.assert_allclose(shown, [0.0, 0.5, 0.75])
    grey, factor = amplified(np.zeros(3))
    assert (grey.tolist(), factor) == ([0.5] * 3, 1.0)


@pytest.mark.parametrize(("channels", "shown"), [(1, 1), (2, 1), (3, 3), (4, 1)])
def test_displayable_channels(channels, shown):
    images = np.linspace(-1, 2, 8 * channels).reshape(2, 2, 2, channels)
    result = displayable(images)
    assert result.shape == (2, 2, 2, shown)
    assert (result.min(), result.max()) == (0.0, 1.0)
