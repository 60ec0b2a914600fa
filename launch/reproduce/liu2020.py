"""The entries of Liu et al. 2020, "On the Loss Landscape of Adversarial Training".

Figures have the numbers of the NeurIPS version. In the arXiv text its figures 2 to 5 are figures 1 to 4, and
its figure 1 is figure 5; from figure 8 on the two agree.
"""

import functools

from launch.reproduce import readings
from launch.reproduce.entry import Chart, Claim, Entry, published_row
from launch.reproduce.scales import MNIST, RESNET18, VGG
from launch.reproduce.verdicts import lower, provided, rises, seen_at_most, together

PAPER = "liu2020"
SCHEDULES = ("constant", "cosine", "linear")
WARM = SCHEDULES[1:]
TRAINS = 80.0  # percent; the error of ten classes guessed is 90
NOT_TRAINED = "With a constant ε the network does not train here, so that there is nothing to compare with."
ATTACKS = ("apgd_ce", "apgd_dlr", "square")
NAMES = {MNIST: "LeNet on MNIST", VGG: "VGG on CIFAR-10", RESNET18: "ResNet18 on CIFAR-10"}


# Table 1 --------------------------------------------------------------------------------------------------


def _table1_runs(lab, task, periods):
    runs = {}
    for schedule in SCHEDULES:
        runs[schedule] = lab.train(f"{task}_{schedule}")
        runs[f"{schedule}, attacked"] = lab.evaluate(runs[schedule])
        if periods:
            several = lab.train(f"{task}_{schedule}_periodic")
            runs[f"{schedule}, periods"] = several
            runs[f"{schedule}, periods, attacked"] = lab.evaluate(several, "ensemble")
    return runs


def _table1(runs, record, periods):
    for schedule in SCHEDULES:
        readings.trained(record, schedule, runs[schedule])
        readings.attacked(record, schedule, runs[f"{schedule}, attacked"])
        if periods:
            row = f"{schedule}, 3 periods"
            several = runs[f"{schedule}, periods"]
            readings.trained(record, f"{row}, last alone", several)
            readings.trained(record, row, several, "ensemble")
            readings.attacked(record, row, runs[f"{schedule}, periods, attacked"])
        rows = readings.epochs(runs[schedule])
        record.curve("robust_error", schedule, *_errors(rows, "val_robust_accuracy"))


def _errors(rows, name):
    found, values = readings.column(rows, name)
    return found, [100 * (1 - value) for value in values]


def _table1_claims(periods):
    constant_trains = functools.partial(provided, seen_at_most("constant:pgd_error", TRAINS), NOT_TRAINED)
    images = {"images": "constant:examples"}
    claims = [
        Claim(
            f"A {schedule} ε gives a lower clean error than a constant one.",
            constant_trains(lower(f"{schedule}:clean_error", "constant:clean_error", **images)),
        )
        for schedule in WARM
    ]
    claims += [
        Claim(
            f"A {schedule} ε gives a lower robust error (PGD as in training) than a constant one.",
            constant_trains(lower(f"{schedule}:pgd_error", "constant:pgd_error", **images)),
        )
        for schedule in WARM
    ]
    few = {"images": "constant:attacked_images"}
    claims.append(
        Claim(
            "So it is for stronger attacks: APGD-CE, APGD-DLR and Square, with both schedules.",
            constant_trains(
                together(
                    *(
                        lower(f"{schedule}:{attack}", f"constant:{attack}", **few)
                        for schedule in WARM
                        for attack in ATTACKS
                    )
                )
            ),
        )
    )
    if periods:
        claims += [
            Claim(
                f"Three periods with a {schedule} ε and the ensemble of their ends have a lower robust error "
                "than one period.",
                constant_trains(lower(f"{schedule}, 3 periods:pgd_error", f"{schedule}:pgd_error", **images)),
            )
            for schedule in SCHEDULES
        ]
        claims.append(
            Claim(
                "The ensemble has a lower robust error than the classifier of the last period alone.",
                constant_trains(
                    together(
                        *(
                            lower(
                                f"{schedule}, 3 periods:pgd_error",
                                f"{schedule}, 3 periods, last alone:pgd_error",
                                **images,
                            )
                            for schedule in SCHEDULES
                        )
                    )
                ),
            )
        )
    return tuple(claims)


_COLUMNS = ("clean_error", "pgd_error", "pgd100", *ATTACKS)
_PUBLISHED = {
    MNIST: {
        "constant": ((1.56, 0.17), (8.58, 0.89), None, (15.18, 1.55), (14.70, 1.36), (19.58, 0.45)),
        "cosine": ((1.08, 0.02), (6.64, 0.70), None, (14.36, 1.34), (13.46, 1.29), (16.78, 0.25)),
        "linear": ((1.06, 0.06), (6.69, 0.59), None, (13.91, 1.50), (13.17, 1.20), (17.05, 0.47)),
    },
    VGG: {
        "constant": ((28.25, 0.47), (56.22, 0.43), 56.2, (58.18, 0.46), (58.65, 0.69), (54.37, 0.29)),
        "cosine": ((25.06, 0.19), (56.06, 0.48), None, (57.83, 0.45), (58.88, 0.16), (53.95, 0.15)),
        "linear": ((23.56, 0.95), (56.09, 0.14), None, (57.74, 0.16), (58.39, 0.18), (53.66, 0.24)),
        "constant, 3 periods": ((28.33, 0.81), (54.24, 0.28), None, None, None, None),
        "cosine, 3 periods": ((23.91, 0.21), (53.18, 0.21), None, None, None, None),
        "linear, 3 periods": ((21.88, 0.33), (53.03, 0.14), None, None, None, None),
    },
    RESNET18: {
        "constant": (
            *((18.62, 0.06), (55.00, 0.08), (54.97, 0.09)),
            *((57.26, 0.13), (56.60, 0.25), (50.59, 0.19)),
        ),
        "cosine": (
            *((18.43, 0.26), (53.95, 0.23), (53.85, 0.21)),
            *((56.16, 0.18), (55.77, 0.24), (49.60, 0.18)),
        ),
        "linear": (
            *((18.55, 0.14), (53.46, 0.20), (53.41, 0.10)),
            *((55.69, 0.17), (55.45, 0.22), (49.66, 0.28)),
        ),
        "constant, 3 periods": ((21.00, 0.05), (48.98, 0.25), None, 50.29, 50.98, 46.84),
        "cosine, 3 periods": ((19.90, 0.18), (48.57, 0.25), None, 49.71, 50.54, 46.19),
        "linear, 3 periods": ((20.26, 0.28), (48.60, 0.13), None, 49.73, 50.68, 46.47),
    },
}


def _table1_entry(name, task, periods):
    published = {}
    for row, numbers in _PUBLISHED[task].items():
        pairs = [(None, None) if number is None else number for number in numbers]
        published |= published_row(row, _COLUMNS, pairs)
    return Entry(
        PAPER,
        f"table1-{name}",
        f"Table 1, {NAMES[task]}",
        functools.partial(_table1_runs, task=task, periods=periods),
        functools.partial(_table1, periods=periods),
        _table1_claims(periods),
        published,
        {"robust_error": Chart("Robust error by the schedule of ε", "epoch", "PGD error, validation (%)")},
    )


# Figure 8 and figure 2: gradients -----------------------------------------------------------------------

ENTRIES = (
    _table1_entry("mnist", MNIST, periods=False),
    _table1_entry("vgg", VGG, periods=True),
    _table1_entry("resnet18", RESNET18, periods=True),
)
_ = rises
