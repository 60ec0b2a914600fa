"""The scale of L_ε(θ): its mean over random θ, by which eigenvalues are normalised.

Liu et al. 2020, section 4.2 and appendix C.2.2.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from advtf.attacks.attack import Attack
from advtf.classifiers.classifier import Classifier, as_classifier
from advtf.errors import UsageError, first_line, require_whole
from advtf.landscape.objective import AdversarialObjective
from advtf.landscape.statistics import Estimate, estimate
from advtf.runtime import true_float32


@dataclass(frozen=True, eq=False)
class RandomLoss:
    """L_ε(θ) at independent random initialisations θ.

    Attributes:
        losses: (draws,) float64, mean cross-entropy over the examples, nats.
        examples: number of images.
    """

    losses: np.ndarray
    examples: int

    @property
    def estimate(self) -> Estimate:
        """Mean over the draws and its standard error, nats."""
        return estimate(self.losses)


@true_float32()
def random_loss(
    classifier: Classifier,
    x: np.ndarray,
    y: np.ndarray,
    attack: Attack,
    epsilon: float,
    *,
    draws: int = 10,
    seed: int = 0,
    batch_size: int = 250,
    jit_compile: bool = False,
    report: Callable[[int, int], None] | None = None,
) -> RandomLoss:
    """Measures L_ε at random initialisations of the classifier's architecture.

    Every variable is drawn anew from its own initialiser, running statistics of BatchNorm included; the
    classifier itself is not touched. Draw k depends on (seed, k) only, so more draws add to fewer.

    Args:
        classifier: with a live Keras model of functional or sequential kind.
        x: images float32 (N, H, W, C) in [0, 1].
        y: labels (N,), integers.
        attack: ``attack(logits_fn, x, y, epsilon, seed) -> x_adv``, run anew at each draw.
        epsilon: radius ε in units of the image range.
        draws: number of θ, at least 1.
        seed: of the initialisations and of the attack's random starts.
        batch_size: images at a time.
        jit_compile: compile with XLA.
        report: called as ``report(done, draws)`` after each.

    Raises:
        UsageError: no live model, one that cannot be cloned, or one whose initial weights are not random.
    """
    require_whole("draws", draws)
    require_whole("seed", seed, least=0)
    model = _require_model(classifier)
    clone, weights = reinitialised(model, (seed, 0)), model.get_weights()
    objective = AdversarialObjective(
        as_classifier(clone, movable=True),
        x,
        y,
        attack,
        epsilon,
        seed=seed,
        batch_size=batch_size,
        jit_compile=jit_compile,
    )
    losses = []
    for draw in range(draws):
        earlier, weights = weights, reinitialised(model, (seed, draw)).get_weights()
        _require_random(model, earlier, weights)
        clone.set_weights(weights)  # one clone is measured, so that it is traced once
        losses.append(objective().loss)
        if report:
            report(draw + 1, draws)
    return RandomLoss(np.array(losses, np.float64), len(x))


def reinitialised(model: keras.Model, seed: tuple[int, ...]) -> keras.Model:
    """Returns a copy of a model with fresh weights, drawn from its own initialisers.

    Args:
        model: functional or sequential.
        seed: whole numbers; every initialiser gets a seed of its own that depends on them, as one that
            carries a seed of its own would draw the old weights again.

    Raises:
        UsageError: a subclassed model, or layers without a configuration.
    """
    generator = np.random.default_rng(seed)

    def fresh(layer):
        return type(layer).from_config(_reseeded(layer.get_config(), generator))

    try:
        # A nested model is a layer here, and its configuration holds those of its layers.
        return keras.models.clone_model(model, clone_function=fresh)
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = first_line(error)
        raise UsageError(
            "random initialisations need a functional or sequential model whose layers have get_config. "
            f"Received: {model.name} ({type(model).__name__}): {reason} Use normalise_draws=0 to do without."
        ) from error


def _reseeded(config, generator):
    """Returns a copy of a nested configuration in which every seed is another one, drawn in order."""
    if isinstance(config, list | tuple):
        return type(config)(_reseeded(item, generator) for item in config)
    if not isinstance(config, dict):
        return config
    return {
        key: _like_seed(value, generator) if key == "seed" else _reseeded(value, generator)
        for key, value in config.items()
    }


def _like_seed(seed, generator):
    if isinstance(seed, list | tuple):  # the seed of a stateless initialiser
        return tuple(int(part) for part in generator.integers(2**31, size=len(seed)))
    return int(generator.integers(2**31))


def _require_model(classifier):
    if classifier.model is None:
        raise UsageError(
            "random initialisations need a model that can be built anew. "
            f"Received: {classifier.name}, a SavedModel without a training configuration or an ensemble. "
            "Give a member exported by this package or a Keras model, or use normalise_draws=0."
        )
    return classifier.model


def _require_random(model, earlier, weights):
    if all(np.array_equal(old, new) for old, new in zip(earlier, weights, strict=True)):
        raise UsageError(
            "random initialisations need random initialisers. "
            f"Received: {model.name}, which starts at the same weights every time. "
            "Give it initialisers that draw, or use normalise_draws=0."
        )
