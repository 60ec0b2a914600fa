"""Converts a PyTorch checkpoint of a published network into an exported classifier.

python -m advtf.convert --checkpoint=resnet_8_eps8.ckpt --out_dir=saved_models/resnet18
python -m advtf.convert --checkpoint=wrn.pt --out_dir=saved_models/wrn --activation=silu \\
    --mean=0.4914,0.4822,0.4465 --std=0.2471,0.2435,0.2616
python -m advtf.convert --checkpoint=preact.pt --out_dir=saved_models/preact --shortcut=raw
"""

import dataclasses
import hashlib
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from advtf.classifiers.manifest import require_replaceable
from advtf.classifiers.pytorch import (
    CONVERTIBLE,
    SMALLEST_IMAGE,
    AmbiguousNetwork,
    converted,
    entry_of,
    read_checkpoint,
)
from advtf.classifiers.reference_logits import read_reference
from advtf.errors import UsageError
from advtf.models import ACTIVATIONS, VARIANTS
from advtf.settings import commands
from advtf.settings.fields import Parser, Settings, choice, number, setting, switch, text, whole
from advtf.settings.memory import require_memory

COMPARED_IMAGES = 8  # random ones, for which the export must give the logits of the network


def _channels(value: Any) -> tuple[float, ...]:
    values = value.split(",") if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)):
        raise TypeError("not a list")
    return tuple(map(number, values))


def _positive_channels(value: Any) -> tuple[float, ...]:
    found = _channels(value)
    if min(found) <= 0:
        raise ValueError("not positive")
    return found


CHANNELS = Parser(_channels, "one number, or one per channel with commas between")
SCALES = Parser(_positive_channels, "one number above 0, or one per channel with commas between")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertOptions(Settings):
    """What to convert, and where to."""

    checkpoint: str | None = setting("convert", text(), "file of torch.save or numpy.savez", None)
    out_dir: str | None = setting("convert", text(), "SavedModel to write", None)
    model: str | None = setting(
        "convert", choice(CONVERTIBLE), "expected model; default recognised by names", None
    )
    entry: str | None = setting("convert", text(), "state dict in the file, if it has several", None)
    activation: str = setting("convert", choice(ACTIVATIONS), "activation function", "relu")
    shortcut: str | None = setting(
        "convert",
        choice(VARIANTS["shortcut"]),
        "input of the 1×1 shortcuts, where the checkpoint does not tell",
        None,
    )
    stride_in: str | None = setting(
        "convert", choice(VARIANTS["stride_in"]), "the convolution that strides; default as published", None
    )
    image_size: int | None = setting(
        "convert", whole(SMALLEST_IMAGE), "side of the images; default 32, LeNet's own", None
    )
    mean: tuple | None = setting("convert", CHANNELS, "subtracted from the pixels, per channel", None)
    std: tuple | None = setting("convert", SCALES, "divides the pixels after that, per channel", None)
    check_images: str | None = setting(
        "convert", text(), "NPZ of images and logits that the network must reproduce", None
    )
    overwrite: bool = setting("convert", switch(), "replace an earlier export in out_dir", False)
    verbose: bool = setting("convert", switch(), "show TensorFlow's start-up messages", False)

    def check(self) -> None:
        """Refuses options without a checkpoint or a place for the export."""
        for name in ("checkpoint", "out_dir"):
            if getattr(self, name) is None:
                raise UsageError(f"{name} must be given. Received: no --{name}.")
        if self.image_size is not None:
            require_memory(
                "the images that are compared",
                COMPARED_IMAGES * self.image_size**2 * np.dtype(np.float32).itemsize,
                f"image_size={self.image_size}",
                "Choose a smaller --image_size.",
            )


def main(argv: list[str]) -> None:
    """Converts one checkpoint and exports it; exits with 2 for a mistake."""
    del argv
    options = ConvertOptions.of(commands.given_flags(flags.FLAGS, ConvertOptions))
    path = Path(options.checkpoint)
    state = entry_of(read_checkpoint(path), options.entry)  # TensorFlow starts after these three
    reference = None if options.check_images is None else read_reference(options.check_images)
    require_replaceable(Path(options.out_dir), options.overwrite, "out_dir")

    from advtf import runtime

    runtime.import_tensorflow(options.verbose)
    from advtf.classifiers.export import export_classifier

    settings = {name: getattr(options, name) for name in ("image_size", "activation", "mean", "std")}
    variant = {name: getattr(options, name) for name in VARIANTS}
    try:
        made = converted(state, options.model, reference=reference, **settings, **variant)
    except AmbiguousNetwork as error:
        remedy = f"Let --check_images decide, or run one of: {_commands(error.choices)}"
        raise UsageError(f"{error.reason} {remedy}") from error
    classifier, layout = made.classifier, made.layout
    shape = classifier.input_shape[1:]
    source = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    metadata = {"converted_from": source, "network": str(layout), "settings": settings | layout.size}
    if reference:
        metadata["reference_logits"] = _record(reference, made)
    exported = export_classifier(
        classifier,
        options.out_dir,
        metadata=metadata,
        sample=np.random.default_rng(0).random((COMPARED_IMAGES, *shape), np.float32),
        overwrite=options.overwrite,
    )
    print(f"network       {layout}, {options.activation}")
    print(f"images        {'×'.join(map(str, shape))}, {classifier.output_shape[1]} classes")
    if reference:
        print(f"logits        differ by {made.difference:.2g} at most from those in {reference.path}")
    for name, difference in made.rejected.items():
        print(f"not           {name}, whose logits differ by {difference:.2g}")
    for hint in made.hints:
        print(f"hint          {hint}")
    print(f"\nWrote {exported}")


def _commands(choices):
    """Returns the command as it was typed, completed by each of the choices."""
    typed = shlex.join(["python", "-m", "advtf.convert", *sys.argv[1:]])
    flags_of = [" ".join(f"--{name}={value}" for name, value in choice.items()) for choice in choices]
    return "  or  ".join(f"{typed} {given}" for given in flags_of)


def _record(reference, made):
    differences = {"largest_difference": made.difference, "tolerance": reference.tolerance}
    return {"file": reference.path.name, "images": len(reference.images), **differences}


if __name__ == "__main__":
    commands.run_command(main, ConvertOptions)
