"""How many steps PGD needs: robust accuracy and adversarial variance by the number of steps.

    python -m launch.experiments.pgd_convergence --model=EXPORT --out=runs/pgd-convergence

EXPORT is a classifier such as saved_models/mnist-cosine-eps0.3/last. PGD with steps of ε/4 from the same
random starts attacks training and test images (cf. Li & Spratling 2023, appendix A1 and Fig. A1, which
justify PGD50 as the reference of effectiveness). --split has no effect. The results go to
<out>/pgd_convergence.json, from which the figure is drawn; a killed experiment is continued by the same
command.
"""

from pathlib import Path

import numpy as np

from advtf.figures.input_experiments import pgd_convergence
from advtf.settings.commands import exit_on_usage_error
from launch.common.input_landscape import Records, about, identity, load, parser


def main():
    made = parser(__doc__)
    made.add_argument("--steps", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50, 100, 200])
    chosen = made.parse_args()
    classifier, images, settings = load(chosen)
    records = Records(
        Path(chosen.out) / "pgd_convergence.json", identity(images, settings, chosen), about(images)
    )
    splits = {"train": (images.x, images.y), "test": (images.x_test, images.y_test)}
    print(f"{'':<8}{'steps':>6}{'AV':>10}{'±':>9}{'robust accuracy (%)':>22}", flush=True)
    for split, (x, y) in splits.items():
        for steps in sorted(chosen.steps):
            found = records.measured(
                f"{split} {steps}",
                lambda name=split, pair=(x, y), k=steps: attacked(classifier, settings, name, pair, k),
            )
            av, error = found["av"]["mean"], found["av"]["standard_error"] or np.nan
            print(f"{split:<8}{steps:>6}{av:>10.5f}{error:>9.5f}{found['accuracy']:>22.2f}", flush=True)
    print(records.path)
    print(pgd_convergence(records.path, Path(chosen.out) / "pgd_convergence.png"))


def attacked(classifier, settings, split, pair, steps):
    """Returns mean adversarial variance and robust accuracy of PGD with this number of steps."""
    from advtf.attacks.pgd import pgd
    from advtf.landscape.objective import adversarial_examples
    from advtf.landscape.statistics import estimate

    (x, y), size = pair, settings.batch_size
    attack = pgd(settings.norm, steps, 0.25)
    label = f"{split}, {steps} steps"
    x_adv = adversarial_examples(
        classifier, x, y, attack, settings.eps, seed=settings.seed, batch_size=size, label=label
    )
    (clean, right), (robust, still) = (outcome(classifier, images, y, size) for images in (x, x_adv))
    accuracy = 100.0 * float(np.mean(right & still))
    return {"split": split, "steps": steps, "av": estimate(robust - clean).to_json(), "accuracy": accuracy}


def outcome(classifier, x, y, size):
    """Returns cross-entropy float64 (N,) and whether each image is classified correctly."""
    from advtf.landscape.input_hessian import exact_cross_entropy
    from advtf.landscape.objective import batches

    logits = np.concatenate([classifier.logits_fn(images).numpy() for images, _ in batches(x, y, size)])
    return exact_cross_entropy(y, logits).numpy(), logits.argmax(axis=1) == y


if __name__ == "__main__":
    with exit_on_usage_error():
        main()
