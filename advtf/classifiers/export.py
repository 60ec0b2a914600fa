"""Classifiers on disk: a SavedModel and its manifest, reloaded and compared before it gets its name."""

import dataclasses
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from advtf.classifiers import manifest as manifests
from advtf.errors import UsageError, first_line, one_of
from advtf.runtime import true_float32
from advtf.storage.files import renamed_into_place

TOLERANCE = 1e-4  # of the largest output, or of 1: a reloaded graph may fuse what the live one does not
LEAST_PROBABILITY = 1e-12  # below it a probability has no logarithm worth climbing


@dataclass(frozen=True, eq=False)
class SavedClassifier:
    """A reloaded classifier: call it on images to get logits; differentiable any number of times.

    Works eagerly, in `tf.function`, in `tf.while_loop` and under XLA; always in inference mode. Where the
    SavedModel ends in a softmax, a call takes its logarithm.

    Attributes:
        path: the folder it came from.
        manifest: what the export recorded; for a foreign SavedModel, what its signature tells.
        input_shape: (H, W, C); H and W are None where the SavedModel leaves them free.
        num_classes: K.
        output: of a call: "logits" or "log_probabilities"; both serve as logits for a cross-entropy.
    """

    path: Path
    manifest: dict
    input_shape: tuple
    num_classes: int
    output: str
    _signature: Callable = field(repr=False)
    _loaded: object = field(repr=False)  # its variables die with it

    def __call__(self, x) -> tf.Tensor:
        """Maps images (B, H, W, C), float in [0, 1], to float32 (B, K)."""
        x = tf.convert_to_tensor(x)
        if not x.dtype.is_floating or not x.shape.is_compatible_with((None, *self.input_shape)):
            raise UsageError(
                f"images must be float in [0, 1], of shape {(None, *self.input_shape)}. "
                f"Received: x of {x.dtype.name} {x.shape} for {self.path}. "
                "Give it images like those it was trained on."
            )
        (key,) = self._signature.structured_input_signature[1]
        (output,) = self._signature(**{key: tf.cast(x, tf.float32)}).values()
        return log_probabilities(output) if self.ends_in_softmax else output

    @property
    def ends_in_softmax(self) -> bool:
        """Whether the SavedModel itself returns probabilities."""
        return self.manifest["output"] == "probabilities"

    @property
    def variables(self) -> list[tf.Variable]:
        """All variables, in the order in which the graph comes across them."""
        return list(self._signature.variables)

    @property
    def trainable_variables(self) -> list[tf.Variable]:
        """In the order of the layers if the SavedModel lists them, else in that of `variables`."""
        listed = getattr(self._loaded, "trainable_variables", None)
        return list(listed or self._signature.trainable_variables)


def load_classifier(path: str | os.PathLike, outputs: str = "logits") -> SavedClassifier:
    """Loads an exported classifier, or any SavedModel with one image input and one (B, K) output.

    Args:
        path: a folder written by `export_classifier`, or by Keras' own `model.export`.
        outputs: what the SavedModel returns, "logits" or "probabilities". Attacks need logits, for a
            saturated softmax hides the gradient; the logarithm is the second best.

    Raises:
        UsageError: nothing there, not a SavedModel, damaged, not a classifier, or one that returns
            something else than `outputs` says.
    """
    one_of("outputs", outputs, manifests.OUTPUTS)
    if tf.distribute.has_strategy():  # a reloaded graph fails on distributed variables
        raise UsageError("classifiers must be loaded and exported outside strategy.scope()")
    manifests.require_saved_model(path, "path")
    path = Path(path)
    manifest = manifests.read_manifest(path)
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # TensorFlow raises OSError, IndexError, DataLossError, ... for damage
        raise UsageError(f"{path} must be an undamaged SavedModel. Received: {first_line(error)}") from error
    signature = getattr(loaded, "signatures", {}).get("serving_default")
    shape, classes = _classifier_shapes(signature, path)
    actual = manifests.describe(path.name, manifest["kind"] if manifest else "foreign", shape, classes)
    manifests.check_manifest(path, manifest or actual, actual)
    saved = SavedClassifier(path, manifest or actual, shape, classes, actual["output"], signature, loaded)
    require_outputs(outputs, _probed(saved), str(path))
    if outputs == "probabilities":
        return dataclasses.replace(saved, manifest=actual | {"output": outputs}, output="log_probabilities")
    return saved


def _probed(saved: SavedClassifier) -> np.ndarray:
    shape = [32 if size is None else size for size in saved.input_shape]
    return np.asarray(saved(np.linspace(0, 1, 2 * math.prod(shape)).reshape(2, *shape)))


@true_float32()
def export_classifier(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    kind: str = "classifier",
    metadata: Mapping | None = None,
    sample: np.ndarray,
    overwrite: bool = False,
) -> Path:
    """Writes a float32 `model` as a SavedModel with a manifest, and proves that it reloads.

    The folder is written under a hidden sibling name, reloaded, its outputs and input gradient compared
    with the live model's on `sample`, and only then renamed to `path`.

    Args:
        model: images (B, H, W, C) in [0, 1] -> (B, K) logits (kind "classifier") or
            log-probabilities ("ensemble"), without a softmax.
        metadata: JSON-like entries added to the manifest (config, accuracies, epoch, ...).
        sample: real images, float (N, H, W, C) in [0, 1]; a few are enough.
        overwrite: replace an earlier export at `path`; anything else there is never touched, and an export
            to which other files were added is refused.

    Returns:
        `path`, absolute.

    Raises:
        UsageError: a setting that the caller can mend; nothing has been written or removed.
        DiskFull: there is no room for it; `path` is as it was.
        RuntimeError: the reloaded model differs from the live one; `path` is as it was.
    """
    path = Path(path).absolute()
    one_of("kind", kind, manifests.KINDS)
    manifests.require_replaceable(path, overwrite)
    sample = _checked_sample(sample)
    logits = _checked_logits(model, sample, kind)
    classes = logits.shape[1]
    manifest = manifests.make_manifest(path.name, kind, sample.shape[1:], classes, metadata or {})
    with renamed_into_place(path) as folder:
        _write_saved_model(model, folder, sample.shape[1:])
        manifests.write_manifest(folder, manifest)
        _compare(model, logits, load_classifier(folder), sample)
    return path


def copy_export(source: Path, path: str | os.PathLike, metadata: Mapping, *, overwrite: bool = False) -> Path:
    """Writes the classifier of an export once more, with a manifest of its own.

    The graph and the weights are copied, and the copy is compared with them. That takes milliseconds, where
    `export_classifier` traces, saves, loads and compares a model that has the same weights.

    Args:
        source: an export that `export_classifier` has proven.
        path, metadata, overwrite: as in `export_classifier`.

    Returns:
        `path`, absolute.

    Raises:
        UsageError, DiskFull: as in `export_classifier`.
        RuntimeError: the copy differs from its source; `path` is as it was.
    """
    path = Path(path).absolute()
    manifests.require_replaceable(path, overwrite)
    proven = manifests.read_manifest(source)
    shape, classes = proven["input"]["shape"], proven["num_classes"]
    manifest = manifests.make_manifest(path.name, proven["kind"], shape, classes, metadata)
    with renamed_into_place(path) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        manifests.write_manifest(folder, manifest)
        if manifests.weights_digest(folder) != manifests.weights_digest(source):
            raise RuntimeError(f"{path.name}: the copy differs from {source}")
    return path


def _checked_sample(sample) -> np.ndarray:
    images = np.asarray(sample)
    valid = images.ndim == 4 and images.size and np.issubdtype(images.dtype, np.floating)
    if not valid or not (images.min() >= 0 and images.max() <= 1):  # written so that NaN fails
        raise UsageError(
            "sample must hold float images (N, H, W, C) in [0, 1]; divide 8-bit images by 255. "
            f"Received: sample of {images.dtype} {images.shape}"
        )
    return images.astype(np.float32)


def _write_saved_model(model: keras.Model, folder: Path, shape: tuple[int, int, int]) -> None:
    """Writes what `model.export` writes, without its search for lookup tables.

    That search evaluates every property of every layer, which takes a third of the time of an export. A
    network of images has no tables; if one had, TensorFlow would refuse to save it.
    """
    archive = keras.export.ExportArchive()
    image = keras.InputSpec(shape=(None, *shape), dtype="float32", name="image")
    archive.add_endpoint("serve", model.__call__, [image])
    for collection in ("variables", "trainable_variables", "non_trainable_variables"):
        archive.add_variable_collection(collection, getattr(model, collection))
    archive.write_out(str(folder), verbose=False)


def _checked_logits(model: keras.Model, sample: np.ndarray, kind: str) -> np.ndarray:
    """Runs the live model on the sample; returns its logits."""
    if not isinstance(model, keras.Model) or model.compute_dtype != "float32":
        received = getattr(model, "compute_dtype", type(model).__name__)
        raise UsageError(f"model must be a Keras model of float32 policy. Received: {received}")
    try:
        logits = model(sample, training=False)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        raise UsageError(f"model must accept sample {sample.shape}. Received: {first_line(error)}") from error
    if not tf.is_tensor(logits) or logits.dtype != tf.float32 or logits.shape.rank != 2:
        received = f"{getattr(logits, 'dtype', type(logits).__name__)} {getattr(logits, 'shape', '')}"
        raise UsageError(f"model must return float32 logits (batch, classes). Received: {received}")
    values = np.asarray(logits)
    if not np.isfinite(values).all():
        raise UsageError(f"model must return finite logits. Received: NaN or infinity from {model.name}")
    if are_probabilities(values):
        raise UsageError(
            f"model must return logits; remove the softmax. Received: probabilities from {model.name}"
        )
    if kind == "ensemble" and np.abs(np.exp(values).sum(axis=1) - 1).max() > 1e-3:
        raise UsageError(f"kind=ensemble needs log-probabilities (build_ensemble). Received: {model.name}")
    return values


def _compare(model: keras.Model, logits: np.ndarray, saved: SavedClassifier, sample: np.ndarray) -> None:
    """Compares a reloaded classifier with the live model, whose `logits` of the sample are given."""
    name = saved.manifest["name"]
    for live, reloaded in ((logits, saved(sample)), (logits[:1], saved(sample[:1]))):
        error = np.abs(live - np.asarray(reloaded)).max()
        if not error <= TOLERANCE * max(1.0, np.abs(live).max()):
            raise RuntimeError(f"{name}: the reloaded output differs from the live model's by {error:.3g}")
    live = _input_gradient(lambda x: model(x, training=False), sample[:8])
    error = np.linalg.norm(live - _input_gradient(saved, sample[:8]))
    # In norm, not per pixel: rounding may move a unit across a ReLU's kink. A collapsed model's is zero.
    if not error <= 0.01 * np.linalg.norm(live):
        raise RuntimeError(f"{name}: the reloaded input gradient differs from the live model's")


def _input_gradient(logits_fn: Callable, images: np.ndarray) -> np.ndarray:
    """Returns d Σ_k c_k z_k / dx with c from 1 to 2.

    Unlike the gradient of a loss it does not vanish for a confident classifier.
    """
    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = logits_fn(x)
        value = tf.reduce_sum(logits * tf.linspace(1.0, 2.0, logits.shape[1]))
    return np.asarray(tape.gradient(value, x, unconnected_gradients="zero"))


def _classifier_shapes(signature, path: Path) -> tuple[tuple, int]:
    """Reads (H, W, C) and the number of classes off a serving signature, or refuses it."""
    inputs = list(signature.structured_input_signature[1].values()) if signature else []
    outputs = list(signature.structured_outputs.values()) if signature else []
    if len(inputs) == len(outputs) == 1 and inputs[0].shape.rank == 4 and outputs[0].shape.rank == 2:
        (batch, *shape), classes = inputs[0].shape, outputs[0].shape[1]
        floats = inputs[0].dtype == outputs[0].dtype == tf.float32
        if floats and batch is None and None not in (shape[2], classes):
            return tuple(shape), classes
    specs = ", ".join(f"{spec.dtype.name}{spec.shape}" for spec in [*inputs, *outputs][:4])
    raise UsageError(
        "a classifier maps float32 images (any batch, height, width, channels) to logits (batch, K). "
        f"Received: {path} with {specs or 'no serving_default signature'}; export the classifier alone"
    )


def are_probabilities(values: np.ndarray) -> bool:
    """Tells whether rows (B, K) are probabilities: nowhere negative, and of sum 1 up to rounding."""
    return bool(values.min() >= 0 and np.allclose(values.sum(axis=1), 1, atol=1e-4))


def require_outputs(outputs: str, values: np.ndarray, name: str) -> None:
    """Checks that a classifier returns what its user says it does.

    Args:
        outputs: "logits" or "probabilities".
        values: (B, K), what it returned for some images.
        name: of the classifier, for the message.

    Raises:
        UsageError: `values` are something else, or `outputs` is.
    """
    one_of("outputs", outputs, manifests.OUTPUTS)
    if outputs == "logits" and are_probabilities(values):
        raise UsageError(
            f"{name} must return logits. Received: probabilities; remove the softmax, or say "
            "outputs=probabilities."
        )
    if outputs == "probabilities" and not are_probabilities(values):
        raise UsageError(f"{name} must return probabilities. Received: other values; use outputs=logits.")


def log_probabilities(probabilities: tf.Tensor) -> tf.Tensor:
    """Returns the logarithm of probabilities (B, K) as float32; for those below 1e-12, that of 1e-12.

    It is what logits are up to a constant per row, so every loss of logits may be climbed on it. But where
    the softmax has rounded to 0 or 1 its gradient is gone: a classifier's own logits are always better.
    """
    return tf.math.log(tf.maximum(tf.cast(probabilities, tf.float32), LEAST_PROBABILITY))
