"""The metrics that a user gives to `compile`, each measured twice: on clean and on attacked images."""

import inspect
from collections.abc import Sequence

import keras

from advtf.errors import UsageError
from advtf.training.checks import ACCURACIES

_KINDS = ("clean", "robust")


class ImageMetrics:
    """Keeps ``clean_<name>`` and ``robust_<name>`` of every metric, from class numbers and logits.

    Args:
        metrics: names of Keras' sparse metrics, functions ``(y, logits) -> (B,)`` or `keras.metrics.Metric`
            objects. "accuracy" adds nothing, because a trainer measures both accuracies anyway.
        weighted: the same, weighted by the sample weights.

    Raises:
        UsageError: not a list, a metric of Keras that takes one-hot labels or probabilities, or a name twice.
    """

    def __init__(self, metrics: Sequence | None, weighted: Sequence | None):
        self._unweighted = [_measured(metric) for metric in _listed("metrics", metrics)]
        self._weighted = [_measured(metric) for metric in _listed("weighted_metrics", weighted)]
        names = [metric.name for metric in self.all]
        for name in names:
            if names.count(name) > 1 or name in ACCURACIES:
                raise UsageError(f"metrics must have different names. Received: {name} twice.")

    @property
    def all(self) -> list[keras.metrics.Metric]:
        """The metrics, those of clean images and of attacked images in turn."""
        return [metric for pair in (*self._unweighted, *self._weighted) for metric in pair]

    def update(self, y, clean_logits, adversarial_logits, sample_weight) -> None:
        """Adds a batch: classes (B,), logits (B, K) of both kinds of images, weights (B,) or None."""
        for pairs, weight in ((self._unweighted, None), (self._weighted, sample_weight)):
            for pair in pairs:
                for metric, logits in zip(pair, (clean_logits, adversarial_logits), strict=True):
                    metric.update_state(y, logits, sample_weight=weight)


def _listed(what, metrics):
    if metrics is None:
        return []
    if not isinstance(metrics, list | tuple) or any(isinstance(metric, list | tuple) for metric in metrics):
        raise UsageError(f"{what} must be a list of metrics. Received: {what}={metrics}.")
    return [metric for metric in metrics if metric not in ("accuracy", "acc")]


def _measured(metric) -> tuple[keras.metrics.Metric, keras.metrics.Metric]:
    """Returns the metric of clean and that of attacked images."""
    try:
        found = keras.metrics.get(metric)
    except (ValueError, TypeError) as error:
        raise UsageError(f"metrics must be known to Keras, or functions. Received: {metric}.") from error
    function = getattr(found, "_fn", found) if isinstance(found, keras.metrics.Metric) else found
    _require_sparse(found, function)
    if not isinstance(found, keras.metrics.Metric):
        logits = {"from_logits": True} if "from_logits" in inspect.signature(function).parameters else {}
        return tuple(
            keras.metrics.MeanMetricWrapper(function, name=f"{kind}_{function.__name__}", **logits)
            for kind in _KINDS
        )
    config = found.get_config()
    if config.get("from_logits") is False:
        raise UsageError(
            f"metrics are measured on logits. Received: {found.name} with from_logits=False. "
            "Give from_logits=True."
        )
    return tuple(type(found).from_config({**config, "name": f"{kind}_{found.name}"}) for kind in _KINDS)


def _require_sparse(metric, function):
    """Refuses Keras' own metrics that compare one-hot labels or probabilities, which there are none of."""
    kind = function if inspect.isfunction(function) else type(metric)
    name = kind.__name__
    if kind.__module__.startswith("keras.") and not name.lower().startswith("sparse"):
        raise UsageError(
            f"metrics get class numbers and logits. Received: {name}, which takes neither. "
            "Use a sparse one, such as sparse_top_k_categorical_accuracy, or a function "
            "(y, logits) -> (batch,)."
        )
