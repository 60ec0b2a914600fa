"""What a training needs of the machine, from its settings alone: memory at least, and cores."""

from advtf.data import prepared
from advtf.data.registry import entry_of, tfds_directory
from advtf.models import parameter_count, training_bytes
from advtf.settings.memory import has_gpu, require_memory
from advtf.training.settings import RunOptions, TrainConfig

# A lower bound for data sets whose images are not known before they are read.
_SMALLEST_IMAGE, _FEWEST_CLASSES = (8, 8, 1), 2

# Measured on two cores: with one thread a step of a LeNet with 0.6 MB of activations takes 0.6 of the time
# that it takes with two, and a step with 2.4 MB a tenth more.
_SHARED_BYTES = 1e6


def require_training_memory(config: TrainConfig, options: RunOptions) -> None:
    """Checks that the images and a training step fit into the memory of this machine.

    Both are lower estimates: the images are counted as they lie in memory, a byte for each value, unless they
    may stay on the disk, and the step by `advtf.models.training_bytes`. With a strategy the step counts with
    a batch of one image, because each device holds a share of the batch. Where there is a GPU, the
    activations are in its memory and do not count; the weights count, because they are initialised and saved
    on the machine.

    Args:
        config: the settings of the training. A data set that is not in `DATASETS` counts by its smallest
            possible image.
        options: where the images are kept and read from.

    Raises:
        UsageError: they do not fit; the message has the settings and the estimate.
    """
    entry = entry_of(config.dataset)
    network = _network(config, entry)
    height, width, channels = network[1]
    resized = "" if config.image_size is None else f", image_size={config.image_size}"
    in_memory = None if _may_stay_on_disk(config, options) else entry.examples
    to_disk = (
        ", or prepare the data by TFDS with file_format=array_record"
        if in_memory and entry.read is None
        else ""
    )
    require_memory(
        "the images",
        (in_memory or config.batch_size) * height * width * channels,
        f"dataset={config.dataset}{resized}, batch_size={config.batch_size}",
        f"Choose a smaller --image_size or --batch_size{to_disk}.",
    )
    size = ", ".join(f"{name}={value}" for name, value in config.network.items() if value is not None)
    batch = 0 if has_gpu() else 1 if config.strategy != "none" else config.batch_size
    require_memory(
        "a training step",
        training_bytes(*network, batch, **config.network),
        f"model={config.model}{', ' * bool(size)}{size}{resized}, batch_size={config.batch_size} with "
        f"{parameter_count(*network, **config.network):,} parameters",
        "Choose a smaller --width, --image_size or --batch_size.",
    )


def gains_from_threads(config: TrainConfig) -> bool:
    """Returns whether the operations of a training step are large enough for several cores to share each.

    Where the activations of a batch are small, handing out the shares takes longer than computing them.

    Args:
        config: the settings of the training. A data set counts as large where its images are not known yet.
    """
    entry = entry_of(config.dataset)
    if entry.input_shape is None:
        return True
    network = _network(config, entry)
    batch, none = (training_bytes(*network, size, **config.network) for size in (config.batch_size, 0))
    return batch - none > _SHARED_BYTES


def _network(config, entry):
    """Returns what determines the size of the classifier besides `config.network`."""
    height, width, channels = entry.input_shape or _SMALLEST_IMAGE
    if config.image_size is not None:
        height = width = config.image_size
    return config.model, (height, width, channels), entry.num_classes or _FEWEST_CLASSES


def _may_stay_on_disk(config: TrainConfig, options: RunOptions) -> bool:
    """Returns whether the images are read from the disk when they are needed, where they do not fit."""
    if options.images == "auto":
        return prepared.file_format(config.dataset, tfds_directory(options.data_dir)) == "array_record"
    return options.images == "disk"
