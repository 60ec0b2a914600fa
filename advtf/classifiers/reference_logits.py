"""Reference logits: those that a network gave elsewhere, for comparison with its conversion.

This module does not import TensorFlow, so that a file which cannot be read is refused at once.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from advtf.errors import UsageError, first_line, quantity
from advtf.runtime import true_float32

TOLERANCE = 1e-3  # of the largest logit: a hundred times what the order of float32 additions changes
WRITE = "numpy.savez('x.npz', images=images, logits=logits)"


@dataclass(frozen=True, eq=False)
class ReferenceLogits:
    """Images and the logits that a network gave for them.

    Attributes:
        path: the file that they were read from.
        images: float32 in [0, 1], (N, H, W, C), or (N, C, H, W) as in PyTorch.
        logits: float64 (N, K).
    """

    path: Path
    images: np.ndarray
    logits: np.ndarray

    @property
    def tolerance(self) -> float:
        """The largest difference between logits of one network: 0.1 % of the largest logit in magnitude."""
        return TOLERANCE * float(np.abs(self.logits).max())

    @true_float32()
    def difference(self, logits_fn: Callable, shape: tuple[int, int, int]) -> float:
        """Returns the largest difference, in magnitude, between the logits of a classifier and these.

        Args:
            logits_fn: float32 images (B, H, W, C) in [0, 1] -> logits (B, K).
            shape: (H, W, C) of its images.

        Raises:
            UsageError: the images or the number of classes are not those of the classifier.
        """
        images = self._arranged(shape)
        parts = [np.asarray(logits_fn(images[i : i + 100])) for i in range(0, len(images), 100)]
        logits = np.concatenate(parts).astype(np.float64)
        if logits.shape != self.logits.shape:
            raise UsageError(
                f"logits in {self.path} must be those of {logits.shape[1]} classes for "
                f"{quantity(len(images), 'image')}. "
                f"Received: logits of shape {self.logits.shape}."
            )
        return float(np.abs(logits - self.logits).max())

    def _arranged(self, shape: tuple[int, int, int]) -> np.ndarray:
        height, width, channels = shape
        if self.images.shape[1:] == shape:
            return self.images
        if self.images.shape[1:] == (channels, height, width):
            return self.images.transpose(0, 2, 3, 1)
        raise UsageError(
            f"images in {self.path} must be (N, {height}, {width}, {channels}) or "
            f"(N, {channels}, {height}, {width}). Received: {self.images.shape}; image_size gives another "
            "side."
        )


def read_reference(path: str | os.PathLike) -> ReferenceLogits:
    """Reads images and logits from a file of `numpy.savez`.

    Args:
        path: an NPZ file with ``images``, float in [0, 1] or 8-bit, (N, H, W, C) or (N, C, H, W), not
            normalised, and ``logits``, (N, K), what the network gave for them in float32 and inference mode.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    path = Path(path)
    required = f"check_images must be an NPZ file with the arrays images and logits, such as {WRITE} writes."
    if not path.is_file():
        raise UsageError(f"{required} Received: {path}, which is not a file.")
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
    except Exception as error:  # NumPy and zipfile raise all kinds for a damaged or foreign file
        raise UsageError(f"{required} Received: {path} ({first_line(error)[:150]}).") from error
    missing = [name for name in ("images", "logits") if name not in arrays]
    if missing:
        raise UsageError(f"{required} Received: {path} with {', '.join([*arrays][:6]) or 'no arrays'}.")
    return ReferenceLogits(path, _images(path, arrays["images"]), _logits(path, arrays["logits"]))


def _images(path: Path, images: np.ndarray) -> np.ndarray:
    if images.ndim == 4 and images.size and images.dtype == np.uint8:
        return (images / 255).astype(np.float32)
    floats = images.ndim == 4 and images.size and np.issubdtype(images.dtype, np.floating)
    if floats and images.min() >= 0 and images.max() <= 1:  # NaN fails
        return images.astype(np.float32)
    values = f", from {images.min():g} to {images.max():g}" if floats else ""
    raise UsageError(
        f"images in {path} must be floats in [0, 1] or 8-bit integers on 4 axes, before any normalisation. "
        f"Received: {images.dtype} {images.shape}{values}."
    )


def _logits(path: Path, logits: np.ndarray) -> np.ndarray:
    if logits.ndim == 2 and logits.size and np.issubdtype(logits.dtype, np.floating):
        if np.isfinite(logits).all() and np.any(logits):
            return logits.astype(np.float64)
        raise UsageError(f"logits in {path} must be finite and not all 0. Received: others.")
    raise UsageError(
        f"logits in {path} must be floats of shape (N, K). Received: {logits.dtype} {logits.shape}."
    )
