"""One type and one loader for every classifier that is attacked or analysed."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

from advtf import models
from advtf.classifiers.ensemble import build_ensemble, image_shape
from advtf.classifiers.export import (
    TOLERANCE,
    SavedClassifier,
    load_classifier,
    log_probabilities,
    require_outputs,
)
from advtf.classifiers.parameters import Parameters
from advtf.errors import UsageError, first_line
from advtf.models.folding import folded
from advtf.runtime import true_float32

TRIED = 16  # images of the caller's that a classifier is tried on
PROBES = 8  # random images that it is tried on where the caller gives none


@dataclass(frozen=True, eq=False)
class Classifier:
    """A function from images to logits, with what is known about it.

    Attributes:
        logits_fn: float32 (B, H, W, C) in [0, 1] -> (B, K), in inference mode, of the present weights. The
            logits are float32, or of the weights' own precision where these can be moved.
        num_classes: K.
        name: for tables and files.
        input_shape: (H, W, C), where H and W are None if a SavedModel leaves them free; None for a plain
            function.
        ends_in_softmax: whether the logits are logarithms of probabilities, which may have been rounded.
        model: the live Keras model; None for a function, a foreign SavedModel and a saved ensemble.
        weights: the trainable variables as one vector; None if it was not loaded with ``movable=True``.
        config: the settings of its training, as the export recorded them; empty if unknown.
        saved: the export as it was loaded; None for anything else.
    """

    logits_fn: Callable[[tf.Tensor], tf.Tensor]
    num_classes: int
    name: str
    input_shape: tuple | None = None
    ends_in_softmax: bool = False
    model: keras.Model | None = None
    weights: Parameters | None = None
    config: Mapping = field(default_factory=dict)
    saved: SavedClassifier | None = None

    def attack_view(self) -> Callable[[], Callable] | None:
        """Returns a function that gives the logits as attacks should see them, in the graph of an attack.

        They are those of `logits_fn` up to rounding, with BatchNorm folded into the kernels (see
        `advtf.models.folding`). Of an export they are those of the Keras model that its manifest describes,
        which is rebuilt now. None where there is no such model: `logits_fn` is what is attacked then.

        Raises:
            UsageError: an export that is not what its manifest says.
        """
        model = self.model
        if model is None and self.saved and _can_be_rebuilt(self.saved):
            model = _rebuilt(self.saved, self.config)
        if model is None or self.ends_in_softmax:
            return None

        def view():
            run = folded(model)
            return lambda x: tf.cast(run(x), tf.float32)

        return view

    @property
    def parameters(self) -> Parameters:
        """The weights, for whoever moves them.

        Raises:
            UsageError: they cannot be moved.
        """
        if self.weights is None:
            raise UsageError(
                f"the weights of {self.name} must be movable. Received: a classifier without them. "
                "Load it with as_classifier(..., movable=True)."
            )
        return self.weights


@true_float32()
def as_classifier(
    source: object,
    x: np.ndarray | None = None,
    y: np.ndarray | None = None,
    *,
    outputs: str = "logits",
    movable: bool = False,
) -> Classifier:
    """Makes a classifier of a Keras model, a list of them (their ensemble), a SavedModel or a function.

    A Keras model is run in inference mode. An export of this package can be had in two ways. For an attack,
    the function of the SavedModel itself is used, so that what is measured is what was exported. With
    ``movable=True`` the export is rebuilt as a live Keras model that has the exported weights: its weights
    can then be set, and its layers are known, which BatchNorm statistics, softplus twins, dead units and
    curves of weights need. Any other SavedModel is moved through its own variables.

    Args:
        source: maps images to logits. A SavedModel is given by its folder, or as `load_classifier` returns
            it.
        x: images float32 (N, H, W, C) in [0, 1], at least one; the first ones are tried. Defaults to random
            images where the classifier tells their shape, which a function does not.
        y: labels int32 (N,), which must be classes of the classifier.
        outputs: "logits", or "probabilities" of a classifier that ends in a softmax.
        movable: load the trainable variables, as `Classifier.parameters`.

    Raises:
        UsageError: not a classifier (of these images), its outputs are not what `outputs` says, its
            weights cannot be moved, or an export that is not what its manifest says.
    """
    if isinstance(source, str | os.PathLike):
        source = load_classifier(source, outputs)
    if isinstance(source, Sequence):
        source = build_ensemble(source)
    saved = source if isinstance(source, SavedClassifier) else None
    name, config = _name(source), (saved.manifest.get("config") or {} if saved else {})
    if movable and saved and _can_be_rebuilt(saved):
        source = _rebuilt(saved, config)
    function = _function(source, movable)
    values = _tried(function, name, _probe(source) if x is None else np.asarray(x[:TRIED]))
    if y is not None and np.max(y) >= values.shape[1]:
        raise UsageError(
            f"labels must be in [0, {values.shape[1]}), the classes of {name}. Received: label {np.max(y)}. "
            "Give the data the classifier was trained on."
        )
    softmax = outputs == "probabilities"
    if saved and saved.ends_in_softmax:
        logits_fn, softmax = function, True  # a call has taken the logarithm already
    else:
        require_outputs(outputs, values, name)
        logits_fn = _logits_of(function, softmax, movable)
    return Classifier(
        logits_fn,
        values.shape[1],
        name,
        input_shape=_image_shape(source),
        ends_in_softmax=softmax,
        model=source if isinstance(source, keras.Model) else None,
        weights=Parameters(_trainable(source, name)) if movable else None,
        config=config,
        saved=saved,
    )


def as_subject(source: object) -> Classifier:
    """Returns ``as_classifier(source, movable=True)``, a classifier whose weights can be moved.

    Raises:
        UsageError: as `as_classifier`.
    """
    return as_classifier(source, movable=True)


def _can_be_rebuilt(saved):
    return saved.manifest["kind"] == "classifier" and "model" in (saved.manifest.get("config") or {})


def _name(source):
    if isinstance(source, SavedClassifier):
        return "/".join(source.path.absolute().parts[-2:])
    name = "name" if isinstance(source, keras.Model) else "__name__"
    return getattr(source, name, type(source).__name__)


def _function(source, movable):
    """Returns the function from images to what the classifier returns, in inference mode."""
    if isinstance(source, keras.Model):
        return lambda x: source(x, training=False)
    if isinstance(source, SavedClassifier) or (callable(source) and not movable):
        return source
    kinds = "a Keras model, a list of them, the path of a SavedModel"
    kinds += " or a loaded one, for its weights to be moved" if movable else " or a function"
    raise UsageError(f"classifier must be {kinds}. Received: {type(source).__name__}.")


def _tried(function, name, x):
    """Returns what the function makes of a few images, after checking that it has the shape of logits."""
    if not len(x):
        raise UsageError(f"x must hold at least one image. Received: x of shape {x.shape}.")
    try:
        values = np.asarray(function(tf.constant(x)))
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        raise UsageError(
            f"classifier must accept images {x.shape[1:]}. Received: {first_line(error)}"
        ) from error
    if values.ndim != 2 or len(values) != len(x) or values.shape[1] < 2:
        single = values.ndim == 2 and values.shape[1] == 1
        remedy = " Return [0, z] for a single logit z; its softmax is the sigmoid of z." if single else ""
        raise UsageError(
            "classifier must return logits (batch, classes) of at least 2 classes. "
            f"Received: {values.shape} from {name}.{remedy}"
        )
    return values


def _logits_of(function, softmax, movable):
    if softmax:
        return lambda x: log_probabilities(function(x))
    if movable:
        return function  # derivatives are taken in the precision of the weights
    return lambda x: tf.cast(function(x), tf.float32)


def _probe(source):
    """Returns random images (PROBES, H, W, C) of the shape that the classifier tells."""
    if not isinstance(source, keras.Model | SavedClassifier):
        raise UsageError("x must be given for a function, which does not tell its shape. Received: x=None.")
    shape = _image_shape(source)
    if shape is None:
        raise UsageError(
            "classifier must be built on images (batch, height, width, channels); call it once first. "
            f"Received: {source.name}, which is not."
        )
    sides = [32 if side is None else side for side in shape]
    return np.random.default_rng(0).random((PROBES, *sides), np.float32)


def _image_shape(source):
    """Returns (H, W, C) of a loaded SavedModel or a Keras model built on images; None if it does not tell."""
    if isinstance(source, SavedClassifier):
        return source.input_shape
    return image_shape(source) if isinstance(source, keras.Model) else None


def _trainable(source, name):
    if not source.trainable_variables:
        raise UsageError(f"classifier must have trainable variables. Received: none in {name}.")
    return source.trainable_variables


def _rebuilt(saved: SavedClassifier, config: Mapping) -> keras.Model:
    """Builds a live model with the exported weights, and checks that it computes what the SavedModel does."""
    settings = models.recorded_settings(config)
    with _float32():
        model = models.build(config["model"], saved.input_shape, saved.num_classes, **settings)
    values = {variable.name.removesuffix(":0"): variable for variable in saved.variables}
    expected = {variable.path: tuple(variable.shape) for variable in model.weights}
    found = {name: tuple(variable.shape) for name, variable in values.items()}
    if expected != found:
        wrong = sorted(name for name, _ in expected.items() ^ found.items())[0]
        raise UsageError(
            f"{saved.path} must hold the variables of the {config['model']} its manifest names. "
            f"Received: a difference at {wrong}; export the classifier again."
        )
    for variable in model.weights:
        variable.assign(values[variable.path].numpy())
    images = _probe(saved)
    live, wanted = np.asarray(model(images, training=False)), np.asarray(saved(images))
    error = np.abs(live - wanted).max()
    if not error <= TOLERANCE * max(1.0, np.abs(wanted).max()):
        raise UsageError(
            f"{saved.path} must compute what its manifest describes, "
            f"{models.describe_network(config['model'], settings)}. "
            f"Received: logits that differ by {error:.3g}; export the classifier again."
        )
    return model


@contextmanager
def _float32():
    """Builds in the precision of the SavedModel whatever policy Keras is set to."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
