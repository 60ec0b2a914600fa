"""The entries of Li & Spratling 2023, "Understanding and Combating Robust Overfitting via Input Loss
Landscape Analysis and Regularization".

Robust overfitting is what the epochs after the best one cost of robust accuracy. The claims about it are
judged only where adversarial training itself loses at least 3 points.
"""

import functools
import itertools

import numpy as np

from advtf.errors import quantity
from advtf.landscape.statistics import rank_correlation
from launch.reproduce import readings
from launch.reproduce.columns import DEVIATION
from launch.reproduce.entry import Chart, Claim, Entry, Record, published_row
from launch.reproduce.scales import PREACT, TINY, WIDE
from launch.reproduce.verdicts import (
    FAILS,
    HOLDS,
    ONE_SIDED,
    OPEN,
    Interval,
    Judge,
    Verdict,
    exact,
    higher,
    larger,
    least_chance,
    lower,
    more,
    positive,
    provided,
    rises,
    seen_at_least,
    smaller,
    together,
    where_asked,
    within_bound,
)

PAPER = "li2023"
OVERFITS = 3.0  # points of PGD accuracy between the best and the last epoch
NO_OVERFITTING = "Adversarial training alone does not overfit robustly here: best − end must be 3 points."
FGSM_N, PGD = "FGSM-N AT", "PGD10 AT"
METHODS = {  # suffix of the recipe -> row of table 1
    "": "",
    "_igr": " + IGR",
    "_cure": " + CURE",
    "_gradalign": " + GradAlign",
    "_logitalign": " + LogitAlign",
    "_consistency": " + Consistency",
    "_kdsa": " + KDSA",
    "_kdsa_swa": " + KDSA + SWA",
    "_advlc": " + AdvLC",
    "_advlc_swa": " + AdvLC + SWA",
}
SMOOTHERS = [row for row in METHODS.values() if row and "SWA" not in row]


# Figures 1 to 3: along training -----------------------------------------------------------------------


def _along(lab):
    """The options that log the input landscape along a training."""
    return {
        "input_every": lab.scale.levels["input every"][0],
        "input_examples": lab.scale.levels["input examples"][0],
    }


WHEN = ("best", "last")
QUANTITIES = {"ig": "IG", "hs": "HS", "effectiveness": "effectiveness"}


def _with_ends(lab, runs, attacks):
    """Adds an analysis of the best and the last classifier of every training, its own attack assessed."""
    more = {
        f"{name}, {which}": lab.analyze("input", (run, which), assessed_attack=attacks[name])
        for name, run in runs.items()
        for which in WHEN
    }
    return runs | more


def _put_ends(runs, record, names):
    for name in names:
        readings.trained(record, name, runs[name])
        readings.overfitting(record, name, runs[name])
        for which in WHEN:
            readings.around_images(record, f"{name}, {which}", runs[f"{name}, {which}"])


def _put_courses(runs, record, names):
    """Adds the curves that were logged along the trainings."""
    for name in names:
        rows = readings.epochs(runs[name])
        record.curve("accuracy", name, *_percent(rows, "val_robust_accuracy"))
        for measure in QUANTITIES:
            for prefix, split in (("", "train"), ("val_", "validation")):
                found, values = readings.column(rows, f"{prefix}{measure}")
                if values and (split == "train" or measure == "ig"):
                    record.curve(measure, f"{name}, {split}", found, values)
        epochs, train = readings.column(rows, "av")
        _, held_out = readings.column(rows, "val_av")
        if train and len(train) == len(held_out):
            gaps = [there - here for here, there in zip(train, held_out, strict=True)]
            record.curve("av_gap", name, epochs, gaps)


def _percent(rows, name):
    found, values = readings.column(rows, name)
    return found, [100 * value for value in values]


COURSES = {
    "accuracy": Chart("Robust accuracy along training", "epoch", "PGD accuracy, validation (%)"),
    "ig": Chart("Slope of the loss around the images", "epoch", "IG (nats)", log=True),
    "hs": Chart("Curvature of the loss around training images", "epoch", "HS (nats)", log=True),
    "effectiveness": Chart("Effectiveness of the training attack", "epoch", "AV relative to PGD-50"),
    "av_gap": Chart("Adversarial variance: validation less training", "epoch", "difference of AV (nats)"),
}
BEST_AND_LAST = (
    "Compared are the best and the last epoch, whose classifiers are examined on more images than what is "
    "logged along the training; the curves show the whole course."
)


def _if_overfits(name):
    return functools.partial(provided, seen_at_least(f"{name}:gap", OVERFITS), NO_OVERFITTING)


def _figure1_runs(lab):
    runs = {
        "standard": lab.train(f"{WIDE}_standard", **_along(lab)),
        "FGSM-R AT": lab.train(f"{WIDE}_fgsm_r", **_along(lab)),
    }
    return _with_ends(lab, runs, {"standard": "pgd", "FGSM-R AT": "pgd"})


def _figure1(runs, record):
    names = ("standard", "FGSM-R AT")
    _put_ends(runs, record, names)
    _put_courses(runs, record, names)


FIGURE1 = Entry(
    PAPER,
    "figure1",
    "Figure 1, IG, HS and the adversarial variance along training",
    _figure1_runs,
    _figure1,
    (
        Claim(
            "Adversarial training overfits robustly: the gap of the adversarial variance between test and "
            "training images grows.",
            _if_overfits("FGSM-R AT")(more("FGSM-R AT, last:av_gap", "FGSM-R AT, best:av_gap", "nats")),
        ),
        Claim(
            "Standard training overfits robustly, too: its gap of the adversarial variance grows.",
            more("standard, last:av_gap", "standard, best:av_gap", "nats"),
        ),
        Claim(
            "Robust overfitting is milder in adversarial than in standard training: its gap at the end is "
            "smaller.",
            more("standard, last:av_gap", "FGSM-R AT, last:av_gap", "nats"),
        ),
        Claim(
            "At the end of adversarial training IG is larger on test than on training images.",
            _if_overfits("FGSM-R AT")(larger("FGSM-R AT, last:ig_test", "FGSM-R AT, last:ig_train")),
        ),
        Claim(
            "The loss around the images becomes more curved: HS grows along adversarial training.",
            _if_overfits("FGSM-R AT")(larger("FGSM-R AT, last:hs_train", "FGSM-R AT, best:hs_train")),
        ),
        Claim(
            "Standard training has a far larger HS than adversarial training, at the best epoch by more than "
            "a factor of 3.",
            larger("standard, best:hs_train", "FGSM-R AT, best:hs_train", times=3.0),
        ),
    ),
    charts=COURSES,
    note=BEST_AND_LAST,
)


def _figure2_runs(lab):
    runs = {"AT − 0·ST": lab.train(f"{WIDE}_fgsm_r", **_along(lab))}
    for alpha in lab.scale.levels["alphas"]:
        runs[f"AT − {alpha}·ST"] = lab.train(f"{WIDE}_fgsm_r_minus_st", strength=alpha)
    runs["ST + 0·IGR"] = lab.train(f"{WIDE}_standard", **_along(lab))
    for beta in lab.scale.levels["betas"]:
        runs[f"ST + {beta}·IGR"] = lab.train(f"{WIDE}_standard_igr", strength=beta)
    return runs | {
        f"{name}, landscape": lab.analyze("input", run, hs_examples=0) for name, run in runs.items()
    }


def _figure2(runs, record):
    record.expect([name for name in runs if not name.endswith(", landscape")], "gap", "adv_gap")
    for name, run in runs.items():
        if name.endswith(", landscape"):
            continue
        readings.trained(record, name, run)
        readings.overfitting(record, name, run)
        readings.around_images(record, name, runs[f"{name}, landscape"])


def _gap_falls(start):
    """The gap of the adversarial losses falls over the levels in the order of the rows.

    Where no order of so few levels could be significant, each step is judged by its interval.
    """

    def judge(measured):
        names = [name for name in measured.names() if name.startswith(start) and name.endswith(":adv_gap")]
        if least_chance(len(names), len(measured.by_seed)) < ONE_SIDED:
            return rises(names, falls=True)(measured)
        pairs = list(itertools.pairwise(names))
        steps = [" to ".join(name.partition(":")[0] for name in pair) for pair in pairs]
        return together(*(more(*pair, "nats") for pair in pairs), names=steps)(measured)

    return judge


FIGURE2 = Entry(
    PAPER,
    "figure2",
    "Figure 2, less clean loss, and more gradient regularisation",
    _figure2_runs,
    _figure2,
    (
        Claim(
            "The more of the clean loss is subtracted, AT − α·ST, the smaller is the gap of the adversarial "
            "losses between test and training images.",
            provided(seen_at_least("AT − 0·ST:gap", OVERFITS), NO_OVERFITTING, _gap_falls("AT − ")),
        ),
        Claim(
            "The stronger the gradients are regularised, ST + β·IGR, the smaller is the gap of the "
            "adversarial losses.",
            _gap_falls("ST + "),
        ),
    ),
    note="The gap is that of the classifiers of the last epoch, with standard errors over the images.",
)


ADVERSARIES = {"PGD10 AT": "pgd10", "FGSM-R AT": "fgsm_r", "FGSM AT": "fgsm"}


def _figure3_runs(lab):
    runs = {name: lab.train(f"{WIDE}_{recipe}", **_along(lab)) for name, recipe in ADVERSARIES.items()}
    return _with_ends(lab, runs, {"PGD10 AT": "pgd", "FGSM-R AT": "fgsm_r", "FGSM AT": "fgsm"})


def _figure3(runs, record):
    _put_ends(runs, record, ADVERSARIES)
    _put_courses(runs, record, ADVERSARIES)


FIGURE3 = Entry(
    PAPER,
    "figure3",
    "Figure 3, effectiveness of the training examples along training",
    _figure3_runs,
    _figure3,
    (
        *(
            Claim(
                f"{name}: the training examples become less effective.",
                _if_overfits(name)(
                    larger(f"{name}, best:effectiveness_train", f"{name}, last:effectiveness_train")
                ),
            )
            for name in ("PGD10 AT", "FGSM-R AT")
        ),
        *(
            Claim(
                f"{name}: the curvature HS around the training images grows.",
                _if_overfits(name)(larger(f"{name}, last:hs_train", f"{name}, best:hs_train")),
            )
            for name in ("PGD10 AT", "FGSM-R AT")
        ),
        Claim(
            "FGSM AT overfits catastrophically: its last epoch has a PGD error above 90 %.",
            seen_at_least("FGSM AT:pgd_error", 90.0, "%"),
        ),
    ),
    charts=COURSES,
    note=BEST_AND_LAST,
)


# Figure 4: controlled changes of the curvature --------------------------------------------------------


def _figure4_runs(lab):
    model = lab.train(f"{WIDE}_pgd10", **_along(lab))
    return {name: lab.analyze(name, model) for name in ("noise", "degraded")}


def _figure4(runs, record):
    found = readings.study(runs["noise"], "noise")
    if found:
        for pair, each in found["correlations"].items():
            if each["rho"] is not None:
                attack, measure = pair.split(", ")
                record.put(f"noise, {attack}", **{f"rho_{measure}": each["rho"]})
                if each["low"] is not None:
                    ends = {f"rho_{measure}_low": each["low"], f"rho_{measure}_high": each["high"]}
                    record.put(f"noise, {attack}", **ends)
        _put_drops(record, list(found["records"].values()))
    found = readings.study(runs["degraded"], "degraded")
    for each in found["records"].values() if found else ():
        if "kind" in each:
            row = f"{each['kind']} {each['value']:g}"
            record.put(row, hs=each["hs"]["mean"], hs_se=each["hs"]["standard_error"])
            record.put(row, fgsm=each["fgsm"]["mean"], pgd10=each["pgd10"]["mean"])
            record.put(row, train_effectiveness=each["train"]["mean"])


def _put_drops(record, variants):
    """Adds by how much more FGSM's effectiveness falls than PGD-10's, over the variants."""
    known = [
        (each["hs"]["mean"], each["fgsm"]["mean"], each["pgd10"]["mean"])
        for each in variants
        if None not in (each["hs"]["mean"], each["fgsm"]["mean"], each["pgd10"]["mean"])
    ]
    for name, column in (("fgsm", 1), ("pgd10", 2)):
        ordered = sorted(known)
        record.curve("noise", name, [each[0] for each in ordered], [each[column] for each in ordered])
    if len(known) < 6:
        return
    table = np.array(known)

    def difference(sample):
        ordered = sample[np.argsort(sample[:, 0], kind="stable")]
        third = len(ordered) // 3
        low, high = ordered[:third].mean(axis=0), ordered[-third:].mean(axis=0)
        return (low[1] - high[1]) - (low[2] - high[2])

    rng = np.random.default_rng(0)
    draws = [difference(table[rng.integers(0, len(table), len(table))]) for _ in range(2000)]
    low, high = np.quantile(draws, [0.025, 0.975])
    record.put("noise", drop_difference=difference(table), drop_difference_low=low, drop_difference_high=high)


def _degraded_levels(kind, column):
    def judge(measured):
        names = measured.names()
        rows = [name for name in names if name.startswith(f"{kind} ") and name.endswith(f":{column}")]
        levels = sorted(rows, key=lambda name: float(name.split(":")[0].split()[1]))
        return rises(levels, falls=kind == "scaled")(measured)

    return judge


VARIANTS = "variants of one classifier with noise on its weights"
FIGURE4 = Entry(
    PAPER,
    "figure4",
    "Figure 4, noise on the weights and degraded training examples",
    _figure4_runs,
    _figure4,
    (
        *(
            Claim(
                f"Over variants of a classifier with noise on its weights {shown} is the less effective, the "
                "larger HS is.",
                positive(f"noise, {attack}:rho_hs", "rank correlation", sign=-1, over=VARIANTS),
            )
            for attack, shown in (("fgsm", "FGSM"), ("pgd10", "PGD10"))
        ),
        Claim(
            "FGSM loses more effectiveness than PGD10: from the third with the smallest HS to that with the "
            "largest.",
            positive("noise:drop_difference", "", over=VARIANTS),
        ),
        Claim(
            "The smaller the factor on the perturbations that are trained on, the larger is HS afterwards.",
            _degraded_levels("scaled", "hs"),
        ),
        Claim(
            "The more of their signs are reversed, the larger is HS afterwards.",
            _degraded_levels("flipped", "hs"),
        ),
    ),
    charts={
        "noise": Chart("Effectiveness over noisy variants", "HS (nats)", "AV relative to PGD-50", points=True)
    },
    note=(
        "s of the noise is in units of the root mean square of each weight's own tensor, as an s of 1 is "
        "more than any weight of a usual network."
    ),
)


# Table 1 ----------------------------------------------------------------------------------------


def _table1_runs(lab, adversary):
    runs, by_seed = {}, lab.scale.levels[f"methods, {adversary}"]
    for suffix in by_seed[min(lab.seed, len(by_seed) - 1)]:
        augmented = {"augment": True} if suffix == "_consistency" else {}
        teachers = {}
        if suffix.startswith("_kdsa"):
            teachers = {"teachers": ((lab.train(f"{PREACT}_standard"), "last"), (runs[""], "best"))}
        run = lab.train(f"{PREACT}_{adversary}{suffix}", **augmented, **teachers)
        runs |= _table_row(lab, METHODS[suffix], run, "swa_" if suffix.endswith("_swa") else "")
    return runs


def _table_row(lab, row, run, prefix=""):
    """Returns a training with what a row of a table needs."""
    return {
        row: run,
        f"{row}, best": lab.evaluate(run, f"{prefix}best", **_robust(lab)),
        f"{row}, end": lab.evaluate(run, f"{prefix}last", **_robust(lab)),
        f"{row}, landscape": lab.analyze("input", (run, f"{prefix}last"), split="test"),
    }


def _robust(lab):
    """The attack of the paper's tables alone."""
    return {"attacks": "autoattack", "restarts": None}


def _table1(runs, record, title):
    rows = [f"{title}{row}" for row in runs if f"{row}, best" in runs]
    record.expect(rows, "clean_best", "clean_end", "robust_best", "robust_end", "robust_gap", "gap")
    for row, run in runs.items():
        if f"{row}, best" not in runs:
            continue
        name, prefix = f"{title}{row}", "swa_" if row.endswith("SWA") else ""
        _put_robust(record, name, runs[f"{row}, best"], runs[f"{row}, end"])
        readings.overfitting(record, name, run, f"{prefix}last")
        _put_landscape(record, name, runs[f"{row}, landscape"])
        if not prefix:
            record.curve("accuracy", name, *_percent(readings.epochs(run), "val_robust_accuracy"))


def _put_robust(record, name, best, end):
    """Adds the clean and the robust accuracy of the best and the last epoch, and how far they are apart."""
    found = {}
    for when, run in (("best", best), ("end", end)):
        part = Record()
        readings.attacked(part, "", run)
        if part.values:
            robust = part.values["autoattack"]
            found |= {f"clean_{when}": 100 - part.values["evaluated_clean_error"]}
            found |= {f"robust_{when}": 100 - robust, "attacked_images": part.values["attacked_images"]}
    if {"robust_best", "robust_end"} <= found.keys():
        found["robust_gap"] = found["robust_best"] - found["robust_end"]
    record.put(name, **found)


def _put_landscape(record, name, run):
    result = readings.study(run, "input")
    if result:
        found = result["models"][0]["splits"]["test"]
        for measure in ("ig", "hs"):
            mean, error = found[measure]["mean"], found[measure]["standard_error"]
            record.put(name, **{measure: mean, f"{measure}_se": error})


def _table1_claims(title):
    overfits = functools.partial(provided, seen_at_least(f"{title}:gap", OVERFITS), NO_OVERFITTING)
    images = {"images": f"{title}:attacked_images"}
    ours, averaged = f"{title} + AdvLC", f"{title} + AdvLC + SWA"
    others = [f"{title}{row}" for row in SMOOTHERS if row != " + AdvLC"]

    def compared(how, *pair):
        return where_asked(pair, how(*pair, **images))

    def against_others(measured):
        asked = [row for row in others if f"{row}:robust_best" in measured.names()]
        parts = (compared(higher, f"{ours}:robust_best", f"{row}:robust_best") for row in asked)
        return together(*parts, names=asked)(measured)

    def all_cost(measured):
        smooth = [row for row in (ours, *others) if "KDSA" not in row]
        asked = [row for row in smooth if f"{row}:clean_best" in measured.names()]
        parts = (compared(lower, f"{row}:clean_best", f"{title}:clean_best") for row in asked)
        return together(*parts, names=asked)(measured)

    return (
        Claim(
            "Adversarial training overfits robustly: its last epoch is less robust than its best.",
            higher(f"{title}:robust_best", f"{title}:robust_end", **images),
        ),
        Claim(
            "AdvLC is more robust than adversarial training alone, at the best epoch.",
            overfits(higher(f"{ours}:robust_best", f"{title}:robust_best", **images)),
        ),
        Claim(
            "AdvLC is more robust than adversarial training alone, at the last epoch.",
            overfits(higher(f"{ours}:robust_end", f"{title}:robust_end", **images)),
        ),
        Claim(
            "AdvLC makes robust overfitting (best − end) smaller.",
            overfits(lower(f"{ours}:robust_gap", f"{title}:robust_gap")),
        ),
        Claim(
            "AdvLC is the most robust of the regularisers at the best epoch.",
            overfits(against_others),
        ),
        Claim(
            "Averaged weights (SWA) make AdvLC more robust at the end.",
            overfits(compared(higher, f"{averaged}:robust_end", f"{ours}:robust_end")),
        ),
        Claim(
            "AdvLC lowers IG.",
            overfits(smaller(f"{ours}:ig", f"{title}:ig")),
        ),
        Claim(
            "AdvLC lowers HS.",
            overfits(smaller(f"{ours}:hs", f"{title}:hs")),
        ),
        Claim(
            "Every smoothness regulariser costs clean accuracy at the best epoch.",
            all_cost,
        ),
    )


_COLUMNS = ("clean_best", "clean_end", "robust_best", "robust_end", "robust_gap", "ig", "hs")
_PUBLISHED = {
    FGSM_N: {
        "": ((83.51, 0.15), (83.72, 0.15), (41.77, 0.29), (34.19, 0.13), 7.58, 48.00, 0.230),
        " + IGR": ((80.90, 0.48), (83.56, 0.20), (43.96, 0.20), (35.98, 0.39), 7.98, 25.04, 0.059),
        " + CURE": ((81.32, 0.49), (82.45, 0.46), (44.18, 0.22), (39.33, 0.06), 4.84, 18.87, 0.018),
        " + GradAlign": ((80.73, 0.32), (81.35, 0.21), (41.03, 0.52), (33.95, 0.21), 7.08, 34.50, 0.074),
        " + AdvLC": ((81.06, 0.23), (82.70, 0.24), (47.07, 0.18), (42.71, 0.41), 4.36, 20.14, 0.049),
        " + AdvLC + SWA": ((79.46, 0.19), (82.14, 0.11), (48.96, 0.09), (48.14, 0.17), 0.82, 14.16, 0.020),
        " + LogitAlign": ((81.26, 0.28), (82.04, 0.28), (43.72, 0.39), (38.38, 0.27), 5.34, 28.72, 0.054),
        " + Consistency": ((81.21, 0.37), (82.75, 0.22), (45.70, 0.27), (43.53, 0.26), 2.17, 17.48, 0.032),
        " + KDSA": ((84.40, 0.15), (85.20, 0.24), (43.77, 0.31), (42.15, 0.18), 1.62, 21.17, 0.052),
        " + KDSA + SWA": ((84.03, 0.33), (85.17, 0.15), (45.80, 0.08), (45.04, 0.18), 0.76, 19.11, 0.052),
    },
    PGD: {
        "": ((83.40, 0.21), (83.58, 0.20), (46.50, 0.34), (40.42, 0.22), 6.08, 30.90, 0.117),
        " + IGR": ((81.43, 0.28), (83.50, 0.23), (46.45, 0.14), (41.90, 0.43), 4.55, 21.20, 0.051),
        " + CURE": ((80.65, 0.03), (82.67, 0.28), (46.24, 0.21), (42.38, 0.81), 3.86, 17.90, 0.020),
        " + GradAlign": ((81.52, 0.54), (82.28, 0.38), (45.01, 0.45), (38.96, 0.65), 6.06, 28.27, 0.063),
        " + LogitAlign": ((81.30, 0.27), (81.93, 0.47), (46.59, 0.03), (43.42, 0.68), 3.17, 22.03, 0.038),
        " + Consistency": ((81.66, 0.27), (81.95, 0.12), (48.11, 0.22), (47.66, 0.30), 0.45, 14.77, 0.026),
        " + KDSA": ((84.15, 0.18), (85.15, 0.23), (47.92, 0.07), (46.15, 0.18), 1.77, 19.40, 0.050),
        " + KDSA + SWA": ((83.81, 0.55), (84.73, 0.40), (49.58, 0.14), (49.26, 0.08), 0.32, 16.79, 0.042),
        " + AdvLC": ((81.16, 0.36), (82.23, 0.40), (48.73, 0.22), (45.11, 0.43), 3.62, 18.03, 0.033),
        " + AdvLC + SWA": ((79.70, 0.20), (82.09, 0.11), (50.55, 0.33), (49.73, 0.06), 0.82, 13.90, 0.018),
    },
}


def _table1_entry(name, title, recipe):
    published = {}
    for row, numbers in _PUBLISHED[title].items():
        published |= published_row(f"{title}{row}", _COLUMNS, numbers)
    return Entry(
        PAPER,
        f"table1-{name}",
        f"Table 1, regularisers with {title}",
        functools.partial(_table1_runs, adversary=recipe),
        functools.partial(_table1, title=title),
        _table1_claims(title),
        published,
        {"accuracy": Chart(f"Robust accuracy along {title}", "epoch", "PGD accuracy, validation (%)")},
        note=(
            "Robust accuracy is that against AutoAttack, of the epoch that was best against PGD on "
            "validation images and of the last one; IG and HS are those of the last epoch, on test images. "
            "Consistency compares two augmentations, so that it alone is trained with them."
        ),
    )


# Table 2: another data set --------------------------------------------------------------------------------

OTHER = {"PGD10 AT": "pgd10", "PGD10 AT + AdvLC, l1": "pgd10_advlc_l1", "PGD10 AT + AdvLC": "pgd10_advlc"}


def _table2_runs(lab):
    runs = {name: lab.train(f"{TINY}_{recipe}") for name, recipe in OTHER.items()}
    attack = {"attacks": "apgd_ce", **lab.scale.levels["table2 attack"][0]}
    return runs | {f"{name}, attacked": lab.evaluate(run, "best", **attack) for name, run in runs.items()}


def _table2(runs, record):
    for name in OTHER:
        readings.overfitting(record, name, runs[name])
        part = Record()
        readings.attacked(part, "", runs[f"{name}, attacked"])
        if part.values:
            record.put(name, clean_best=100 - part.values["evaluated_clean_error"])
            record.put(name, robust_apgd=100 - part.values["apgd_ce"])
            record.put(name, attacked_images=part.values["attacked_images"])


_OTHER_IMAGES = {"images": "PGD10 AT:attacked_images"}
TABLE2 = Entry(
    PAPER,
    "table2",
    "Table 2, another data set (Tiny ImageNet)",
    _table2_runs,
    _table2,
    (
        Claim(
            "AdvLC improves the robustness of PGD10 AT there, too.",
            higher("PGD10 AT + AdvLC:robust_apgd", "PGD10 AT:robust_apgd", **_OTHER_IMAGES),
        ),
        Claim(
            "The largest tenth of the distances is more robust than all of them (l1).",
            higher("PGD10 AT + AdvLC:robust_apgd", "PGD10 AT + AdvLC, l1:robust_apgd", **_OTHER_IMAGES),
        ),
    ),
    published_row("PGD10 AT", ("clean_best", "robust_apgd"), (44.71, 19.74))
    | published_row("PGD10 AT + AdvLC, l1", ("clean_best", "robust_apgd"), (43.65, 21.10))
    | published_row("PGD10 AT + AdvLC", ("clean_best", "robust_apgd"), (43.93, 22.64)),
    note=(
        "Only at full scale this is Tiny ImageNet. At mini MNIST stands for another data set, at smoke "
        "digits: what is judged there is whether AdvLC helps on data that its strength was not chosen for."
    ),
)


# Table 3: distances -----------------------------------------------------------------------------------------

SUFFIXES = {"l1": "_l1", "KL": "_kl", "JS": "_js", "nuclear": "_nuclear", "squared l2": "_l2", "top N": ""}


def _table3_runs(lab):
    runs = _table_row(lab, "", lab.train(f"{PREACT}_fgsm_n"))
    for name in lab.scale.levels["distances"]:
        runs |= _table_row(lab, f" + {name}", lab.train(f"{PREACT}_fgsm_n_advlc{SUFFIXES[name]}"))
    return runs


_DISTANCE_IMAGES = {"images": f"{FGSM_N}:attacked_images"}
_FGSM_N_OVERFITS = functools.partial(provided, seen_at_least(f"{FGSM_N}:gap", OVERFITS), NO_OVERFITTING)
_TABLE3 = {
    "": ((83.51, 0.15), (83.72, 0.15), (41.77, 0.29), (34.19, 0.13), 7.58, 48.00, 0.230),
    " + l1": ((81.09, 0.41), (82.88, 0.16), (46.01, 0.51), (40.04, 0.90), 5.97, 26.00, 0.146),
    " + KL": ((80.83, 0.53), (82.74, 0.05), (46.29, 0.22), (41.12, 0.40), 5.17, 25.58, 0.075),
    " + JS": ((81.18, 0.21), (82.73, 0.32), (46.69, 0.31), (41.75, 0.39), 4.94, 23.76, 0.061),
    " + nuclear": ((80.82, 0.19), (82.64, 0.18), (46.52, 0.25), (42.51, 0.22), 4.01, 21.70, 0.062),
    " + squared l2": ((80.73, 0.22), (82.79, 0.51), (47.00, 0.23), (41.73, 2.10), 5.28, 21.72, 0.058),
    " + top N": ((81.06, 0.23), (82.70, 0.24), (47.07, 0.18), (42.71, 0.41), 4.36, 20.14, 0.049),
}


def _distances(measured):
    """Returns the rows of the distances of this scale, also of those whose runs have failed."""
    rows = [f"{FGSM_N} + {name}" for name in SUFFIXES]
    return [row for row in rows if f"{row}:robust_best" in measured.names()]


def _all_help(measured):
    rows = _distances(measured)
    base = f"{FGSM_N}:robust_best"
    parts = (higher(f"{row}:robust_best", base, **_DISTANCE_IMAGES) for row in rows)
    return together(*parts, names=rows)(measured)


def _top_is_best(measured):
    top = f"{FGSM_N} + top N"
    others = [row for row in _distances(measured) if row != top]
    parts = (higher(f"{top}:robust_best", f"{row}:robust_best", **_DISTANCE_IMAGES) for row in others)
    return together(*parts, names=others)(measured)


TABLE3 = Entry(
    PAPER,
    "table3",
    "Table 3, distances of the logits",
    _table3_runs,
    functools.partial(_table1, title=FGSM_N),
    (
        Claim("Every distance makes FGSM-N AT more robust at the best epoch.", _FGSM_N_OVERFITS(_all_help)),
        Claim(
            "The N largest distances of a batch are the most robust choice at the best epoch.",
            _FGSM_N_OVERFITS(_top_is_best),
        ),
        Claim(
            "The N largest distances are more robust than all of them (l1) at the last epoch.",
            _FGSM_N_OVERFITS(
                higher(f"{FGSM_N} + top N:robust_end", f"{FGSM_N} + l1:robust_end", **_DISTANCE_IMAGES)
            ),
        ),
    ),
    {
        name: pair
        for row, numbers in _TABLE3.items()
        for name, pair in published_row(f"{FGSM_N}{row}", _COLUMNS, numbers).items()
    },
    {"accuracy": Chart("Robust accuracy by the distance", "epoch", "PGD accuracy, validation (%)")},
)


# Appendix A -----------------------------------------------------------------------------------------------


def _a1_runs(lab):
    return {"PGD10 AT": lab.analyze("convergence", lab.train(f"{WIDE}_pgd10", **_along(lab)))}


def _a1(runs, record):
    found = readings.study(runs["PGD10 AT"], "convergence")
    by_split = {}
    for each in found["records"].values() if found else ():
        by_split.setdefault(each["split"], {})[each["steps"]] = each
    for split, each in by_split.items():
        steps = sorted(each)
        record.curve("av", split, steps, [each[count]["av"]["mean"] for count in steps])
        record.curve("accuracy", split, steps, [each[count]["accuracy"] for count in steps])
        if 50 in each and steps[-1] > 50:
            fifty, most = each[50], each[steps[-1]]
            record.put(f"{split} images", accuracy_50=fifty["accuracy"], accuracy_most=most["accuracy"])
            record.put(f"{split} images", accuracy_lost=fifty["accuracy"] - most["accuracy"])
            rise = 100 * (most["av"]["mean"] / fifty["av"]["mean"] - 1) if fifty["av"]["mean"] else None
            record.put(f"{split} images", av_rise=rise)


A1 = Entry(
    PAPER,
    "a1",
    "Appendix A1, how many steps PGD needs",
    _a1_runs,
    _a1,
    (
        Claim(
            "On training images 50 steps suffice: more lower the robust accuracy by at most 0.5 points.",
            within_bound("train images:accuracy_lost", 0.5, "points"),
        ),
        Claim(
            "On training images more than 50 steps raise the adversarial variance by at most 2 %.",
            within_bound("train images:av_rise", 2.0, "%"),
        ),
        Claim(
            "On unseen images, too, more than 50 steps lower the robust accuracy by at most 0.5 points.",
            within_bound("test images:accuracy_lost", 0.5, "points"),
        ),
    ),
    charts={
        "av": Chart("Adversarial variance by the steps of PGD", "steps", "AV (nats)"),
        "accuracy": Chart("Robust accuracy by the steps of PGD", "steps", "accuracy (%)"),
    },
    note="The bounds are ours: the paper shows curves that have become level.",
)


def _a2_runs(lab):
    runs = {"PGD10 AT": lab.train(f"{WIDE}_pgd10", **_along(lab))}
    models = [lab.train(f"{PREACT}_fgsm_n{suffix}") for suffix in lab.scale.levels["a2 methods"]]
    runs["twins"] = lab.analyze("input", *models, softplus_twin=True)
    return runs


def _a2(runs, record):
    rows = [row for row in readings.epochs(runs["PGD10 AT"]) if None not in (row.get("hs"), row.get("ga"))]
    _put_correlation(record, "along training", [row["hs"] for row in rows], [row["ga"] for row in rows])
    result = readings.study(runs["twins"], "input")
    if result:
        means = [each["splits"]["train"]["hs"]["mean"] for each in result["models"]]
        _put_correlation(record, "softplus twins", means[::2], means[1::2])
        order = sorted(range(len(means) // 2), key=lambda place: means[2 * place])
        record.curve("twins", "HS", [means[2 * k] for k in order], [means[2 * k + 1] for k in order])


def _put_correlation(record, row, first, second):
    if len(first) >= 4:
        found = rank_correlation(first, second)
        if found.rho is not None:
            record.put(row, rho=found.rho, points=found.points)
            if found.low is not None:
                record.put(row, rho_low=found.low, rho_high=found.high)


A2 = Entry(
    PAPER,
    "a2",
    "Appendix A2, HS of networks with ReLU",
    _a2_runs,
    _a2,
    (
        Claim(
            "Along adversarial training HS falls where the gradients are better aligned (GA).",
            positive(
                "along training:rho",
                "rank correlation",
                sign=-1,
                over="the epochs of one training that were logged",
            ),
        ),
        Claim(
            "HS of networks with ReLU goes with that of the same networks with softplus.",
            positive("softplus twins:rho", "rank correlation", over="the classifiers of several methods"),
        ),
    ),
    charts={
        "twins": Chart(
            "HS with ReLU and with softplus",
            "HS, ReLU (nats)",
            "HS, softplus (nats)",
            True,
            True,
            points=True,
        )
    },
    note="Epochs that follow each other are alike, so that the interval of the first claim is too narrow.",
)


def _a3_runs(lab):
    return {"PGD10 AT": lab.analyze("sampling", lab.train(f"{WIDE}_pgd10", **_along(lab)), split="test")}


def _a3(runs, record):
    found = readings.study(runs["PGD10 AT"], "sampling")
    for name, each in found["measures"].items() if found else ():
        strays = dict(zip(each["sizes"], each["largest"], strict=True))
        record.put(name, **{f"{DEVIATION}{size}": 100 * stray for size, stray in strays.items()})
        record.curve("strays", name, each["sizes"], [100 * stray for stray in each["largest"]])
    if found:
        measures = found["measures"]
        size = max(set(measures["hs"]["sizes"][:3]) & set(measures["fgsm"]["sizes"][:3]), default=None)
        if size is not None:
            at = {
                name: dict(zip(each["sizes"], each["largest"], strict=True))
                for name, each in measures.items()
            }
            steadier = all(at[name][size] < at["hs"][size] for name in ("fgsm", "pgd10"))
            record.put("", effectiveness_is_steadier=steadier)


A3 = Entry(
    PAPER,
    "a3",
    "Appendix A3, how many images a measure needs",
    _a3_runs,
    _a3,
    (
        Claim(
            "The mean of HS over 2,000 images is within 10 % of that over all, in every trial.",
            within_bound(f"hs:{DEVIATION}2000", 10.0, "%"),
        ),
        Claim(
            "The effectiveness of FGSM and PGD10 is steadier than HS over few images.",
            exact(
                "effectiveness_is_steadier",
                how="Compared are the largest deviations over the random subsets; they have no interval.",
            ),
        ),
    ),
    charts={"strays": Chart("Means of subsets", "images averaged", "largest deviation (%)", True, True)},
)


# Cost ------------------------------------------------------------------------------------------------------

STEP_SECONDS = {
    FGSM_N: (0.047, 0.130, 0.162, 0.162, 0.095, 0.095, 0.062, 0.054),
    PGD: (0.326, 0.425, 0.445, 0.445, 0.656, 0.658, 0.348, 0.337),
}
_COSTED = ("", "_igr", "_cure", "_gradalign", "_logitalign", "_consistency", "_kdsa", "_advlc")


def _cost_runs(lab):
    runs = {}
    for title, recipe in ((FGSM_N, "fgsm_n"), (PGD, "pgd10")):
        table = _table1_runs(lab, recipe)
        rows = [METHODS[suffix] for suffix in _COSTED if METHODS[suffix] in table]
        runs |= {f"{title}{row}": table[row] for row in rows}
    return runs


def _cost(runs, record):
    speeds = {}
    record.expect(runs, "images_per_second", "step_ratio")
    for name, run in runs.items():
        _, found = readings.column(readings.epochs(run), "images_per_second")
        if found:
            # Other work on the machine slows epochs down, so the fast ones tell what a step costs.
            speeds[name] = np.quantile(found, [0.1, 0.9])
            record.put(name, images_per_second=speeds[name][1])
    for title in STEP_SECONDS:
        own = [name for name in speeds if name.startswith(title)]
        for name in own if title in speeds else ():
            _put_times(record, name, "step_ratio", speeds[title], speeds[name])
        ours = f"{title} + AdvLC"
        for name in own if ours in speeds else ():
            if name not in (title, ours):
                _put_times(record, name, "step_of_advlc", speeds[name], speeds[ours])


def _put_times(record, row, name, theirs, ours):
    """Adds how many times as long a step of `ours` takes, and the range over slow and fast epochs of both."""
    record.put(row, **{name: theirs[1] / ours[1]})
    record.put(row, **{f"{name}_low": theirs[0] / ours[1], f"{name}_high": theirs[1] / ours[0]})


def _at_most(name: str, bound: float) -> Judge:
    """A ratio of times is at most a bound, over the range that the epochs of all runs of both leave open.

    One run of either cannot tell: other work may have slowed the whole of it.
    """

    def judge(measured):
        ratios, low, high = (measured[f"{name}{end}"] for end in ("", "_low", "_high"))
        over = f"slow and fast epochs of {quantity(len(ratios), 'run')} each"
        interval = Interval(float(low.min()), float(high.max()), over)
        result, reasons = OPEN, [NOT_IN_TURN]
        if len(ratios) < 2:
            reasons.append("One run of each is too few.")
        elif interval.high <= bound:
            result = HOLDS
        elif interval.low > bound:
            result = FAILS
        else:
            reasons.append(f"The range contains {bound:g}.")
        return Verdict(result, float(np.exp(np.log(ratios).mean())), "×", interval, tuple(reasons))

    return judge


def _cheapest(title):
    def judge(measured):
        others = [f"{title}{METHODS[suffix]}" for suffix in _COSTED[1:-1]]
        asked = [row for row in others if f"{row}:step_ratio" in measured.names()]
        parts = (where_asked([f"{row}:step_ratio"], _at_most(f"{row}:step_of_advlc", 1.0)) for row in asked)
        return together(*parts, names=asked)(measured)

    return judge


NOT_IN_TURN = "The runs were not timed in turn, so that other work may have slowed one and not the other."


COST = Entry(
    PAPER,
    "cost",
    "Table 1, time of a training step",
    _cost_runs,
    _cost,
    (
        *(
            Claim(
                f"A step of AdvLC costs at most 20 % more than one of {title}.",
                _at_most(f"{title} + AdvLC:step_ratio", 1.2),
            )
            for title in STEP_SECONDS
        ),
        *(
            Claim(f"With {title} AdvLC is the cheapest of the regularisers.", _cheapest(title))
            for title in STEP_SECONDS
        ),
    ),
    {
        f"{title}{METHODS[suffix]}:step_ratio": (round(seconds / all_seconds[0], 2), None)
        for title, all_seconds in STEP_SECONDS.items()
        for suffix, seconds in zip(_COSTED, all_seconds, strict=True)
    },
    note=(
        "These are by-products of table 1's trainings, which were not timed in turn and shared the machine "
        "with each other and with other work; they are no benchmark. A ratio is that of the fast epochs (the "
        "90th percentile of images per second in training, validation left out) of either run, and its range "
        "goes from the 10th to the 90th percentile of both, over the runs of at least two seeds. The "
        "benchmark of the objectives on the page about cost, in turn in one process, is the better "
        "measurement."
    ),
)


ENTRIES = (
    FIGURE1,
    FIGURE2,
    FIGURE3,
    FIGURE4,
    _table1_entry("fgsm_n", FGSM_N, "fgsm_n"),
    _table1_entry("pgd10", PGD, "pgd10"),
    TABLE2,
    TABLE3,
    A1,
    A2,
    A3,
    COST,
)
