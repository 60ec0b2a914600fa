"""Converts a PyTorch checkpoint of a published network into an exported classifier.

python -m advtf.convert --checkpoint=resnet_8_eps8.ckpt --out_dir=saved_models/resnet18
python -m advtf.convert --checkpoint=wrn.pt --out_dir=saved_models/wrn --activation=silu \\
    --mean=0.4914,0.4822,0.4465 --std=0.2471,0.2435,0.2616
"""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
from absl import flags

from advtf.classifiers.manifest import require_replaceable
from advtf.classifiers.pytorch import SMALLEST_IMAGE, converted, read_checkpoint
from advtf.errors import UsageError
from advtf.models import ACTIVATIONS
from advtf.settings import commands
from advtf.settings.fields import Parser, Settings, choice, number, setting, switch, text, whole
from advtf.settings.memory import require_memory

COMPARED_IMAGES = 8  # random ones, for which the export must give the logits of the network

channels = Parser(
    lambda value: tuple(map(number, value.split(",") if isinstance(value, str) else value)),
    "one number, or one per channel with commas between",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertOptions(Settings):
    """What to convert, and where to."""

    checkpoint: str | None = setting("convert", text(), "file of torch.save or numpy.savez", None)
    out_dir: str | None = setting("convert", text(), "SavedModel to write", None)
    model: str | None = setting("convert", text(), "expected model; default recognised by names", None)
    entry: str | None = setting("convert", text(), "state dict in the file, if it has several", None)
    activation: str = setting("convert", choice(ACTIVATIONS), "activation function", "relu")
    image_size: int | None = setting(
        "convert", whole(SMALLEST_IMAGE), "side of the images; default 32, LeNet's own", None
    )
    mean: tuple | None = setting("convert", channels, "subtracted from the pixels, per channel", None)
    std: tuple | None = setting("convert", channels, "divides the pixels after that, per channel", None)
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
    content = read_checkpoint(path)  # this and the next answer before TensorFlow starts
    require_replaceable(Path(options.out_dir), options.overwrite, "out_dir")

    from advtf import runtime

    runtime.import_tensorflow(options.verbose)
    from advtf.classifiers.export import export_classifier

    settings = {name: getattr(options, name) for name in ("image_size", "activation", "mean", "std")}
    classifier, layout = converted(content, options.model, entry=options.entry, **settings)
    shape = classifier.input_shape[1:]
    source = {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    exported = export_classifier(
        classifier,
        options.out_dir,
        metadata={"converted_from": source, "network": str(layout), "settings": settings},
        sample=np.random.default_rng(0).random((COMPARED_IMAGES, *shape), np.float32),
        overwrite=options.overwrite,
    )
    print(f"network       {layout}, {options.activation}")
    print(f"images        {'×'.join(map(str, shape))}, {classifier.output_shape[1]} classes")
    if "normalisation" not in [layer.name for layer in classifier.layers]:
        print("normalisation none; give --mean and --std if the network was trained with one")
    print(f"\nWrote {exported}")


if __name__ == "__main__":
    commands.run_command(main, ConvertOptions)
