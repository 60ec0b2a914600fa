"""Images made fit to look at. Imports no TensorFlow."""

import numpy as np


def amplified(perturbation: np.ndarray) -> tuple[np.ndarray, float]:
    """Stretches perturbations over the whole grey range: 1/2 + k δ with k = 1/(2 max|δ|).

    Args:
        perturbation: δ = adversarial - clean, any shape.

    Returns:
        The stretched values in [0,1], 1/2 where δ = 0, and the factor k (1 when δ is 0 everywhere).
    """
    largest = float(np.max(np.abs(perturbation), initial=0.0))
    factor = 0.5 / largest if largest > 0 else 1.0
    return np.clip(0.5 + factor * perturbation, 0.0, 1.0), factor


def displayable(images: np.ndarray) -> np.ndarray:
    """Clips (N,H,W,C) to [0,1]; grey and RGB keep their channels, any other count is averaged to grey."""
    if images.shape[-1] not in (1, 3):
        images = images.mean(axis=-1, keepdims=True)
    return np.clip(images, 0.0, 1.0)
