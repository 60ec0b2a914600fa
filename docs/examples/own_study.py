"""A study of one's own: the loss under random noise of the size of ε, compared with that under attack."""

import dataclasses

import keras
import numpy as np

import advtf
from advtf.figures.style import Heading, legend_above, sheet
from advtf.settings.fields import Settings, setting, whole
from advtf.studies import STUDIES, Study


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseSettings(Settings):
    """Settings of the study ``noise``; each is also a flag of ``python -m advtf.analyze``."""

    draws: int = setting("noise", whole(1), "number of random perturbations", 20)


def run(context):
    """Writes noise.json and noise.png."""
    (classifier,), random = context.classifiers, np.random.default_rng(context.settings.seed)
    mean_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def loss(images):
        return float(mean_loss(context.y, classifier.logits_fn(np.clip(images, 0, 1).astype("float32"))))

    signs = (random.choice([-1.0, 1.0], context.x.shape) for _ in range(context.settings.draws))
    noisy = [loss(context.x + context.epsilon * sign) for sign in signs]
    attacked = loss(context.adversarial_examples(classifier))
    record = context.write_json("noise", {"noisy": noisy, "attacked": attacked})
    heading = Heading("Loss under random noise, and under attack", str(context.about))
    with sheet(context.folder / "noise.png", heading, rows=1, height=2, shared=False) as (axes,):
        axes.hist(noisy, label="random noise")
        axes.axvline(attacked, color="black", label="under attack")
        axes.set(xlabel="loss (nats)", ylabel="draws of the noise")
        legend_above(axes, axes.get_legend_handles_labels()[0])
    return [record, context.folder / "noise.png"]


STUDIES["noise"] = Study(run, NoiseSettings)

if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    images = advtf.load_data("digits").train
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images.images, images.labels, epochs=5, verbose=0)
    x, y = images.images[:200], images.labels[:200]
    found = advtf.analyze(model, x, y, study="noise", epsilon=0.1, draws=5, out_dir="runs/own-study")
    print(f"loss {np.mean(found['noisy']):.2f} under noise, {found['attacked']:.2f} under attack")
