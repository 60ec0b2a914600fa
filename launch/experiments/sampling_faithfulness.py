"""How many images a measure of the input landscape needs: means of subsets against the mean of all.

    python -m launch.experiments.sampling_faithfulness --model=EXPORT --out=runs/sampling
    python -m launch.experiments.sampling_faithfulness --model=EXPORT --out=DIR --trials=10000

EXPORT is a classifier such as saved_models/mnist-cosine-eps0.3/last. The experiment measures IG, HS and the
effectiveness of FGSM and PGD10 of each image (test images, unless --split chooses the others), then draws
random subsets of growing size (cf. Li & Spratling 2023, appendix A3 and Fig. A3, with 10,000 images and
trials). The measures of the images go to <out>/images.json, batch by batch, so that a killed experiment
continues; the means of the subsets go to <out>/sampling_faithfulness.npz, from which the figure is drawn.
"""

import dataclasses
from pathlib import Path

import numpy as np

from advtf.figures.input_experiments import sampling_faithfulness
from advtf.settings.commands import exit_on_usage_error
from launch.common.input_landscape import Landscape, Records, about, identity, load, parser

SIZES = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
MEASURES = ("ig", "hs", "fgsm", "pgd10")


def main():
    made = parser(__doc__, split="test")
    made.add_argument("--eigenvalues", type=int, default=20)
    made.add_argument("--trials", type=int, default=1000)
    made.add_argument(
        "--sizes", type=int, nargs="+", default=SIZES, help="those above the images are left out"
    )
    chosen = made.parse_args()
    classifier, images, settings = load(chosen)
    known = identity(images, settings, chosen, "eigenvalues", "batch_size")
    records = Records(Path(chosen.out) / "images.json", known)
    values = measure(classifier, images, settings, chosen, records)
    path = Path(chosen.out) / "sampling_faithfulness.npz"
    write(path, values, chosen, about(images))
    print(path)
    print(sampling_faithfulness(path, path.with_suffix(".png")))


def measure(classifier, images, settings, chosen, records):
    """Returns name -> values of each measure, of the images for which it is defined."""
    batch = chosen.batch_size
    first = dataclasses.replace(images, x=images.x[:batch], y=images.y[:batch])
    landscape = Landscape(classifier, first, settings, eigenvalues=chosen.eigenvalues)
    parts = []
    for start in range(0, len(images.x), batch):
        landscape.x, landscape.y = images.x[start : start + batch], images.y[start : start + batch]
        parts.append(records.measured(str(start), lambda: image_values(landscape)))
        print(f"{min(start + batch, len(images.x)):>6} of {len(images.x)} images", flush=True)
    return {name: np.concatenate([part[name] for part in parts]) for name in MEASURES}


def image_values(landscape):
    """Returns name -> list; the effectiveness only of the images for which it is defined."""
    measures, variance = landscape.per_image()
    kept = measures.assessable
    effectiveness = {"fgsm": measures.av, "pgd10": variance}
    ratios = {name: av[kept] / measures.av_reference[kept] for name, av in effectiveness.items()}
    return {"ig": measures.ig.tolist(), "hs": measures.hs.tolist()} | {
        name: ratio.tolist() for name, ratio in ratios.items()
    }


def write(path, values, chosen, told):
    """Draws the subsets, prints how far their means stray, and writes everything."""
    from advtf.errors import UsageError
    from advtf.landscape.statistics import subset_means
    from advtf.storage.files import write_atomically

    arrays = {"about": told.array()}
    print(f"{'':<8}{'mean':>10}  largest deviation of the mean of n images, %: n =")
    for name in MEASURES:
        found = values[name]
        if not found.any():
            raise UsageError(
                f"model must react to its input. Received: {chosen.model}, whose {name} is 0 or undefined "
                "for every image; is it a constant classifier?"
            )
        sizes = [size for size in sorted(chosen.sizes) if size <= len(found)] or [len(found)]
        means = subset_means(found, sizes, chosen.trials, chosen.seed)
        arrays |= {f"{name}_values": found, f"{name}_sizes": np.array(sizes), f"{name}_means": means}
        strays = 100 * np.abs(means / found.mean() - 1).max(axis=0)
        shown = "".join(f"{size:>8}: {stray:<5.3g}" for size, stray in zip(sizes, strays, strict=True))
        print(f"{name:<8}{found.mean():>10.4g}{shown}")
    write_atomically(path, lambda file: np.savez(file, **arrays))


if __name__ == "__main__":
    with exit_on_usage_error():
        main()
