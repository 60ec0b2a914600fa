"""PyTorch checkpoints of published networks as Keras classifiers with the same logits.

`load_torch` reads a file, and `convert_state_dict` takes its content. The names and sizes of the networks are
those of `advtf.classifiers.pytorch_layouts`. TensorFlow is imported only when a network is built, so that a
file which cannot be read is refused at once.
"""

import importlib
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advtf.classifiers.reference_logits import ReferenceLogits, read_reference
from advtf.errors import UsageError, alternatives, first_line, nearest, one_of, require_whole, show_text
from advtf.models import ACTIVATIONS, describe_network

if TYPE_CHECKING:
    import keras

    from advtf.classifiers.pytorch_layouts import Layout

PREFIX = re.compile(r"^(?:(?:module|model|_orig_mod|net|normalize|normalizer)\.)+")
# The models of which published networks are known; the layouts themselves stand where TensorFlow is imported.
CONVERTIBLE = ("lenet", "vgg", "resnet18", "resnet50", "preact_resnet18", "wide_resnet")
SMALLEST_IMAGE = 4  # side in pixels; the networks halve it at least twice
BUFFERS = (("mu", "sigma"), ("mean", "std"))  # of the normalisation in published networks
SUFFIXES = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
SUFFIXES |= {"moving_mean": "running_mean", "moving_variance": "running_var"}  # ours -> torch's
WRITE_NPZ = "numpy.savez('x.npz', **{k: v.numpy() for k, v in state_dict.items()})"


def load_torch(path: str | os.PathLike, model: str | None = None, **settings: Any) -> "keras.Model":
    """Loads a checkpoint of a published network as a Keras classifier with the same logits.

    Args:
        path: file of `torch.save`, read with ``weights_only=True``, or of `numpy.savez` (needs no torch).
        model: the expected one of `CONVERTIBLE`; None recognises it by the parameters' names.
        **settings: as in `convert_state_dict`.

    Raises:
        UsageError: an unreadable file, torch is absent, or as in `convert_state_dict`.
    """
    return _with_hints(read_checkpoint(path), model, **settings)


def convert_state_dict(
    state: Mapping[str, Any],
    model: str | None = None,
    *,
    entry: str | None = None,
    image_size: int | None = None,
    activation: str = "relu",
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    shortcut: str | None = None,
    stride_in: str | None = None,
    check_images: str | os.PathLike | None = None,
) -> "keras.Model":
    """Builds the Keras classifier that a PyTorch state dict belongs to; width, depth, K are read off it.

    Args:
        state: parameter name -> torch tensor or NumPy array; prefixes such as ``module.`` are ignored.
        model: the expected one of `CONVERTIBLE`; None recognises it by the names.
        entry: the state dict inside `state`, where that is a checkpoint with several, such as "last".
        image_size: side of the images; None takes 32, or what LeNet's dense layer fits.
        activation: the network's, one of `advtf.models.ACTIVATIONS`; a state dict does not tell.
        mean: subtracted from the pixels, one value or one per channel. None takes the buffer of the state
            dict; many published ones lack it although their network normalises, so a warning says where
            there is none. 0 says that there was none.
        std: divides the pixels after that; 1 where there was no normalisation.
        shortcut: what the 1×1 shortcuts of preact_resnet18 and wide_resnet take, as in
            `advtf.models.model_settings`. A state dict does not tell, so that it must be given where the
            names are those of several published networks.
        stride_in: the convolution of a block that strides, for wide_resnet; None takes the published one.
        check_images: an NPZ file with images and the logits that the network gave for them, as
            `advtf.classifiers.reference_logits.read_reference` describes it. The classifier must agree with
            them, and they decide what the names leave open.

    Returns:
        A functional model (B,S,S,C) float32 in [0, 1] -> logits (B,K) float32.

    Raises:
        UsageError: a missing, unexpected, mis-shaped or non-finite parameter, a bad setting, names that
            several networks have (`AmbiguousNetwork`), or other logits than those in `check_images`.
    """
    settings = {"entry": entry, "image_size": image_size, "activation": activation, "mean": mean, "std": std}
    settings |= {"shortcut": shortcut, "stride_in": stride_in, "check_images": check_images}
    return _with_hints(state, model, **settings)


def _with_hints(state, model, *, check_images=None, **settings):
    """Converts, and warns about what the checkpoint does not tell, at the line that called the library."""
    reference = None if check_images is None else read_reference(check_images)
    conversion = converted(state, model, reference=reference, **settings)
    for hint in conversion.hints:
        warnings.warn(hint, stacklevel=3)
    return conversion.classifier


class AmbiguousNetwork(UsageError):
    """A state dict has parameters that several networks have, with other logits.

    Attributes:
        choices: what to give for each of them, as keyword arguments of `convert_state_dict`.
        reason: why it is ambiguous, without the remedy.
    """

    def __init__(self, reason: str, choices: Sequence[Mapping[str, str]]):
        self.reason, self.choices = reason, list(choices)
        calls = [", ".join(f"{name}='{value}'" for name, value in choice.items()) for choice in choices]
        super().__init__(f"{reason} Give {alternatives(calls)}, or check_images with reference logits.")


@dataclass(frozen=True, eq=False)
class Conversion:
    """A converted network.

    Attributes:
        classifier: the Keras model.
        layout: what it has been recognised as.
        difference: largest difference to the reference logits; None without any.
        rejected: the same of each network that the reference logits have ruled out, by its description.
    """

    classifier: "keras.Model"
    layout: "Layout"
    difference: float | None
    rejected: Mapping[str, float]

    @property
    def hints(self) -> list[str]:
        """What the checkpoint does not tell and the user should know, a sentence each."""
        if self.difference is None and "normalisation" not in [each.name for each in self.classifier.layers]:
            return [
                "the checkpoint stores no normalisation: give mean and std if the network was trained with "
                "one, or mean=0 and std=1 if not"
            ]
        return []


def converted(
    state: Mapping[str, Any],
    model: str | None,
    *,
    reference: ReferenceLogits | None = None,
    entry: str | None = None,
    image_size: int | None = None,
    activation: str = "relu",
    mean: Any = None,
    std: Any = None,
    shortcut: str | None = None,
    stride_in: str | None = None,
) -> Conversion:
    """Does what `convert_state_dict` does.

    Args:
        reference: what `check_images` holds; None without any.
        state, model, entry, image_size, activation, mean, std, shortcut, stride_in: as in
            `convert_state_dict`.
    """
    from advtf.classifiers.pytorch_layouts import recognise  # imports TensorFlow

    one_of("activation", activation, ACTIVATIONS)
    if image_size is not None:
        require_whole("image_size", image_size, SMALLEST_IMAGE)
    arrays = _arrays(entry_of(state, entry))
    normalisation = _normalisation(arrays, mean, std)
    layouts = recognise(arrays, model, {"shortcut": shortcut, "stride_in": stride_in})
    if len(layouts) > 1 and reference is None:
        raise _ambiguous(layouts)
    found = []
    for layout in layouts:
        classifier = layout.network(arrays, image_size or layout.image_size, activation, normalisation)
        _assign(classifier, layout, arrays)
        found.append((layout, classifier, _difference(classifier, reference)))
    return _agreeing(found, reference)


def _difference(classifier, reference):
    if reference is None:
        return None
    return reference.difference(lambda x: classifier(x, training=False), classifier.input_shape[1:])


def _agreeing(found: list[tuple], reference: ReferenceLogits | None) -> Conversion:
    """Returns the one network that agrees with the reference logits."""
    if reference is None:
        ((layout, classifier, _),) = found
        return Conversion(classifier, layout, None, {})
    right = [each for each in found if each[2] <= reference.tolerance]
    if len(right) == 1:
        rejected = {str(layout): difference for layout, _, difference in found if layout is not right[0][0]}
        layout, classifier, difference = right[0]
        return Conversion(classifier, layout, difference, rejected)
    if right:
        addition = f" The logits in {reference.path} agree with both."
        raise _ambiguous([layout for layout, _, _ in right], addition)
    off = "; ".join(f"{difference:.3g} for {layout}" for layout, _, difference in found)
    raise UsageError(
        f"logits must differ by at most {reference.tolerance:.3g} (0.1 % of the largest) from those in "
        f"{reference.path}. Received: {off}. Check activation, mean, std, shortcut and stride_in, and that "
        "the reference is of this checkpoint, in inference mode and float32 (not TensorFloat-32)."
    )


def _ambiguous(layouts: "Sequence[Layout]", addition: str = "") -> AmbiguousNetwork:
    """Says that the shortcuts are open, which is all that published layouts leave open."""
    first = layouts[0]
    network = describe_network(first.model, first.size | {"shortcut": None}) + first.note
    kinds = alternatives([f"{layout.size['shortcut']} ({layout.origin})" for layout in layouts])
    return AmbiguousNetwork(
        f"checkpoint must be of one network. Received: parameters of {network}, which do not tell whether "
        f"its shortcuts are {kinds}.{addition}",
        [{"shortcut": layout.size["shortcut"]} for layout in layouts],
    )


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
    npz = path.suffix == ".npz"
    with path.open("rb") as file:
        beginning = file.read(20)
    if beginning == b"version https://git-":
        raise UsageError(
            f"checkpoint must be the file itself. Received: {path}, a pointer of git-lfs. Run git lfs pull."
        )
    if not npz and not beginning.startswith((b"PK", b"\x80")):  # a zip file or a pickle: torch is not asked
        raise UsageError(
            "checkpoint must be a file of torch.save, or x.npz of numpy.savez. "
            f"Received: {path}, which begins as neither. "
            "Save the state dict with torch.save(model.state_dict(), 'x.pt')."
        )
    try:
        if npz:
            with np.load(path, allow_pickle=False) as stored:
                return dict(stored)
        return importlib.import_module("torch").load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise UsageError(
            "PyTorch checkpoints require the torch package. Received: no such package; pip install torch, or "
            f"elsewhere write {WRITE_NPZ}."
        ) from error
    except Exception as error:  # torch, pickle and zipfile raise all kinds for a damaged or foreign file
        reason = first_line(error)[:150]
        if npz:
            required, remedy = "a file of numpy.savez, of numbers", f"Write it with {WRITE_NPZ}."
        else:
            required = "readable with weights_only=True"
            remedy = "Save the state dict alone with torch.save."
        raise UsageError(f"checkpoint must be {required}. Received: {path} ({reason}). {remedy}") from error


def entry_of(content: Any, entry: str | None) -> Mapping[str, Any]:
    """Returns the state dict in a file: `entry`, the content itself, or its one entry that looks like one.

    Args:
        content: as `read_checkpoint` returns it.
        entry: its name in the file; None where there is one only.

    Raises:
        UsageError: there is none, or there are several.
    """
    if _is_state(content):
        if entry is None:
            return content
        raise UsageError(
            "the checkpoint is one state dict, without entries. "
            f"Received: entry={show_text(entry)}; leave it out."
        )
    found = {k: v for k, v in content.items() if _is_state(v)} if isinstance(content, Mapping) else {}
    if entry in found or (entry is None and len(found) == 1):
        return found[entry] if entry else next(iter(found.values()))
    if not found and isinstance(content, Mapping):
        there = ", ".join(show_text(name, 40) for name in [*content][:4]) or "nothing"
        raise UsageError(
            "checkpoint must hold a state dict, arrays by the names that PyTorch gave them, such as "
            f"conv1.weight. Received: {there}{', ...' if len(content) > 4 else ''}; write it with "
            f"torch.save(model.state_dict(), 'x.pt') or {WRITE_NPZ}."
        )
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
            raise UsageError(f"{key} must be finite. Received: an array with NaN or infinity.")
    return arrays
