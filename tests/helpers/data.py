"""Images that tell which example they are."""

import numpy as np

from advtf.data.sets import Split


def numbered_split(count=23):
    """Images whose every pixel is the number of the example."""
    numbers = np.arange(count, dtype=np.uint8)
    images = np.broadcast_to(numbers[:, None, None, None], (count, 8, 8, 1)).copy()
    return Split(images, numbers.astype("i4"))
