"""Curvature and the strength of attacks over variants of one classifier with uniform noise on its weights.

    python -m launch.experiments.weight_noise --model=EXPORT --out=runs/weight-noise
    python -m launch.experiments.weight_noise --model=EXPORT --out=DIR --variants=20 --num_examples=500

EXPORT is a classifier such as saved_models/mnist-cosine-eps0.3/last. Each variant adds noise U(−s, s) to
every weight, where s is drawn from U(0, --max_scale), and is measured on training images: IG, HS, and the
effectiveness of FGSM and PGD10 relative to PGD50 (cf. Li & Spratling 2023, section 4.3 and Fig. 4a). s is in
units of the root mean square of the weight's own tensor, because an s of 1 is more than any weight of a usual
network; with --absolute it is in no unit, as the paper's text reads. The running averages of BatchNorm are
kept. At the end Spearman's ρ of the effectiveness with IG and HS over the variants is printed, with 95 %
bootstrap intervals. The results go to <out>/weight_noise.json, from which the figure is drawn; a killed
experiment is continued by the same command.
"""

from pathlib import Path

import numpy as np

from advtf.figures.input_experiments import weight_noise
from advtf.settings.commands import exit_on_usage_error
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


def arguments():
    made = parser(__doc__, examples=1000)
    add_spectrum(made, 200)
    made.add_argument("--variants", type=int, default=40)
    made.add_argument("--max_scale", type=float, default=1.0)
    made.add_argument("--absolute", action="store_true")
    return made.parse_args()


def main():
    chosen = arguments()
    classifier, images, settings = load(chosen)
    landscape = Landscape(
        classifier, images, settings, hs_examples=chosen.hs_examples, eigenvalues=chosen.eigenvalues
    )
    own = ("max_scale", "absolute", "hs_examples", "eigenvalues")
    records = Records(
        Path(chosen.out) / "weight_noise.json", identity(images, settings, chosen, *own), about(images)
    )
    print(HEADER, flush=True)
    print(line("s = 0", records.measured("0", lambda: {"scale": 0.0} | landscape())), flush=True)
    for number in range(1, chosen.variants + 1):
        found = records.measured(str(number), lambda n=number: variant(classifier, landscape, chosen, n))
        print(line(f"s = {found['scale']:.3f}", found), flush=True)
    records.more |= {"correlations": correlations(records.found.values())}
    records.write()
    for name, found in records.more["correlations"].items():
        interval = "" if found["low"] is None else f"  [{found['low']:.2f}, {found['high']:.2f}]"
        shown = "none" if found["rho"] is None else f"{found['rho']:.2f}"
        print(f"Spearman's ρ, {name}: {shown}{interval}, {found['points']} variants")
    print(records.path)
    print(weight_noise(records.path, Path(chosen.out) / "weight_noise.png"))


def variant(classifier, landscape, chosen, number):
    """Measures the variant of this number, and restores the weights."""
    rng, parameters = np.random.default_rng([chosen.seed, number]), classifier.parameters
    scale = float(rng.uniform(0, chosen.max_scale))
    noise = rng.uniform(-scale, scale, parameters.size)
    if not chosen.absolute:
        variables = [variable.numpy().ravel() for variable in parameters.variables]
        noise *= np.concatenate([np.full(v.size, np.sqrt(np.mean(v**2.0))) for v in variables])
    with parameters.at(parameters.value() + noise):
        return {"scale": scale} | landscape()


def correlations(records):
    """Returns the rank correlation of each attack's effectiveness with each measure, over the variants."""
    from dataclasses import asdict

    from advtf.landscape.statistics import rank_correlation

    found = {}
    for attack in ("fgsm", "pgd10"):
        for measure in ("ig", "hs"):
            pairs = [(r[measure]["mean"], r[attack]["mean"]) for r in records]
            kept = [pair for pair in pairs if None not in pair]
            if kept:
                found[f"{attack}, {measure}"] = asdict(rank_correlation(*zip(*kept, strict=True)))
    return found


if __name__ == "__main__":
    with exit_on_usage_error():
        main()
