"""PyTorch checkpoints of published networks as Keras classifiers with the same logits.

`load_torch` reads a file, and `convert_state_dict` takes its content. The names and sizes of the networks are
those of `advtf.classifiers.pytorch_layouts`. TensorFlow is imported only when a network is built, so that a
file which cannot be read is refused at once.
"""

import importlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advtf.errors import UsageError, first_line, nearest, one_of, require_whole
from advtf.models import ACTIVATIONS

if TYPE_CHECKING:
    import keras

    from advtf.classifiers.pytorch_layouts import Layout

PREFIX = re.compile(r"^(?:(?:module|model|_orig_mod|net|normalize|normalizer)\.)+")
SMALLEST_IMAGE = 4  # side in pixels; the networks halve it at least twice
BUFFERS = (("mu", "sigma"), ("mean", "std"))  # of the normalisation in published networks
SUFFIXES = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
SUFFIXES |= {"moving_mean": "running_mean", "moving_variance": "running_var"}  # ours -> torch's


def load_torch(path: str | os.PathLike, model: str | None = None, **settings: Any) -> "keras.Model":
    """Loads a checkpoint of a published network as a Keras classifier with the same logits.

    Args:
        path: file of `torch.save`, read with ``weights_only=True``, or of `numpy.savez` (needs no torch).
        model: expected key of `advtf.models.MODELS`; None recognises it by the parameters' names.
        **settings: as in `convert_state_dict`.

    Raises:
        UsageError: an unreadable file, torch is absent, or as in `convert_state_dict`.
    """
    return convert_state_dict(read_checkpoint(path), model, **settings)


def convert_state_dict(
    state: Mapping[str, Any],
    model: str | None = None,
    *,
    entry: str | None = None,
    image_size: int | None = None,
    activation: str = "relu",
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
) -> "keras.Model":
    """Builds the Keras classifier that a PyTorch state dict belongs to; width, depth, K are read off it.

    Args:
        state: parameter name -> torch tensor or NumPy array; prefixes such as ``module.`` are ignored.
        model: expected key of `advtf.models.MODELS`; None recognises it by the names.
        entry: the state dict inside `state`, where that is a checkpoint with several, such as "last".
        image_size: side of the images; None takes 32, or what LeNet's dense layer fits.
        activation: the network's, one of `advtf.models.ACTIVATIONS`; a state dict does not tell.
        mean: subtracted from the pixels, one value or one per channel. None takes the buffer of the state
            dict; many published ones lack it although their network normalises.
        std: divides the pixels after that.

    Returns:
        A functional model (B,S,S,C) float32 in [0, 1] -> logits (B,K) float32.

    Raises:
        UsageError: a missing, unexpected, mis-shaped or non-finite parameter, or a bad setting.
    """
    settings = {"entry": entry, "image_size": image_size, "activation": activation, "mean": mean, "std": std}
    return converted(state, model, **settings)[0]


def converted(
    state: Mapping[str, Any], model: str | None, *, entry, image_size, activation, mean, std
) -> tuple["keras.Model", "Layout"]:
    """Returns the classifier of `convert_state_dict` and the layout that it has been recognised as."""
    from advtf.classifiers.pytorch_layouts import recognise  # imports TensorFlow

    one_of("activation", activation, ACTIVATIONS)
    if image_size is not None:
        require_whole("image_size", image_size, SMALLEST_IMAGE)
    arrays = _arrays(_entry_of(state, entry))
    normalisation = _normalisation(arrays, mean, std)
    layout = recognise(arrays, model)
    classifier = layout.network(arrays, image_size or layout.image_size, activation, normalisation)
    _assign(classifier, layout, arrays)
    return classifier, layout


def _normalisation(arrays: dict[str, np.ndarray], mean, std) -> tuple:
    """Returns (mean, std), taken out of `arrays` or given, or () where there is none."""
    for names in BUFFERS:
        if all(name in arrays for name in names):
            if (mean, std) != (None, None):
                raise UsageError(f"checkpoint has its own {names}. Received: mean={mean}; leave it out.")
            mean, std = (arrays.pop(name) for name in names)
    if mean is None and std is None:
        return ()
    try:
        mean, std = (np.array(values, np.float64).reshape(-1) for values in (mean, std))
    except (TypeError, ValueError):
        raise UsageError(f"mean and std must be numbers. Received: mean={mean}, std={std}.") from None
    if not (np.isfinite([*mean, *std]).all() and np.all(std > 0)):
        raise UsageError(f"mean and std must both be finite, std > 0. Received: mean={mean}, std={std}.")
    return mean, std


def _assign(model: "keras.Model", layout: "Layout", state: Mapping[str, np.ndarray]) -> None:
    """Copies every array into its weight: none may be missing or left over."""
    rest = {k: value for k, value in state.items() if not (layout.unused and k.startswith(layout.unused))}
    flat = next((layer for layer in model.layers if layer.name == "flatten"), None)
    for layer in model.layers:
        source = flat.input.shape[1:] if flat and layer.weights and layer.input is flat.output else None
        for variable in layer.weights:
            key = f"{layout.modules[layer.name]}.{SUFFIXES[variable.name]}"
            if key not in rest:
                raise UsageError(f"checkpoint must hold {key} of {layout}. Received: none of that name.")
            variable.assign(_arranged(key, rest.pop(key), variable.shape, source))
    if rest:
        raise UsageError(f"checkpoint must hold {layout} and no more. Received: {', '.join([*rest][:3])}.")


def _arranged(key: str, value: np.ndarray, shape: tuple, source: tuple | None) -> np.ndarray:
    """Returns an array of torch in the order of our axes: OIHW -> HWIO, (out, in) -> (in, out).

    Where the inputs of a dense layer are flattened images of shape `source` (H, W, C), torch has flattened
    (C, H, W), so they are sorted as well.
    """
    order = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}[len(shape)]  # our axes in torch's order
    expected = tuple(shape[axis] for axis in order)
    if value.shape != expected:
        raise UsageError(f"{key} must have the shape {expected}. Received: {value.shape}.")
    if source and value.ndim == 2:
        height, width, depth = source
        value = value.reshape(-1, depth, height, width).transpose(0, 2, 3, 1).reshape(expected)
    return value.transpose(np.argsort(order))


def read_checkpoint(path: str | os.PathLike) -> Any:
    """Returns what a file of `torch.save` or `numpy.savez` holds; nothing else than tensors is unpickled.

    Raises:
        UsageError: there is no such file, it cannot be read so, or torch is absent.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"checkpoint must be a file. Received: {path}.")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        return importlib.import_module("torch").load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise UsageError(
            "PyTorch checkpoints require the torch package. Received: no such package; pip install torch, or "
            "elsewhere write numpy.savez('x.npz', **{k: v.numpy() for k, v in state_dict.items()})."
        ) from error
    except Exception as error:  # torch, pickle and zipfile raise all kinds for a damaged or foreign file
        reason = first_line(error)[:150]
        pointer = path.read_bytes()[:20] == b"version https://git-"
        remedy = "Run git lfs pull." if pointer else "Save the state dict alone with torch.save."
        raise UsageError(
            f"checkpoint must be readable with weights_only=True. Received: {path} ({reason}). {remedy}"
        ) from error


def _entry_of(content: Any, entry: str | None) -> Mapping[str, Any]:
    """Returns the state dict in a file: `entry`, the content itself, or its one entry that looks like one."""
    if entry is None and _is_state(content):
        return content
    found = {k: v for k, v in content.items() if _is_state(v)} if isinstance(content, Mapping) else {}
    if entry in found or (entry is None and len(found) == 1):
        return found[entry] if entry else next(iter(found.values()))
    names = f"{', '.join(map(str, found)) or 'none'} in the checkpoint.{nearest(str(entry), map(str, found))}"
    raise UsageError(f"entry must name a state dict. Received: entry={entry}, and {names}")


def _is_state(value: Any) -> bool:
    arrays = isinstance(value, Mapping) and all(hasattr(array, "shape") for array in value.values())
    return arrays and any(str(name).endswith(".weight") for name in value)


def _arrays(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns float32 arrays by name, without prefixes and BatchNorm's counters."""
    arrays = {}
    for key, value in state.items():
        name = PREFIX.sub("", key)
        if name.endswith("num_batches_tracked"):
            continue
        if name in arrays:
            raise UsageError(f"state dict must hold one network. Received: {name} under two prefixes.")
        tensor = value.detach().cpu().float() if hasattr(value, "detach") else value
        arrays[name] = np.asarray(tensor, np.float32)
        if not np.isfinite(arrays[name]).all():
            raise UsageError(f"{key} must be finite. Received: NaN or infinity in it.")
    return arrays
