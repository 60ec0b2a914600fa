"""FAB: minimal perturbations by repeated projection on the linearised boundary (Croce & Hein 2020).

"Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020, iterated exactly
as AutoAttack does. It shrinks the perturbation without knowing ε, so one run gives the error at every ε.

Each iteration linearises the decision boundary and projects both the current point and the clean image on
it, within the image range (`project_linf`, `project_l2`). Newton's method solves these projections without
sorting and ends after a few passes over the pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from advtf.attacks.attack import Attack, as_attack, isolated, per_image
from advtf.attacks.losses import is_correct, target_class
from advtf.attacks.norms import TINY, get_norm
from advtf.attacks.random import fold_in
from advtf.errors import require_real, require_whole
from advtf.storage.builders import recorded

SMALLEST_STEP = 1e-8  # two steps shorter than this have no meaningful ratio
OVERSHOOT = 0.1  # of the rest of the segment, so that rounding leaves the searched point past the boundary


@dataclass(frozen=True)
class _Settings:
    norm: str
    steps: int
    restarts: int
    alpha_max: float
    eta: float
    beta: float
    target_rank: int | tf.Tensor | None

    def __post_init__(self):
        get_norm(self.norm)
        require_whole("steps", self.steps)
        require_whole("restarts", self.restarts)
        if self.target_rank is not None and not tf.is_tensor(self.target_rank):
            require_whole("target_rank", self.target_rank)
        require_real("alpha_max", self.alpha_max, 0.0, 1.0)
        require_real("eta", self.eta, 1.0, 2.0)
        require_real("beta", self.beta, 0.0, 1.0)

    @property
    def size(self):
        return get_norm(self.norm).size


@recorded
def fab(
    norm: str = "linf",
    steps: int = 100,
    restarts: int = 1,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    target_rank: int | tf.Tensor | None = None,
) -> Attack:
    """Builds FAB as AutoAttack runs it: an example is broken when its distance found is at most ε.

    Args:
        norm: "linf" or "l2".
        steps: iterations, each two forward passes and one backward pass (K without a target).
        restarts: the first starts at the image, others at random points at distance ε/2; the nearest counts.
        alpha_max: largest weight of the step that starts from the clean image (the bias towards it).
        eta: overshoot of each projection, 1 to 2.
        beta: an adversarial point is pulled back to x + beta·(point − x).
        target_rank: aim at the class of the target_rank-th largest clean logit, the true class left out;
            None takes the class whose linearised boundary is nearest, at every step. A scalar integer
            tensor lets one traced function serve all ranks; its range is not checked.

    Returns:
        ``attack(logits_fn, x, y, epsilon, seed) -> x_adv`` with the nearest adversarial point within ε, or
        `x` where none was found, where the prediction on `x` is wrong already, or for ε below 1e-6.

    Raises:
        UsageError: a setting out of range; when traced, fewer than target_rank + 1 classes.
    """
    measure = fab_distances(norm, steps, restarts, alpha_max, eta, beta, target_rank, search_steps=0)

    def perturb(logits_fn, x, y, epsilon, seed):
        nearest, distances = measure(logits_fn, x, y, epsilon, seed)
        return tf.where(per_image(distances, x) <= epsilon, nearest, x)

    return as_attack(perturb)


def fab_distances(
    norm: str = "linf",
    steps: int = 100,
    restarts: int = 1,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    target_rank: int | tf.Tensor | None = None,
    search_steps: int = 3,
) -> Callable:
    """Builds FAB as a measuring tool: the smallest perturbation found, whatever its size.

    Args:
        norm, steps, restarts, alpha_max, eta, beta, target_rank: as in `fab`.
        search_steps: secant steps between the image and the point found (the paper's final search),
            which take back the overshoot; AutoAttack's implementation, and so `fab`, leaves them out.

    Returns:
        ``measure(logits_fn, x, y, epsilon, seed) -> (x_adv, distances)``; `epsilon` only scales the random
        starts. `distances` (B,) is ‖x_adv − x‖: 0 where `x` itself is misclassified, and infinite (x_adv = x)
        where nothing was found. Raises UsageError as `fab` does.
    """
    settings = _Settings(norm, steps, restarts, alpha_max, eta, beta, target_rank)
    require_whole("search_steps", search_steps, least=0)

    def measure(logits_fn, x, y, epsilon, seed):
        x, epsilon = tf.convert_to_tensor(x, tf.float32), tf.convert_to_tensor(epsilon, tf.float32)
        nearest, distance = _shrink(settings, logits_fn, x, y, epsilon, seed)
        if search_steps > 0:
            nearest = _search(logits_fn, x, y, nearest, search_steps)
            distance = tf.where(tf.math.is_finite(distance), settings.size(nearest - x), distance)
        return tf.stop_gradient(nearest), tf.stop_gradient(tf.reshape(distance, [-1]))

    return measure


def _shrink(settings, logits_fn, x, y, epsilon, seed):
    # The nearest adversarial points over all restarts, and their distances shaped (B, 1, ..., 1).
    y, size = tf.cast(y, tf.int32), settings.size
    logits = logits_fn(x)
    boundary = _boundary(settings, logits_fn, y, logits)
    random_point = get_norm(settings.norm).random_point

    def restart(i, nearest, distance):
        start = x
        if settings.restarts > 1:
            point = random_point(tf.shape(x), 1.0, fold_in(seed, i))
            reach = tf.where(i == 0, 0.0, epsilon / 2)
            start = tf.clip_by_value(x + reach * point / (size(point) + TINY), 0.0, 1.0)
        return i + 1, *_run(settings, logits_fn, boundary, x, y, start, nearest, distance)

    seed, limit = tf.cast(seed, tf.int64), settings.restarts
    initial = (0, x, tf.where(per_image(is_correct(y, logits), x) > 0, float("inf"), 0.0))
    return tf.while_loop(lambda i, *_: i < limit, restart, initial, maximum_iterations=limit)[1:]


def _run(settings, logits_fn, boundary, x, y, start, nearest, distance):
    size = settings.size

    def iterate(i, point, nearest, distance):
        point = _step(settings, x, point, *boundary(point))
        length = size(point - x)
        fooled = per_image(is_correct(y, logits_fn(point)), x) < 1
        nearer = fooled & (length < distance)
        kept = tf.where(nearer, point, nearest), tf.where(nearer, length, distance)
        return i + 1, tf.where(fooled, x + settings.beta * (point - x), point), *kept

    initial, limit = (0, start, nearest, distance), settings.steps
    return tf.while_loop(lambda i, *_: i < limit, iterate, initial, maximum_iterations=limit)[2:]


def _step(settings, x, point, value, normal):
    # The overshot projections of the current point and of the image on the same linearised boundary
    # {z : value + ⟨normal, z − point⟩ = 0}, mixed by how far each of them has to go.
    inner = tf.reduce_sum(normal * (point - x), axis=list(range(1, x.shape.rank)))
    both, normals = tf.concat([point, x], axis=0), tf.concat([normal, normal], axis=0)
    moves = PROJECTIONS[settings.norm](both, normals, tf.concat([-value, inner - value], axis=0))
    move, move_of_image = tf.split(moves, 2)
    near, far = (tf.maximum(settings.size(delta), SMALLEST_STEP) for delta in (move, move_of_image))
    alpha = tf.minimum(near / (near + far), settings.alpha_max)
    mixed = (point + settings.eta * move) * (1.0 - alpha) + (x + settings.eta * move_of_image) * alpha
    return tf.clip_by_value(mixed, 0.0, 1.0)


def _boundary(settings, logits_fn, y, clean_logits):
    # point -> (value, normal) of f_target − f_y, which is positive where the target wins.
    if settings.target_rank is None:
        return isolated(lambda point: _nearest_boundary(DUAL_NORMS[settings.norm], logits_fn, point, y))
    target = target_class(y, clean_logits, settings.target_rank)

    def towards_target(point):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(point)
            logits = logits_fn(point)
            value = tf.gather(logits, target, batch_dims=1) - tf.gather(logits, y, batch_dims=1)
        return value, tape.gradient(value, point)

    return isolated(towards_target)


def _others(y, scores):
    # The true class can no longer be the largest.
    return tf.where(tf.one_hot(y, tf.shape(scores)[1]) > 0, -float("inf"), scores)


def _nearest_boundary(dual, logits_fn, point, y):
    # The linearised boundary f_k = f_y is |f_k − f_y| / ‖∇(f_k − f_y)‖_dual away; k is the class with the
    # smallest distance. One backward pass per class: pfor would hold the gradients of all classes at once.
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(point)
        logits = logits_fn(point)
    jacobian = tape.batch_jacobian(logits, point, experimental_use_pfor=False)
    values = logits - tf.gather(logits, y, batch_dims=1)[:, tf.newaxis]
    normals = jacobian - tf.gather(jacobian, y, batch_dims=1)[:, tf.newaxis]
    distances = tf.abs(values) / (dual(normals, list(range(2, normals.shape.rank))) + TINY)
    nearest = tf.argmax(_others(y, -distances), axis=1, output_type=tf.int32)
    return tf.gather(values, nearest, batch_dims=1), tf.gather(normals, nearest, batch_dims=1)


def _search(logits_fn, x, y, fooled_point, steps):
    # The final search of the paper: secant steps for the margin on the segment from x to a fooled point.
    y = tf.cast(y, tf.int32)

    def margin_and_fooled(point):
        logits = logits_fn(point)
        margin = tf.gather(logits, y, batch_dims=1) - tf.reduce_max(_others(y, logits), axis=1)
        return per_image(margin, x), per_image(is_correct(y, logits), x) < 1

    def narrow(i, right, wrong, right_margin, wrong_margin):
        crossing = tf.math.divide_no_nan(right_margin, right_margin - wrong_margin)
        point = right + tf.clip_by_value(crossing + OVERSHOOT * (1.0 - crossing), 0.0, 1.0) * (wrong - right)
        margin, fooled = margin_and_fooled(point)
        ends = tf.where(fooled, right, point), tf.where(fooled, point, wrong)
        margins = tf.where(fooled, right_margin, margin), tf.where(fooled, margin, wrong_margin)
        return i + 1, *ends, *margins

    initial = (0, x, fooled_point, margin_and_fooled(x)[0], margin_and_fooled(fooled_point)[0])
    return tf.while_loop(lambda i, *_: i < steps, narrow, initial, maximum_iterations=steps)[2]


def project_linf(x: tf.Tensor, normal: tf.Tensor, change: tf.Tensor) -> tf.Tensor:
    """Solves min ‖δ‖_∞ subject to ⟨normal, δ⟩ = change and x + δ in [0, 1], exactly up to rounding.

    δ_i = ±min(λ, room_i): each pixel moves uphill by the level λ, or as far as the image range lets it. Where
    no δ reaches `change`, every pixel with a non-zero normal goes to the end of its range (as in AutoAttack).

    Args:
        x: float32 (B, ...) in [0, 1].
        normal: the shape of `x`; its zeros leave δ zero.
        change: (B,), of either sign.

    Returns:
        δ, the shape of `x`.
    """
    return _project(x, normal, change, tf.ones_like)


def project_l2(x: tf.Tensor, normal: tf.Tensor, change: tf.Tensor) -> tf.Tensor:
    """Solves min ‖δ‖₂ subject to ⟨normal, δ⟩ = change and x + δ in [0, 1], exactly up to rounding.

    δ_i = ±min(λ·|normal_i|, room_i); arguments and result as in `project_linf`.
    """
    return _project(x, normal, change, tf.identity)


def _project(x, normal, change, speeds):
    flat, normals = (tf.reshape(batch, [tf.shape(x)[0], -1]) for batch in (x, normal))
    change = change[:, tf.newaxis]
    # Divided by its largest entry first: a confident classifier's gradients square to 0 in float32.
    largest = tf.reduce_max(tf.abs(normals), axis=1, keepdims=True)
    weights = tf.math.divide_no_nan(tf.abs(normals), largest)
    speed = speeds(weights)
    uphill = tf.sign(normals) * tf.sign(change)
    room = tf.where(weights > 0, tf.where(uphill > 0, 1.0 - flat, flat), 0.0)
    ceiling = tf.math.divide_no_nan(room, speed)
    level = _water_level(weights, speed, room, ceiling, tf.math.divide_no_nan(tf.abs(change), largest))
    return tf.reshape(uphill * tf.where(ceiling <= level, room, level * speed), tf.shape(x))


def _water_level(weights, speed, room, ceiling, needed):
    # Newton's method for Σ weights·min(λ·speed, room) = needed. The sum is concave and piecewise linear in λ,
    # so from λ = 0 the iterates only rise, never pass the root, and end at it once the full pixels are known.
    def rise(level, _):
        full = ceiling <= level
        slope = tf.reduce_sum(tf.where(full, 0.0, weights * speed), axis=1, keepdims=True)
        held = tf.reduce_sum(tf.where(full, weights * room, 0.0), axis=1, keepdims=True)
        root = tf.where(slope > 0, tf.math.divide_no_nan(needed - held, slope), float("inf"))
        return tf.maximum(level, root), tf.reduce_any(root > level)

    initial = (tf.zeros_like(needed), tf.constant(True))
    return tf.while_loop(lambda _, rising: rising, rise, initial)[0]


PROJECTIONS = {"linf": project_linf, "l2": project_l2}
DUAL_NORMS = {  # (batch, axes) -> the dual norm over those axes, which divides a value to give its distance
    "linf": lambda batch, axes: tf.reduce_sum(tf.abs(batch), axis=axes),
    "l2": lambda batch, axes: tf.sqrt(tf.reduce_sum(tf.square(batch), axis=axes)),
}
