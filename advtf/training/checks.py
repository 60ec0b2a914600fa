"""What a trainer refuses before the first step, and the loss that ends a training.

A command checks its images when it reads them. `fit`, `evaluate` and `predict` get theirs from anywhere, so
`checked` looks at them here: at the whole of an array, at every batch of a `tf.data.Dataset` as it passes,
and at the first batch of anything else. It compares with a minimum and a maximum, which costs far less than
an attack.
"""

import contextlib
import inspect
import itertools
import math
import re
import types
from collections.abc import Iterator
from numbers import Integral

import keras
import numpy as np
import tensorflow as tf

from advtf.data.arrays import require_classes, require_unit_range
from advtf.errors import UsageError, require_real
from advtf.training.optimizers import batches_seen

_FOUND = re.compile(r"\[advtf: (\w+) in (\d+)\] \[([^\]]*)\] \[([^\]]*)\]")
_MONITORING = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.ReduceLROnPlateau,
)
# The metrics of a trainer that a callback can monitor, of which more is better.
ACCURACIES = ("clean_accuracy", "robust_accuracy")
VALIDATED = ("val_loss", "val_clean_accuracy", "val_robust_accuracy")


class NonFiniteLoss(RuntimeError):
    """The loss of a training became NaN or infinite; the message says where, and what to try."""


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Ends training with `NonFiniteLoss` at the first step whose loss is NaN or infinite.

    `AdversarialTrainer.fit` adds it unless the callbacks hold one, or `keras.callbacks.TerminateOnNaN`.
    """

    def on_train_batch_end(self, batch, logs=None):
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            optimizer, epsilon = self.model.optimizer, float(self.model.epsilon.numpy())
            step = int(batches_seen(optimizer).numpy())
            rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
            raise NonFiniteLoss(
                f"the loss must stay finite. Received: loss={loss} at step {step} "
                f"(learning_rate={rate:g}, epsilon={epsilon:g}). "
                "Lower the learning rate (--lr), or raise ε gradually (--eps_sched=cosine, EpsilonSchedule)."
            )


def ready_callbacks(callbacks, validates: bool = True) -> list[keras.callbacks.Callback]:
    """Returns the callbacks of a training, checked, with `StopOnNonFiniteLoss` among them.

    Keras knows the direction of the loss and of metrics of its own only. Here "auto" becomes "max" for the
    two accuracies of a trainer.

    Args:
        callbacks: None, a callback, or a list of them.
        validates: whether the training is given validation data.

    Raises:
        UsageError: a callback monitors what the training does not log, or does not say in which direction.
    """
    callbacks = [callback for callback in keras.tree.flatten(callbacks) if callback is not None]
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        name = str(monitor).removeprefix("val_")
        if name in ("accuracy", "acc"):
            raise UsageError(
                f"{type(callback).__name__} must monitor what a trainer logs: val_robust_accuracy, "
                f"val_clean_accuracy, val_loss. Received: monitor={monitor}."
            )
        if isinstance(callback, _MONITORING):
            is_used = getattr(callback, "save_best_only", True)
            if is_used and not validates and monitor in VALIDATED:
                raise UsageError(
                    f"{type(callback).__name__} with monitor={monitor} needs validation data. "
                    "Received: none. Give fit validation_data or validation_split, or monitor "
                    f"{name}."
                )
            if callback.mode == "auto" and name in ACCURACIES:
                callback.mode = "max"
            if callback.mode == "auto" and name != "loss":
                raise UsageError(
                    f"{type(callback).__name__} must know whether more is better. "
                    f"Received: monitor={monitor}, mode=auto. Give mode='max' or mode='min'."
                )
    stopping = StopOnNonFiniteLoss, keras.callbacks.TerminateOnNaN
    if not any(isinstance(callback, stopping) for callback in callbacks):
        callbacks.insert(0, StopOnNonFiniteLoss())  # before those that save
    return callbacks


def checked(data, classifier: keras.Model, views: tuple[int, ...] = (1,), labelled: bool = True):
    """Returns images of a training, an evaluation or a prediction after checking them.

    Args:
        data: (x, y, sample_weight), as Keras takes them. x may be a `tf.data.Dataset`, a generator or any
            other source of batches, which then holds y and the weights, too.
        classifier: tells the shape of an image and the number of classes.
        views: how many views of the images x may hold: 1 for an array, 2 for a pair of augmentations.
        labelled: whether there must be labels.

    Returns:
        x. A dataset checks every batch that it gives; a generator has its first batch back.

    Raises:
        UsageError: the images are not uint8 or float in [0, 1] or have another shape than the classifier
            takes, the labels are not class numbers, a weight is negative or not finite, or it is
            something else. A dataset raises it in `reported`, when the batch is drawn.
    """
    source = data[0]
    if isinstance(source, tf.data.Dataset):
        classes = _require_structure(*_parts(source.element_spec), classifier, views, labelled)
        return source.map(lambda *batch: _asserted(batch, classes, labelled))
    if isinstance(source, types.GeneratorType):
        first = next(source, None)
        if first is None:
            raise UsageError("at least one batch is required. Received: an empty generator.")
        _require_values(*_parts(first), classifier, views, labelled)
        return _chained(first, source)
    if isinstance(source, tf.distribute.DistributedDataset):
        return source  # its batches lie on several devices
    if isinstance(source, keras.utils.PyDataset):
        _require_values(*_parts(source[0]), classifier, views, labelled)
    elif _gives_batches(source):
        _require_values(*_parts(next(iter(source))), classifier, views, labelled)
    else:
        _require_values(*data, classifier, views, labelled)
    return source


def require_class_weight(class_weight: dict, classifier: keras.Model) -> None:
    """Raises UsageError unless `class_weight` maps classes of the classifier to numbers of at least 0."""
    if not isinstance(class_weight, dict):
        raise UsageError(
            "class_weight must be a dictionary from class numbers to weights. "
            f"Received: a {type(class_weight).__name__}."
        )
    classes = (getattr(classifier, "output_shape", None) or [None])[-1]
    for label, weight in class_weight.items():
        whole = isinstance(label, Integral) and not isinstance(label, bool)
        if not whole or not 0 <= label < (classes or math.inf):
            numbers = f"class numbers in [0, {classes})" if classes else "class numbers"
            raise UsageError(f"class_weight must have {numbers} as its keys. Received: {label!r}.")
        require_real(f"class_weight[{label}]", weight, 0.0)


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Raises what a dataset of `checked` found as `UsageError`."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = _FOUND.search(str(error))
        if found is None:
            raise
        what, classes, low, high = found[1], int(found[2]), float(found[3]), float(found[4])
    else:
        return
    _require_range(what, low, high, classes)


def _gives_batches(source) -> bool:
    """Whether it is a loader of batches, such as PyTorch's, and not an array or a structure of arrays."""
    if hasattr(source, "__array__") or isinstance(source, list | tuple | dict | str):
        return False
    return hasattr(source, "__iter__") and hasattr(source, "__len__") and not hasattr(source, "shape")


def _chained(first, rest):
    """Returns a generator, which is all that Keras takes for one."""
    yield from itertools.chain([first], rest)


def _parts(batch):
    return keras.utils.unpack_x_y_sample_weight(batch)


def _require_range(what, low, high, classes):
    """Raises UsageError unless the extremes of "images", "labels" or "weights" are within their range."""
    if what == "images":
        require_unit_range(what, low, high)
    elif what == "labels":
        require_classes(int(low), int(high), classes)
    elif not (low >= 0 and high < math.inf):
        raise UsageError(
            f"sample weights must be finite and at least 0. Received: weights in [{low:g}, {high:g}]."
        )


def _ranges(x, y, sample_weight, classes):
    """Yields the name and the values of whatever can be out of its range, which bytes cannot."""
    for view in x if isinstance(x, list | tuple) else [x]:
        if tf.as_dtype(view.dtype) != tf.uint8:
            yield "images", view
    if y is not None and classes is not None:
        yield "labels", y
    if sample_weight is not None:
        yield "weights", sample_weight


def _require_values(x, y, sample_weight, classifier, views, labelled):
    """Checks one batch, or a whole array, in NumPy."""
    x, y, sample_weight = keras.tree.map_structure(_dense, (x, y, sample_weight))
    classes = _require_structure(x, y, sample_weight, classifier, views, labelled)
    for what, values in _ranges(x, y if labelled else None, sample_weight, classes):
        if not values.size:
            raise UsageError(f"at least one image is required. Received: {what} of shape {values.shape}.")
        _require_range(what, float(values.min()), float(values.max()), classes)


def _dense(values):
    if values is None:
        return None
    if isinstance(values, tf.RaggedTensor | tf.SparseTensor):
        raise UsageError(f"images and labels must be dense. Received: a {type(values).__name__}.")
    return np.asarray(values)


def _asserted(batch, classes, labelled):
    """Returns a batch of a dataset, whose map it is, unless something in it is out of its range."""
    x, y, sample_weight = _parts(batch)
    for what, values in _ranges(x, y if labelled else None, sample_weight, classes):
        # Both extremes of TensorFlow are NaN where a value is, and a NaN fails every comparison.
        low, high = tf.reduce_min(values), tf.reduce_max(values)
        most = {"images": 1, "labels": (classes or 0) - 1, "weights": values.dtype.max}[what]
        note = tf.constant(f"advtf: {what} in {classes or 0}")
        # The plain operation: tf.debugging.Assert puts a branch around it, about which the optimizer warns.
        tf.raw_ops.Assert(condition=(low >= 0) & (high <= most), data=[note, low, high])
    return batch if len(batch) > 1 else batch[0]


def _require_structure(x, y, sample_weight, classifier, views, labelled) -> int | None:
    """Checks types and shapes, of arrays as of what a dataset says about its elements.

    Returns:
        The number of classes; None where the classifier does not tell.
    """
    if x is None:
        raise UsageError("images must be given. Received: x=None.")
    images = _views(x, views)
    for view in images:
        _require_images(view, classifier)
    classes = _classes(classifier, _shape(images[0]))
    if not labelled:
        return classes
    if y is None:
        raise UsageError("labels must be given with the images. Received: y=None.")
    if isinstance(y, dict | list | tuple):
        raise UsageError(f"labels must be one array (N,). Received: {_said(y)}.")
    shape, dtype = _shape(y), tf.as_dtype(y.dtype)
    if shape is not None and not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        hint = " Use argmax(axis=1) of one-hot labels." if len(shape) == 2 else ""
        raise UsageError(f"labels must be integers (batch,). Received: y of shape {tuple(shape)}.{hint}")
    if not dtype.is_integer:
        hint = ' Use y.astype("int32") of class numbers.' if dtype.is_floating or dtype.is_bool else ""
        raise UsageError(f"labels must be integers (batch,). Received: y of dtype {dtype.name}.{hint}")
    if isinstance(sample_weight, dict | list | tuple):
        raise UsageError(f"sample weights must be one array (N,). Received: {_said(sample_weight)}.")
    shape = None if sample_weight is None else _shape(sample_weight)
    if shape is not None and not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        raise UsageError(f"sample weights must be (batch,). Received: a shape of {tuple(shape)}.")
    return classes


def _views(x, views) -> list:
    """Returns the arrays of images in x: one, or two views of the same images for an objective of pairs."""
    if isinstance(x, list | tuple) and 2 in views and len(x) == 2:
        return list(x)
    if isinstance(x, dict | list | tuple):
        hint = " Map a data set to pairs: lambda d: (d['image'], d['label'])." if isinstance(x, dict) else ""
        raise UsageError(f"images must be one array (N, H, W, C). Received: {_said(x)}.{hint}")
    if 1 not in views:
        raise UsageError(
            "images must be a pair, two augmentations of the same ones, for this objective. "
            "Received: one array."
        )
    return [x]


def _said(structure) -> str:
    if isinstance(structure, dict):
        return f"a dictionary of {', '.join(map(str, structure))}"
    return f"a {type(structure).__name__} of {len(structure)}"


def _require_images(x, classifier):
    if isinstance(x, tf.RaggedTensorSpec | tf.SparseTensorSpec):
        raise UsageError(f"images must be dense. Received: a {x.value_type.__name__}.")
    dtype, shape, wanted = tf.as_dtype(x.dtype), _shape(x), getattr(classifier, "input_shape", None)
    if not dtype.is_floating and dtype != tf.uint8:
        hint = ' If they are 0..255, use astype("uint8").' if dtype.is_integer else ""
        raise UsageError(f"images must be uint8 or float in [0, 1]. Received: dtype {dtype.name}.{hint}")
    if shape is None or not isinstance(wanted, tuple):
        return
    if not (_fits(shape, wanted) or (wanted[-1] == 1 and _fits([*shape, 1], wanted))):
        hint = ""
        if _fits([None, *shape], wanted):
            hint = " Add the dimension of the batch: x[None], or dataset.batch(...)."
        elif len(shape) == 4 and _fits([shape[0], shape[2], shape[3], shape[1]], wanted):
            hint = " Move the channels behind height and width."
        raise UsageError(
            f"images must have the shape that the classifier takes, {wanted}. Received: {tuple(shape)}.{hint}"
        )


def _fits(shape, wanted) -> bool:
    return len(shape) == len(wanted) and all(
        None in pair or len(set(pair)) == 1 for pair in zip(shape, wanted, strict=True)
    )


def _shape(values) -> list | None:
    shape = tf.TensorShape(values.shape)
    return shape.as_list() if shape.rank is not None else None


def _classes(classifier, shape) -> int | None:
    """Returns the number of logits for images of a shape without computing them; None if it is unknown."""
    outputs = getattr(classifier, "output_shape", None)
    if outputs is None and shape is not None:
        image = keras.KerasTensor([None, *shape[1:]], "float32")
        takes_mode = "training" in inspect.signature(classifier.call).parameters
        try:
            spec = classifier.compute_output_spec(image, **({"training": False} if takes_mode else {}))
        except Exception as error:  # a model of one's own may fail in any way
            built = ((classifier.get_build_config() or {}).get("input_shape") or [None])[1:]
            if tuple(built) == tuple(shape[1:]):
                return None
            raise UsageError(
                f"images must have the shape that the classifier takes, (None, {str(built)[1:]}. "
                f"Received: {tuple(shape)}."
            ) from error
        outputs = getattr(spec, "shape", None)
        require_logits_shape(outputs)
    return outputs[-1] if outputs else None


def require_logits_shape(shape) -> None:
    """Raises UsageError unless outputs have the shape (batch, classes), with at least two classes."""
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise UsageError(f"classifier must return (batch, classes) logits. Received: output shape {shape}.")
    if shape[1] == 1:
        raise UsageError(
            "classifier must return one logit for each class, at least two. Received: a single one. "
            "Give two classes two logits: z becomes (0, z)."
        )
