"""The input loss landscape: slope, curvature and attacks of L(x) around each image (Li & Spratling 2023)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from advtf.attacks.attack import Attack, LogitsFn, input_gradient_and_logits
from advtf.attacks.norms import get_norm
from advtf.attacks.pgd import pgd
from advtf.attacks.random import example_seeds, image_keys
from advtf.errors import require_real, require_whole
from advtf.landscape.batched_lanczos import Spectra
from advtf.landscape.input_hessian import InputHessian, exact_cross_entropy, input_spectra
from advtf.landscape.objective import require_pairs
from advtf.landscape.similarity import cosines
from advtf.landscape.statistics import estimate
from advtf.runtime import true_float32

REFERENCE_STEPS, REFERENCE_STEP = 50, 0.25  # PGD50 with steps of ε/4, section 4 of the paper
# Float32 logits of about 10 give losses to about 1e-6: below this a ratio of variances is mostly rounding.
NEGLIGIBLE_VARIANCE = 1e-5
ATTACKS, NOISE = 0, 1  # random streams of one seed
LABELS, KEYS = tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None,), tf.int64)


@dataclass(frozen=True, eq=False)
class InputMeasures:
    """What was measured of N images, L the cross-entropy in nats; arrays are float64, one entry per image.

    Attributes:
        loss: (N,) L(x, y).
        ig: (N,) input gradient norm ‖∇ₓ L(x, y)‖₁.
        av: (N,) adversarial variance L(x + δ) − L(x) of the assessed attack, eq. 2.
        av_reference: (N,) the same of the reference attack.
        ga: (N,) gradient alignment, the cosine of ∇ₓ L(x) and ∇ₓ L(x + η), η uniform in the ε-ball, eq. A.5.
            It is 1 where both are zero, and 0 where one is.
        hs: (M,) of the first M images: ℓ1 norm of the k eigenvalues of ∇²ₓ L of largest absolute value.
        eigenvalues: (M, k), by descending absolute value.
        residuals: (M,) largest ‖Hv − λv‖₂ of the k pairs, relative to the largest |λ|.
        converged: (M,) bool, whether that is within the solver's tolerance.
        products: (M,) Hessian-vector products spent.
    """

    loss: np.ndarray
    ig: np.ndarray
    av: np.ndarray
    av_reference: np.ndarray
    ga: np.ndarray
    hs: np.ndarray
    eigenvalues: np.ndarray
    residuals: np.ndarray
    converged: np.ndarray
    products: np.ndarray

    @property
    def assessable(self) -> np.ndarray:
        """(N,) bool, the images whose loss the reference attack raises by more than `NEGLIGIBLE_VARIANCE`."""
        return self.av_reference > NEGLIGIBLE_VARIANCE

    @property
    def effectiveness(self) -> np.ndarray:
        """av / av_reference of the images that are `assessable`, in their order; its mean is eq. 7."""
        return self.av[self.assessable] / self.av_reference[self.assessable]

    def summary(self) -> dict:
        """Returns mean, standard error and number of examples of each measure by name.

        A mean over no examples, and a standard error of fewer than two, is None. Where the reference attack
        has not raised the loss, the ratio of eq. 7 says nothing about the assessed one: `left_out` counts
        the images left out of the effectiveness. Of `hs` it also tells how many images have `converged`, the
        `largest_residual` and the mean number of `products`.
        """
        measures = ("loss", "ig", "hs", "av", "av_reference", "effectiveness")
        means = {name: estimate(getattr(self, name)).to_json() for name in measures}
        means["effectiveness"]["left_out"] = int(np.count_nonzero(~self.assessable))
        if len(self.hs):
            means["hs"]["converged"] = int(np.count_nonzero(self.converged))
            means["hs"]["largest_residual"] = float(self.residuals.max())
            means["hs"]["products"] = float(self.products.mean())
        return means | {"ga": estimate(self.ga).to_json()}


class InputMeter:
    """Measures the input loss landscape of one classifier, at the weights that it has at the call.

    Random numbers belong to the image, so that batches and the order of the images do not matter. Both
    attacks start from the same points: an attack that is its own reference has effectiveness 1.

    Args:
        logits_fn: float32 (B, H, W, C) in [0, 1] -> (B, K), in inference mode.
        input_shape: (H, W, C) of the images.
        epsilon: radius ε of the attacks and of the noise, in units of the image range.
        attack: assessed; ``attack(logits_fn, x, y, epsilon, seed) -> x_adv`` with `seed` (B, 2), two integers
            for each example, as all of `advtf.attacks.pgd` take them.
        reference: attack that effectiveness is relative to; by default PGD with 50 steps of ε/4.
        norm: of the noise's ball and of the default reference, "linf" or "l2".
        seed: at least 0.
        batch_size: images at a time.
        eigenvalues: k, of the input Hessian; at most H·W·C of them.
        hs_examples: M, the images whose Hessian is looked at, the first ones; None: all, 0: none.
        tolerance, max_products: of the eigenvalues, see `advtf.landscape.input_hessian.input_spectra`.
        jit_compile: compile the attacks with XLA; derivatives are never compiled.

    Raises:
        UsageError: a number out of range, or an unknown norm.
    """

    def __init__(
        self,
        logits_fn: LogitsFn,
        input_shape: tuple,
        epsilon: float,
        *,
        attack: Attack,
        reference: Attack | None = None,
        norm: str = "linf",
        seed: int = 0,
        batch_size: int = 250,
        eigenvalues: int = 20,
        hs_examples: int | None = None,
        tolerance: float = 1e-3,
        max_products: int = 200,
        jit_compile: bool = False,
    ):
        require_real("epsilon", epsilon, 0)
        require_whole("seed", seed, 0)
        require_whole("batch_size", batch_size)
        require_whole("eigenvalues", eigenvalues)
        require_whole("hs_examples", 0 if hs_examples is None else hs_examples, 0)
        self._hessian = InputHessian(logits_fn, input_shape)
        self._k, self._hs_examples = min(eigenvalues, self._hessian.dimension), hs_examples
        require_whole("max_products", max_products, self._k)
        self._search = {"tolerance": tolerance, "max_products": max_products, "seed": seed}
        self._batch_size = batch_size
        attacks = attack, reference or pgd(norm, REFERENCE_STEPS, REFERENCE_STEP)
        images = tf.TensorSpec((None, *input_shape), tf.float32)
        self._slope = slope_graph(logits_fn, images)
        self._noisy = noise_graph(images, norm, epsilon, seed)
        self._assessed, self._reference = (
            variance_graph(logits_fn, images, each, epsilon, seed, jit_compile) for each in attacks
        )

    @true_float32()
    def __call__(
        self, x: np.ndarray, y: np.ndarray, report: Callable[[int], None] | None = None
    ) -> InputMeasures:
        """Measures images float32 (N, H, W, C) in [0, 1] with integer labels (N,).

        Args:
            report: called with a number of images after each batch; N + M in all.

        Raises:
            UsageError: no images, unequal lengths, or a classifier without second derivatives.
            FloatingPointError: a product with a Hessian is not finite.
        """
        require_pairs(x, y)
        x, y = np.asarray(x, np.float32), np.asarray(y, np.int32)
        keys, parts = image_keys(x), []
        for start in range(0, len(x), self._batch_size):
            part = slice(start, start + self._batch_size)
            parts.append(self._measured(x[part], y[part], keys[part]))
            if report:
                report(len(parts[-1]["loss"]))
        first = slice(self._hs_examples)
        spectra = self._spectra(x[first], y[first], keys[first], report)
        return InputMeasures(
            **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
            hs=np.abs(spectra.eigenvalues).sum(axis=1),
            eigenvalues=spectra.eigenvalues,
            residuals=spectra.residuals.max(axis=1),
            converged=spectra.converged,
            products=spectra.products,
        )

    def _measured(self, x, y, keys):
        batch = tf.constant(x), tf.constant(y), tf.constant(keys)
        losses, here = (part.numpy() for part in self._slope(*batch[:2]))
        there = self._slope(self._noisy(batch[0], batch[2]), batch[1])[1].numpy()
        return {
            "loss": losses,
            "ig": np.abs(here).sum(axis=(1, 2, 3), dtype=np.float64),
            "av": self._assessed(*batch).numpy(),
            "av_reference": self._reference(*batch).numpy(),
            "ga": _alignment(here, there),
        }

    def _spectra(self, x, y, keys, report):
        if not len(x):
            return Spectra(*np.zeros((2, 0, self._k)), np.zeros(0, int), np.zeros(0, bool))
        compute = {"keys": keys, "batch_size": self._batch_size, "report": report}
        return input_spectra(self._hessian, x, y, self._k, **compute, **self._search)


def _alignment(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Returns the cosine of each pair of gradients; 1 where both are zero, 0 where one is."""
    values = cosines(here, there)
    both_zero = ~(here.any(axis=(1, 2, 3)) | there.any(axis=(1, 2, 3)))
    return np.where(np.isnan(values), both_zero.astype(np.float64), values)


def input_measures(
    logits_fn: LogitsFn, x: np.ndarray, y: np.ndarray, epsilon: float, *, attack: Attack, **settings: object
) -> InputMeasures:
    """Returns what an `InputMeter` measures once; the arguments are its own.

    Raises:
        UsageError: no images, unequal lengths, or a setting out of range.
    """
    require_pairs(x, y)
    return InputMeter(logits_fn, np.shape(x)[1:], epsilon, attack=attack, **settings)(x, y)


# --- graphs, each traced once for batches of any length


def slope_graph(logits_fn: LogitsFn, images: tf.TensorSpec) -> Callable:
    """Builds (x, y) -> L float64 (B,) and ∇ₓ L float32 (B, H, W, C)."""

    @tf.function(input_signature=(images, LABELS), autograph=False)
    def slope(x, y):
        gradient, logits = input_gradient_and_logits(logits_fn, x, y, exact_cross_entropy)
        return exact_cross_entropy(y, logits), gradient

    return slope


def noise_graph(images: tf.TensorSpec, norm: str, epsilon: float, seed: int) -> Callable:
    """Builds (x, keys) -> x + η, which the definition does not clip to [0, 1]."""
    geometry = get_norm(norm)

    @tf.function(input_signature=(images, KEYS), autograph=False)
    def noisy(x, keys):
        seeds = example_seeds(tf.constant([seed, NOISE], tf.int64), keys)
        return x + geometry.random_point(tf.shape(x), tf.constant(epsilon, tf.float32), seeds)

    return noisy


def variance_graph(
    logits_fn: LogitsFn,
    images: tf.TensorSpec,
    attack: Attack,
    epsilon: float,
    seed: int,
    jit_compile: bool = False,
) -> Callable:
    """Builds (x, y, keys) -> L(x + δ) − L(x), float64 (B,); both losses in one graph round alike."""

    @tf.function(input_signature=(images, LABELS, KEYS), jit_compile=jit_compile, autograph=False)
    def variance(x, y, keys):
        seeds = example_seeds(tf.constant([seed, ATTACKS], tf.int64), keys)
        x_adv = attack(logits_fn, x, y, tf.constant(epsilon, tf.float32), seeds)
        return exact_cross_entropy(y, logits_fn(x_adv)) - exact_cross_entropy(y, logits_fn(x))

    return variance
