"""The entries of Li & Spratling 2023, "Understanding and Combating Robust Overfitting via Input Loss
Landscape Analysis and Regularization".

Robust overfitting is what the epochs after the best one cost of robust accuracy. The claims about it are
judged only where adversarial training itself loses at least 3 points.
"""

import functools

from launch.reproduce import readings
from launch.reproduce.entry import Chart, Claim, Entry, published_row
from launch.reproduce.scales import PREACT, WIDE
from launch.reproduce.verdicts import (
    higher,
    larger,
    lower,
    provided,
    seen_at_least,
    smaller,
    together,
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


# Figure 1: along training ---------------------------------------------------------------------------------


def _along(lab):
    """The options that log the input landscape along a training."""
    return {
        "input_every": lab.scale.levels["input every"][0],
        "input_examples": lab.scale.levels["input examples"][0],
    }


def _figure1_runs(lab):
    return {
        "standard": lab.train(f"{WIDE}_standard", **_along(lab)),
        "FGSM-R AT": lab.train(f"{WIDE}_fgsm_r", **_along(lab)),
    }


QUANTITIES = {"ig": "IG", "hs": "HS", "av": "AV"}


def _figure1(runs, record):
    for name, run in runs.items():
        readings.trained(record, name, run)
        readings.overfitting(record, name, run)
        rows = readings.epochs(run)
        for measure in QUANTITIES:
            for prefix, split in (("", "train"), ("val_", "validation")):
                found, values = readings.column(rows, f"{prefix}{measure}")
                if not values:
                    continue
                record.curve(measure, f"{name}, {split}", found, values)
                record.put(name, **{f"{measure}_{split}_first": values[0], f"{measure}_{split}": values[-1]})
        _put_gaps(record, name, rows)
        record.curve("accuracy", name, *_percent(rows, "val_robust_accuracy"))


def _put_gaps(record, name, rows):
    """Adds how much larger AV is on validation images, at the start and at the end of what was logged."""
    epochs, train = readings.column(rows, "av")
    _, held_out = readings.column(rows, "val_av")
    if not train or len(train) != len(held_out):
        return
    gaps = [there - here for here, there in zip(train, held_out, strict=True)]
    tail = max(1, len(gaps) // 5)
    record.put(name, av_gap_first=sum(gaps[:tail]) / tail, av_gap_last=sum(gaps[-tail:]) / tail)
    record.curve("av_gap", name, epochs, gaps)


def _percent(rows, name):
    found, values = readings.column(rows, name)
    return found, [100 * value for value in values]


def _more(first, second):
    """The value `first` is larger than `second`; both may be near 0, so that it is no ratio."""
    from launch.reproduce.verdicts import judged

    return lambda measured: judged(measured[first] - measured[second], "nats")


AT_OVERFITS = functools.partial(provided, seen_at_least("FGSM-R AT:gap", OVERFITS), NO_OVERFITTING)

FIGURE1 = Entry(
    PAPER,
    "figure1",
    "Figure 1, IG, HS and the adversarial variance along training",
    _figure1_runs,
    _figure1,
    (
        Claim(
            "Along adversarial training the gap of the adversarial variance between validation and training "
            "images grows.",
            AT_OVERFITS(_more("FGSM-R AT:av_gap_last", "FGSM-R AT:av_gap_first")),
        ),
        Claim(
            "Along standard training it grows as well: standard training overfits robustly, too.",
            _more("standard:av_gap_last", "standard:av_gap_first"),
        ),
        Claim(
            "Robust overfitting is milder in adversarial than in standard training: the gap at the end is "
            "smaller.",
            _more("standard:av_gap_last", "FGSM-R AT:av_gap_last"),
        ),
        Claim(
            "At the end of adversarial training IG is larger on validation than on training images.",
            AT_OVERFITS(larger("FGSM-R AT:ig_validation", "FGSM-R AT:ig_train")),
        ),
        Claim(
            "HS grows along adversarial training: the loss around the images becomes more curved.",
            AT_OVERFITS(larger("FGSM-R AT:hs_train", "FGSM-R AT:hs_train_first")),
        ),
        Claim(
            "Standard training has a far larger HS than adversarial training.",
            larger("standard:hs_train", "FGSM-R AT:hs_train"),
        ),
    ),
    charts={
        "accuracy": Chart("Robust accuracy along training", "epoch", "PGD accuracy, validation (%)"),
        "ig": Chart("Slope of the loss around the images", "epoch", "IG", log=True),
        "hs": Chart("Curvature of the loss around the images", "epoch", "HS", log=True),
        "av_gap": Chart("Adversarial variance: validation less training", "epoch", "difference of AV (nats)"),
    },
)


# Table 1 --------------------------------------------------------------------------------------------------


def _table1_runs(lab, adversary):
    runs = {}
    for suffix, row in METHODS.items():
        more = {"augment": True} if suffix == "_consistency" else {}
        if suffix.startswith("_kdsa"):
            more["teachers"] = ((lab.train(f"{PREACT}_standard"), "last"), (runs["at"], "best"))
        run = lab.train(f"{PREACT}_{adversary}{suffix}", **more)
        runs.setdefault("at", run)
        prefix = "swa_" if suffix.endswith("_swa") else ""
        runs[row] = run
        runs[f"{row}, best"] = lab.evaluate(run, f"{prefix}best", **_robust(lab))
        runs[f"{row}, end"] = lab.evaluate(run, f"{prefix}last", **_robust(lab))
        runs[f"{row}, landscape"] = lab.analyze("input", (run, f"{prefix}last"), split="test")
    return runs


def _robust(lab):
    """The attack of the paper's tables alone."""
    return {"attacks": "autoattack", "restarts": None}


def _table1(runs, record, title):
    for suffix, row in METHODS.items():
        run, name = runs[row], f"{title}{row}"
        prefix = "swa_" if suffix.endswith("_swa") else ""
        _put_robust(record, name, runs[f"{row}, best"], runs[f"{row}, end"])
        readings.overfitting(record, name, run, f"{prefix}last")
        readings.trained(record, name, run, f"{prefix}last")
        _put_landscape(record, name, runs[f"{row}, landscape"])
        rows = readings.epochs(run)
        if not prefix:
            record.curve("accuracy", name, *_percent(rows, "val_robust_accuracy"))


def _put_robust(record, name, best, end):
    """Adds the clean and the robust accuracy of the best and the last epoch, and how far they are apart."""
    found = {}
    for when, run in (("best", best), ("end", end)):
        part = type(record)()
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
        splits = result["models"][0]["splits"]
        record.put(name, ig=splits["test"]["ig"]["mean"], hs=splits["test"]["hs"]["mean"])


def _table1_claims(title):
    overfits = functools.partial(provided, seen_at_least(f"{title}:gap", OVERFITS), NO_OVERFITTING)
    images = {"images": f"{title}:attacked_images"}
    ours, averaged = f"{title} + AdvLC", f"{title} + AdvLC + SWA"
    others = [f"{title}{row}" for row in SMOOTHERS if row != " + AdvLC"]
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
            overfits(
                together(*(higher(f"{ours}:robust_best", f"{row}:robust_best", **images) for row in others))
            ),
        ),
        Claim(
            "Averaged weights (SWA) make AdvLC more robust at the end.",
            overfits(higher(f"{averaged}:robust_end", f"{ours}:robust_end", **images)),
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
            together(
                *(
                    lower(f"{row}:clean_best", f"{title}:clean_best", **images)
                    for row in [ours, *others]
                    if "KDSA" not in row
                )
            ),
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


ENTRIES = (
    FIGURE1,
    _table1_entry("fgsm_n", FGSM_N, "fgsm_n"),
    _table1_entry("pgd10", PGD, "pgd10"),
)
