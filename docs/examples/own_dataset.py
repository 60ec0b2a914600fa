"""A data set of one's own: noisy images with one bright row (class 0) or one bright column (class 1).

python docs/examples/own_dataset.py --dataset=bars
"""

from runpy import run_module

import numpy as np

from advtf.data.registry import DATASETS, DataSet


def read_bars(data_dir, image_size):
    """Returns the arguments of `advtf.from_arrays`; a real set would be read from `data_dir`."""
    size, random = image_size or 12, np.random.default_rng(0)
    images = random.random((1200, size, size, 1), np.float32) * 0.4
    labels = np.arange(len(images)) % 2
    for image, label in zip(images, labels, strict=True):
        bar = np.moveaxis(image, label, 0)[random.integers(size)]  # a view: a row, or a column
        bar += 0.5
    return dict(x_train=images[:1000], y_train=labels[:1000], x_test=images[1000:], y_test=labels[1000:])


DATASETS["bars"] = DataSet(
    read=read_bars,
    settings=dict(model="lenet", eps=0.1, epochs=5, batch_size=50, augment=False, val_fraction=0.1),
)

if __name__ == "__main__":
    run_module("advtf.main", run_name="__main__")
