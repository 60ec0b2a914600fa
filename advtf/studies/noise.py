"""The study ``noise``: curvature and the strength of attacks over variants with noise on the weights.

Li & Spratling 2023, section 4.3 and figure 4a. Each variant adds uniform noise U(−s, s) to every weight,
where s is drawn from U(0, noise_scale).
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from advtf.figures.input_experiments import weight_noise
from advtf.landscape.statistics import rank_correlation
from advtf.studies.context import StudyContext
from advtf.studies.strength import HEADER, Strength, kept, line


def run(context: StudyContext) -> list[Path]:
    """Writes noise.json and noise.png, and tells a line for each variant and the correlations.

    Every variant is kept as soon as it is measured. The running averages of BatchNorm are those of the
    classifier.

    Raises:
        UsageError: a classifier without second derivatives, or a folder with the state of another study.
    """
    strength, parameters = Strength(context), context.classifiers[0].parameters
    cache = context.cache(parameters.value(), context.x, context.y)
    records = {"0": kept(cache, "0", lambda: {"scale": 0.0} | strength())}
    context.say(HEADER)
    context.say(line("s = 0", records["0"]))
    for number in range(1, context.settings.variants + 1):
        records[str(number)] = kept(cache, str(number), lambda n=number: _variant(strength, n))
        context.say(line(f"s = {records[str(number)]['scale']:.3f}", records[str(number)]))
    found = correlations(list(records.values()))
    for name, each in found.items():
        interval = "" if each["low"] is None else f"  [{each['low']:.2f}, {each['high']:.2f}]"
        shown = "none" if each["rho"] is None else f"{each['rho']:.2f}"
        context.say(f"Spearman's ρ, {name}: {shown}{interval}, {each['points']} variants")
    about = context.about.only("train", "test").replaced(attack=None).to_json()
    results = context.write_json("noise", {"about": about, "records": records, "correlations": found})
    return [results, weight_noise(results, context.folder / "noise.png")]


def _variant(strength, number):
    """Measures the variant of this number, and restores the weights."""
    settings, parameters = strength.settings, strength.classifier.parameters
    rng = np.random.default_rng([settings.seed, number])
    scale = float(rng.uniform(0, settings.noise_scale))
    noise = rng.uniform(-scale, scale, parameters.size)
    if not settings.absolute_noise:
        # An s of 1 is more than any weight of a usual network, so the unit is that of its own tensor.
        variables = [variable.numpy().ravel() for variable in parameters.variables]
        noise *= np.concatenate([np.full(v.size, np.sqrt(np.mean(v**2.0))) for v in variables])
    with parameters.at(parameters.value() + noise):
        return {"scale": scale} | strength()


def correlations(records: list[dict]) -> dict[str, dict]:
    """Returns the rank correlation of each attack's effectiveness with IG and HS, over the variants.

    Returns:
        ``"<attack>, <measure>"`` -> rho with its bootstrap interval, as `RankCorrelation` has them.
    """
    found = {}
    for attack in ("fgsm", "pgd10"):
        for measure in ("ig", "hs"):
            pairs = [(record[measure]["mean"], record[attack]["mean"]) for record in records]
            known = [pair for pair in pairs if None not in pair]
            if known:
                found[f"{attack}, {measure}"] = asdict(rank_correlation(*zip(*known, strict=True)))
    return found
