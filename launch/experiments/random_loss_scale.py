"""The scale of L_ε(θ): its mean over random θ for several ε (Liu et al. 2020, appendix C.2.2).

    python -m launch.experiments.random_loss_scale --num_examples 2000
    python -m launch.experiments.random_loss_scale --dataset cifar10 --model resnet18 --num_examples 500

The θ are independent initialisations of the architecture, the same for every ε; the attack is the one that
the data set is trained with, and the mean is over the first training images. Prints a table and writes
runs/random-loss-<dataset>-<model>.json. Published: CIFAR-10 2.3034, 2.3044, 2.3053, 2.3071 for ε = 0, 2, 4,
8/255; MNIST 2.3029, 2.3414, 2.3424, 2.3429, 2.3432 for ε = 0, 0.1, 0.2, 0.3, 0.4.
"""

from pathlib import Path

from advtf.settings.commands import exit_on_usage_error
from launch.common.arguments import parser

EPSILONS = {"mnist": ("0", "0.1", "0.2", "0.3", "0.4"), "cifar10": ("0", "2/255", "4/255", "8/255")}


def main():
    made = parser(__doc__)
    made.add_argument("--dataset", default="mnist", choices=list(EPSILONS))
    made.add_argument("--model")
    made.add_argument("--width")
    made.add_argument("--num_examples", type=int, default=2000)
    made.add_argument("--draws", type=int, default=10)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--data_dir")
    chosen = made.parse_args()

    from advtf.runtime import start
    from advtf.training.settings import TrainConfig

    start("float32", "off")
    names = ("dataset", "model", "width", "seed")
    given = {name: getattr(chosen, name) for name in names}
    configs = [TrainConfig.of({**given, "eps": epsilon}) for epsilon in EPSILONS[chosen.dataset]]
    measured = list(measure(chosen, configs))

    from advtf.storage.files import provenance, write_json

    path = Path(f"runs/random-loss-{chosen.dataset}-{configs[0].model}.json")
    path.parent.mkdir(exist_ok=True)
    settings = {"width": configs[0].width, "examples": chosen.num_examples, "seed": chosen.seed}
    write_json(path, provenance() | settings | {"results": measured})
    print(path)


def measure(chosen, configs):
    """Yields one record per ε and prints it."""
    from advtf.classifiers.classifier import as_classifier
    from advtf.data import sets as data
    from advtf.data.arrays import to_unit_float
    from advtf.landscape.random_loss import random_loss
    from advtf.settings.threat import format_epsilon
    from advtf.training.run import build_attack, build_classifier

    images = data.load(chosen.dataset, chosen.data_dir)
    part = images.train.select(slice(chosen.num_examples))
    x, y = to_unit_float(part.images).numpy(), part.labels
    classifier = as_classifier(build_classifier(configs[0], images), movable=True)
    print(f"{'ε':<8}{'mean L_ε':>20}", flush=True)
    for config in configs:
        found = random_loss(
            classifier, x, y, build_attack(config), config.eps, draws=chosen.draws, seed=chosen.seed
        )
        print(f"{format_epsilon(config.eps):<8}{found.estimate!s:>20}", flush=True)
        shown = found.estimate.to_json()
        yield {
            "epsilon": config.eps,
            "losses": found.losses.tolist(),
            "mean": shown["mean"],
            "standard_error": shown["standard_error"],
        }


if __name__ == "__main__":
    with exit_on_usage_error():
        main()
