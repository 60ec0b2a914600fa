"""What a training needs of the machine's memory at least, from its settings alone."""

from advtf.data.registry import DATASETS, DataSet
from advtf.models import parameter_count, training_bytes
from advtf.settings.memory import has_gpu, require_memory
from advtf.training.settings import TrainConfig

# A lower bound for data sets whose images are not known before they are read.
_SMALLEST_IMAGE, _FEWEST_CLASSES = (8, 8, 1), 2


def require_training_memory(config: TrainConfig) -> None:
    """Checks that the images and a training step fit into the memory of this machine.

    Both are lower estimates: the images are counted as they lie in memory, a byte for each value, and the
    step by `advtf.models.training_bytes`. With a mirrored strategy the step counts with a batch of one image,
    because each device holds a share of the batch. Where there is a GPU, the activations are in its
    memory and do not count; the weights count, because they are initialised and saved on the machine.

    Args:
        config: the settings of the training. A data set that is not in `DATASETS` counts by its smallest
            possible image.

    Raises:
        UsageError: they do not fit; the message has the settings and the estimate.
    """
    entry = DATASETS.get(config.dataset, DataSet())
    height, width, channels = entry.input_shape or _SMALLEST_IMAGE
    if config.image_size is not None:
        height = width = config.image_size
    resized = "" if config.image_size is None else f", image_size={config.image_size}"
    require_memory(
        "the images",
        (entry.examples or config.batch_size) * height * width * channels,
        f"dataset={config.dataset}{resized}, batch_size={config.batch_size}",
        "Choose a smaller --image_size or --batch_size.",
    )
    network = config.model, (height, width, channels), entry.num_classes or _FEWEST_CLASSES
    size = ", ".join(f"{name}={value}" for name, value in config.network.items() if value is not None)
    batch = 0 if has_gpu() else 1 if config.strategy == "mirrored" else config.batch_size
    require_memory(
        "a training step",
        training_bytes(*network, batch, **config.network),
        f"model={config.model}{', ' * bool(size)}{size}{resized}, batch_size={config.batch_size} with "
        f"{parameter_count(*network, **config.network):,} parameters",
        "Choose a smaller --width, --image_size or --batch_size.",
    )
