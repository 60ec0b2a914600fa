"""Weaker training examples, a more curved landscape: one epoch of training with degraded PGD20 perturbations.

    python -m launch.experiments.degraded_training --model=EXPORT --out=runs/degraded
    python -m launch.experiments.degraded_training --model=EXPORT --out=DIR --steps=100 --num_examples=500

EXPORT is a classifier such as saved_models/mnist-cosine-eps0.3/last. From its weights, the experiment trains
for one epoch on PGD20 perturbations that are multiplied by a factor, or of which a part has its sign
reversed; then it measures IG, HS and the effectiveness of FGSM and PGD10 on training images, relative to
PGD50 (cf. Li & Spratling 2023, Fig. 4b and c). The effectiveness of the degraded training examples themselves
is the mean over --moments points of the epoch. The optimizer is that of the model's training, without its
state, at a tenth of its initial learning rate unless --lr is given; the paper does not name the rate. Every
variant sees the same batches. The results go to <out>/degraded_training.json, from which the figure is drawn;
what is finished is not repeated, so a killed experiment is continued by the same command.
"""

import itertools
from pathlib import Path

import numpy as np

from advtf.figures.input_experiments import degraded_training
from advtf.settings.commands import exit_on_usage_error
from advtf.training.presets import order_as_trained
from launch.common.input_landscape import (
    HEADER,
    Landscape,
    Records,
    about,
    add_spectrum,
    identity,
    line,
    load,
    parser,
)

OWN = ("steps", "lr", "moments", "hs_examples", "eigenvalues")


def arguments():
    made = parser(__doc__, examples=1000)
    add_spectrum(made, 200)
    made.add_argument("--factors", type=float, nargs="*", default=[0, 0.2, 0.4, 0.6, 0.8, 1])
    made.add_argument("--flips", type=float, nargs="*", default=[0.1, 0.2, 0.3, 0.4, 0.5])
    made.add_argument("--steps", type=int, help="batches of the epoch [all]")
    made.add_argument("--lr", type=float, help="[a tenth of the training's initial one]")
    made.add_argument("--moments", type=int, default=4, help="points of the epoch that are assessed")
    return made.parse_args()


def main():
    chosen = arguments()
    classifier, images, settings = load(chosen)
    training = Training(classifier, settings, chosen)
    landscape = Landscape(
        classifier, images, settings, hs_examples=chosen.hs_examples, eigenvalues=chosen.eigenvalues
    )
    # Variants may be added later, by another grid: each is a record of its own.
    known = identity(images, settings, chosen, *OWN)
    records = Records(Path(chosen.out) / "degraded_training.json", known, about(images))
    print(f"{HEADER}{'train':>10}", flush=True)
    before = records.measured("before", landscape)
    print(line("before", before), flush=True)
    for kind, value in [("scaled", f) for f in chosen.factors] + [("flipped", f) for f in chosen.flips]:
        found = records.measured(
            f"{kind} {value:g}", lambda k=kind, v=value: variant(training, landscape, k, v)
        )
        mean = found["train"]["mean"]
        print(line(f"{kind} {value:g}", found) + f"{np.nan if mean is None else mean:>10.4g}", flush=True)
    print(records.path)
    print(degraded_training(records.path, Path(chosen.out) / "degraded_training.png"))


def variant(training, landscape, kind, value):
    """Trains on one kind of degraded examples, measures, and gives the classifier its weights back."""
    from advtf.attacks import degraded
    from advtf.attacks.pgd import pgd

    attack = getattr(degraded, kind)(pgd(landscape.settings.norm, 20, 0.25), value)
    variance = landscape.variance(attack)
    model, weights = landscape.classifier.model, landscape.classifier.model.get_weights()
    try:
        moments = [landscape.effectiveness(variance) for _ in training.run(attack)]
        measured = landscape()
    finally:
        model.set_weights(weights)
    known = [moment for moment in moments if moment is not None]
    train = {"mean": float(np.mean(known)) if known else None, "moments": moments}
    return {"kind": kind, "value": value, "train": train} | measured


class Training:
    """One epoch of the model's own training, with another attack each time."""

    def __init__(self, classifier, settings, chosen):
        from advtf.data import sets as data
        from advtf.data.batches import steps_per_epoch_of
        from advtf.errors import UsageError

        self.classifier, self.settings, self.chosen = classifier, settings, chosen
        self.config = classifier.config
        if classifier.model is None or not self.config:
            raise UsageError(
                f"model must be a classifier trained and exported by advtf. Received: {chosen.model}."
            )
        names = ("val_fraction", "train_examples", "image_size")
        chosen_then = {name: self.config.get(name) for name in names}
        order = order_as_trained(self.config, settings.dataset)
        self.split = data.load(settings.dataset, chosen.data_dir, order=order, **chosen_then).train
        self.steps = chosen.steps or steps_per_epoch_of(self.split, self.config["batch_size"])

    def run(self, attack):
        """Trains the classifier's model on the attack; yields at each moment, the first before any step."""
        from advtf.data.batches import training_batches
        from advtf.training.trainer import AdversarialTrainer

        trainer = AdversarialTrainer(self.classifier.model, attack, self.settings.eps, seed=self.chosen.seed)
        trainer.compile(self._optimizer(), jit_compile=False)
        stops = np.linspace(0, self.steps, self.chosen.moments).astype(int).tolist()
        yield
        for start, end in itertools.pairwise(stops):
            batches = training_batches(
                self.split, self.config["batch_size"], seed=self.chosen.seed, steps_per_epoch=self.steps,
                start_step=start, total_steps=end, augment=self.config["augment"],
            )  # fmt: skip
            trainer.fit(batches, steps_per_epoch=end - start, shuffle=False, verbose=0)
            yield

    def _optimizer(self):
        from advtf.training.optimizers import build_optimizer

        names = ("momentum", "nesterov", "weight_decay")
        kept = {name: self.config[name] for name in names} | {
            "decoupled": self.config["decoupled_weight_decay"]
        }
        return build_optimizer(self.config["optimizer"], self.chosen.lr or self.config["lr"] / 10, **kept)


if __name__ == "__main__":
    with exit_on_usage_error():
        main()
