"""The entries of Liu et al. 2020, "On the Loss Landscape of Adversarial Training".

Figures have the numbers of the NeurIPS version. In the arXiv text its figures 2 to 5 are figures 1 to 4, and
its figure 1 is figure 5; from figure 8 on the two agree.
"""

import functools
import itertools
from dataclasses import replace

from launch.reproduce import readings
from launch.reproduce.entry import Chart, Claim, Entry, published_row
from launch.reproduce.scales import MNIST, RESNET18, VGG
from launch.reproduce.verdicts import (
    OPEN,
    Judge,
    Measured,
    Missing,
    Verdict,
    exact,
    higher,
    lower,
    more,
    positive,
    provided,
    rises,
    seen_at_least,
    seen_at_most,
    together,
    within_bound,
)

PAPER = "liu2020"
SCHEDULES = ("constant", "cosine", "linear")
ERRORS = ("clean_error", "pgd_error", "examples")  # of a training, see `readings.trained`
UPDATES = ("gradient_norm", "distance")  # what is read of the log of the updates
WARM = SCHEDULES[1:]
TRAINS = 80.0  # percent; the error of ten classes guessed is 90
NOT_TRAINED = (
    "With a constant ε the network does not train here, so that there is nothing to compare with: its PGD "
    "error must be at most 80 %."
)
ATTACKS = {"apgd_ce": "APGD-CE", "apgd_dlr": "APGD-DLR", "square": "Square"}
NAMES = {MNIST: "LeNet on MNIST", VGG: "VGG on CIFAR-10", RESNET18: "ResNet18 on CIFAR-10"}


# Table 1 ----------------------------------------------------------------------------------------------


def _table1_runs(lab, task, periods):
    runs = {}
    for schedule in SCHEDULES:
        runs[schedule] = lab.train(f"{task}_{schedule}")
        _attack(lab, runs, schedule)
        if periods:
            several = lab.train(f"{task}_{schedule}_periodic")
            runs[f"{schedule}, periods"] = several
            _attack(lab, runs, f"{schedule}, periods", "ensemble")
    return runs


def _attack(lab, runs, name, which="last"):
    """Adds the evaluations of a classifier."""
    for number, settings in enumerate(lab.scale.levels["evaluations"]):
        runs[f"{name}, attacked {number}"] = lab.evaluate(runs[name], which, **settings)


def _attacked(runs, record, row, name):
    for number in range(sum(key.startswith(f"{name}, attacked ") for key in runs)):
        readings.attacked(record, row, runs[f"{name}, attacked {number}"])


def _table1(runs, record, periods):
    for schedule in SCHEDULES:
        readings.trained(record, schedule, runs[schedule])
        _attacked(runs, record, schedule, schedule)
        if periods:
            row = f"{schedule}, 3 periods"
            several = runs[f"{schedule}, periods"]
            readings.trained(record, f"{row}, last alone", several)
            readings.trained(record, row, several, "ensemble")
            _attacked(runs, record, row, f"{schedule}, periods")
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
    stronger = {
        f"{shown} with a {schedule} ε": lower(f"{schedule}:{attack}", f"constant:{attack}", **few)
        for schedule in WARM
        for attack, shown in ATTACKS.items()
    }
    claims.append(
        Claim(
            "Both schedules also give lower errors than a constant ε against stronger attacks: APGD-CE, "
            "APGD-DLR and Square.",
            constant_trains(together(*stronger.values(), names=[*stronger])),
        )
    )
    return (*claims, *(_period_claims(constant_trains, images) if periods else ()))


def _period_claims(constant_trains, images):
    for schedule in SCHEDULES:
        yield Claim(
            f"Three periods with a {schedule} ε and the ensemble of their ends have a lower robust error "
            "than one period.",
            constant_trains(lower(f"{schedule}, 3 periods:pgd_error", f"{schedule}:pgd_error", **images)),
        )
    alone = {
        f"a {schedule} ε": lower(
            f"{schedule}, 3 periods:pgd_error", f"{schedule}, 3 periods, last alone:pgd_error", **images
        )
        for schedule in SCHEDULES
    }
    yield Claim(
        "The ensemble has a lower robust error than the classifier of the last period alone.",
        constant_trains(together(*alone.values(), names=[*alone])),
    )


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


# Figure 1 and the theorems ----------------------------------------------------------------------------


def _theory_runs(lab):
    return {"theory": lab.analyze("theory")}


def _theory(runs, record):
    found = readings.study(runs["theory"], "theory")
    by_source = {}
    for claim in found["claims"] if found else ():
        by_source.setdefault(claim["source"], []).append(claim["holds"])
    for source, holds in by_source.items():
        record.put(source, statements=len(holds), true=sum(holds), all_true=all(holds))


FIGURE1 = Entry(
    PAPER,
    "figure1",
    "Figure 1 and the theorems, linear models in closed form",
    _theory_runs,
    _theory,
    (
        Claim("The worst case of logistic regression has the closed form of eq. 6.", exact("eq. 6:all_true")),
        Claim("The version space shrinks as ε grows (Proposition 1).", exact("Prop. 1:all_true")),
        Claim(
            "Beyond some ε the constant classifier is optimal for multi-class linear models (Theorem 1).",
            exact("Theorem 1:all_true"),
        ),
        Claim(
            "The loss stays continuous, and its gradient jumps the more, the larger ε is (Proposition 2, "
            "figure 1).",
            exact("Prop. 2:all_true"),
        ),
        Claim(
            "On separable data the curvature grows with ε in every direction (Theorem 3).",
            exact("Theorem 3:all_true"),
        ),
    ),
    note=(
        "Computed on the digits of scikit-learn. The bound that the proof of Theorem 1 gives for ε̄ depends "
        "on W and grows without limit as W → 0; the study uses the least ε̄ that serves every W. Theorem 3 "
        "fixes ‖w‖; how it is without that is in the row of Theorem 3 with eq. 6."
    ),
    seeded=False,
)


# Figures 2, 8 and 11: gradients and losses along training ----------------------------------------------


def _row(schedule, epsilon):
    return f"{schedule}, ε = {epsilon}"


def _by_epsilon(lab, task, data):
    """Returns a training for each ε and both kinds of schedule, with the log of its updates."""
    return {
        _row(schedule, epsilon): lab.train(
            f"{task}_{schedule}", eps=epsilon, dynamics_steps=lab.scale.levels[f"{data} updates"][0]
        )
        for schedule in ("constant", "cosine")
        for epsilon in lab.scale.levels[f"{data} eps"]
    }


def _gradients(runs, record):
    updates = (f"{name}_{when}" for when in ("first", "last") for name in UPDATES)
    record.expect(runs, *ERRORS, *updates)
    for row, run in runs.items():
        readings.trained(record, row, run)
        log = readings.updates(run)
        if log is None:
            continue
        for window in ("first", "last"):
            means = log[window]
            record.put(row, **{f"{name}_{window}": means[name] for name in UPDATES})
            record.curve(f"gradient_{window}", row, means["steps"], means["norms"])


def _levels(measured: Measured, column: str, start: str) -> list[str]:
    """Returns the names of a column's values, one for each ε, in the order in which these were planned.

    Those of runs that have failed are among them.
    """
    return [name for name in measured.names() if name.startswith(start) and name.endswith(f":{column}")]


def _stuck(measured: Measured, start: str) -> str:
    """Returns at which ε a training has ended as a constant classifier, with how many of the seeds."""
    found = []
    for name in _levels(measured, "pgd_error", start):
        if name in measured:
            errors = measured[name]
            seeds = int((errors > TRAINS).sum())
            of = f" ({seeds} of {len(errors)} seeds)" if len(errors) > 1 else ""
            found += [f"{name.partition('ε = ')[2].partition(':')[0]}{of}"] if seeds else []
    return ", ".join(found)


def _with_epsilon(column: str, start: str, *, falls: bool = False) -> Judge:
    """The values of a column rise with ε over all levels of the scale; those that ended stuck are told.

    A level whose run has failed leaves the claim open: it may have failed because of its ε.
    """

    def judge(measured):
        found = rises(_levels(measured, column, start), falls=falls)(measured)
        stuck = _stuck(measured, start)
        told = (f"Trained to a constant classifier: ε = {stuck}.",) if stuck else ()
        return replace(found, reasons=(*found.reasons, *told))

    return judge


def _if_all_train(start: str, judge: Judge) -> Judge:
    """Judges only where the trainings with every ε and seed have left the constant classifier.

    One that has not has neither gradients nor curvature at its end, whatever its ε.
    """

    def whole(measured):
        for name in _levels(measured, "pgd_error", start):
            measured[name]  # one that is missing leaves the claim open, too
        stuck = _stuck(measured, start)
        return Verdict(OPEN, reasons=(f"{STUCK} ε = {stuck}.",)) if stuck else judge(measured)

    return whole


CONSTANT, COSINE, ALONE = "constant, ε = ", "cosine, ε = ", "ε = "  # how the rows of levels begin
STUCK = "Training has not left the constant classifier, so that it has no end to look at:"


def _gradients_entry(number, task, data):
    first = "in the first updates"
    return Entry(
        PAPER,
        f"figure{number}",
        f"Figure {number}, gradients early and late, {NAMES[task]}",
        functools.partial(_by_epsilon, task=task, data=data),
        _gradients,
        (
            Claim(
                f"With a constant ε the gradients {first} are the smaller, the larger ε is.",
                _with_epsilon("gradient_norm_first", CONSTANT, falls=True),
            ),
            Claim(
                f"With a constant ε the weights move the less {first}, the larger ε is.",
                _with_epsilon("distance_first", CONSTANT, falls=True),
            ),
            Claim(
                "With a constant ε the gradients in the last updates are the larger, the larger ε is.",
                _if_all_train(CONSTANT, _with_epsilon("gradient_norm_last", CONSTANT)),
            ),
            Claim(
                "With a warmed-up ε the gradients in the last updates are the larger, the larger ε is.",
                _if_all_train(COSINE, _with_epsilon("gradient_norm_last", COSINE)),
            ),
        ),
        charts={
            "gradient_first": Chart("Norm of the gradient, first updates", "update", "l2 norm (nats)", True),
            "gradient_last": Chart("Norm of the gradient, last updates", "update", "l2 norm (nats)", True),
        },
        note="With a warmed-up ε the first updates see a small ε whatever its target is, so that nothing is "
        "claimed of them.",
    )


def _losses(runs, record):
    record.expect(runs, *ERRORS, "loss_range")
    for row, run in runs.items():
        readings.trained(record, row, run)
        epochs, losses = readings.column(readings.epochs(run), "loss")
        if losses:
            record.put(row, loss_first=losses[0], loss_last=losses[-1], loss_range=max(losses) - min(losses))
            record.curve("loss", row, epochs, losses)


def _constant_by_epsilon(lab, task, data):
    return {row: run for row, run in _by_epsilon(lab, task, data).items() if row.startswith("constant")}


def _losses_entry(name, task):
    return Entry(
        PAPER,
        f"figure11-{name}",
        f"Figure 11, training loss by ε, {NAMES[task]}",
        functools.partial(_constant_by_epsilon, task=task, data=name),
        _losses,
        (
            Claim(
                "The loss runs through a smaller range during training, the larger ε is.",
                _with_epsilon("loss_range", CONSTANT, falls=True),
            ),
        ),
        charts={"loss": Chart("Training loss", "epoch", "mean loss of the epoch (nats)")},
    )


# Figures 3 and 9: spectra; 4 and 10: similarity; 12: surfaces -------------------------------------------


def _models_by_epsilon(lab, task, data):
    """Returns the trainings that the landscape is studied of, by ε."""
    (schedule,) = lab.scale.levels["landscape schedule"]
    return {
        epsilon: lab.train(f"{task}_{schedule}", eps=epsilon) for epsilon in lab.scale.levels[f"{data} eps"]
    }


def _studied(lab, study, task, data, zero=True):
    models = _models_by_epsilon(lab, task, data)
    runs = {f"ε = {epsilon}": model for epsilon, model in models.items()}
    runs |= {
        f"ε = {epsilon}, {study}": lab.analyze(study, model)
        for epsilon, model in models.items()
        if zero or epsilon != "0"
    }
    return runs


def _pairs(runs, study):
    """Yields row, training and analysis of every ε that was studied."""
    for row, run in runs.items():
        if not row.endswith(study):
            yield row, run, runs.get(f"{row}, {study}")


def _spectra(runs, record):
    rows = [row for row, *_ in _pairs(runs, "hessian")]
    record.expect(rows, *ERRORS, "lambda_1", "lambda_last", "lambda_1_normalised", "random_loss")
    for row, model, analysis in _pairs(runs, "hessian"):
        readings.trained(record, row, model)
        found = readings.study(analysis, "hessian")
        if found:
            spectrum = found["models"][0]
            values, scale = spectrum["values"], spectrum["random_loss"]["mean"]
            record.put(row, loss=spectrum["loss"], lambda_1=values[0], lambda_last=values[-1])
            record.put(row, lambda_1_normalised=values[0] / scale, random_loss=scale)
            record.curve("spectrum", row, range(1, len(values) + 1), values)
    scales = [value for name, value in record.values.items() if name.endswith(":random_loss")]
    whole = bool(scales) and None not in scales
    record.put("", random_loss_ratio=max(scales) / min(scales) if whole else None)


RANDOM_LOSS = {
    "mnist": dict(zip(("0", "0.1", "0.2", "0.3", "0.4"), (2.3029, 2.3414, 2.3424, 2.3429, 2.3432),
                      strict=True)),
    "cifar10": dict(zip(("0", "2/255", "4/255", "8/255"), (2.3034, 2.3044, 2.3053, 2.3071), strict=True)),
}  # fmt: skip


def _spectra_entry(number, task, data):
    return Entry(
        PAPER,
        f"figure{number}",
        f"Figure {number}, largest eigenvalues of the Hessian by ε, {NAMES[task]}",
        functools.partial(_studied, study="hessian", task=task, data=data),
        _spectra,
        (
            Claim(
                "The largest eigenvalue grows with ε.", _if_all_train(ALONE, _with_epsilon("lambda_1", ALONE))
            ),
            Claim(
                "Divided by the loss at random weights, the largest eigenvalue grows with ε, too.",
                _if_all_train(ALONE, _with_epsilon("lambda_1_normalised", ALONE)),
            ),
            Claim(
                "The last of the largest eigenvalues grows with ε, too.",
                _if_all_train(ALONE, _with_epsilon("lambda_last", ALONE)),
            ),
            Claim(
                "The loss at random weights hardly depends on ε: the largest is at most 1.1 times the "
                "smallest.",
                within_bound("random_loss_ratio", 1.1, "×"),
            ),
        ),
        {f"ε = {epsilon}:random_loss": (value, None) for epsilon, value in RANDOM_LOSS[data].items()},
        {"spectrum": Chart("Largest eigenvalues of the Hessian", "number", "eigenvalue (nats)", log=True)},
    )


SIMILARITY = (
    *(*ERRORS, "images", "cosine_random", "cosine_difference", "error_rise_random"),
    *("error_end_eigenvector", "error_end_random", "largest_variance"),
)


def _similarity(runs, record):
    record.expect([row for row, _, analysis in _pairs(runs, "similarity") if analysis], *SIMILARITY)
    for row, model, analysis in _pairs(runs, "similarity"):
        readings.trained(record, row, model)
        if analysis is None or readings.study(analysis, "similarity") is None:
            continue
        found = readings.arrays(analysis, "similarity")
        offsets = found["offsets"].tolist()
        moved = [place for place, offset in enumerate(offsets) if offset]
        # Axes: model, split, run, direction, sign where there is one, length of the move.
        cosines = found["similarity"][0, 0]
        errors = found["error"][0, 0].mean(axis=2)
        for place, direction in enumerate(found["directions"].tolist()):
            mean = cosines[:, place].mean(axis=0)
            rise = errors[:, place, -1] - errors[:, place, 0]
            readings.with_interval(
                record, row, f"cosine_{direction}", cosines[:, place][:, moved].mean(axis=1)
            )
            readings.with_interval(record, row, f"error_rise_{direction}", rise)
            record.curve("cosine", f"{row}, {direction}", offsets, mean)
            record.curve("error", f"{row}, {direction}", offsets, errors[:, place].mean(axis=0))
        difference = (cosines[:, 1] - cosines[:, 0])[:, moved].mean(axis=1)
        readings.with_interval(record, row, "cosine_difference", difference)
        ends = dict(zip(found["directions"].tolist(), errors[:, :, -1].mean(axis=0), strict=True))
        record.put(row, **{f"error_end_{direction}": error for direction, error in ends.items()})
        record.put(row, images=int(found["examples"][0]))
        if len(cosines) > 1:
            record.put(row, largest_variance=float(cosines.var(axis=0, ddof=1).max()))


def _at_every_epsilon(make):
    """The claim holds at every ε; `make` gets the row. One whose run has failed leaves it open, unless
    another ε refutes it."""

    def judge(measured):
        rows = [name.partition(":")[0] for name in measured.names() if name.endswith(":cosine_random")]
        trained = [
            provided(seen_at_most(f"{row}:pgd_error", TRAINS), f"{row}: {NOT_LEFT}", make(row))
            for row in rows
        ]
        return together(*trained, names=rows)(measured)

    return judge


NOT_LEFT = "training has not left the constant classifier; its PGD error must be at most 80 %."
STARTS = "attacks from other random starts on one classifier"


def _similarity_entry(number, task, data):
    return Entry(
        PAPER,
        f"figure{number}",
        f"Figure {number}, perturbations at θ ± a·v, {NAMES[task]}",
        functools.partial(_studied, study="similarity", task=task, data=data, zero=False),
        _similarity,
        (
            Claim(
                "Along the top eigenvector the perturbations turn more than along a random direction, at "
                "every ε.",
                _at_every_epsilon(lambda row: positive(f"{row}:cosine_difference", "", over=STARTS)),
            ),
            Claim(
                "Along a random direction the perturbations stay alike (mean cosine above 0.9), at every ε.",
                _at_every_epsilon(lambda row: positive(f"{row}:cosine_random", "", least=0.9, over=STARTS)),
            ),
            Claim(
                "The robust error is higher far along the top eigenvector than as far along a random "
                "direction.",
                _at_every_epsilon(
                    lambda row: higher(
                        f"{row}:error_end_eigenvector", f"{row}:error_end_random", images=f"{row}:images"
                    )
                ),
            ),
            Claim(
                "Along a random direction the robust error stays as it is (less than 5 points more at the "
                "farthest move).",
                _at_every_epsilon(lambda row: within_bound(f"{row}:error_rise_random", 5.0, "points")),
            ),
            Claim(
                "The variance over four attacks is below 0.005.",
                _at_every_epsilon(lambda row: within_bound(f"{row}:largest_variance", 0.005, "")),
            ),
        ),
        charts={
            "cosine": Chart("Cosine of the perturbations at θ ± a·v", "a", "mean cosine"),
            "error": Chart("Robust error at θ ± a·v", "a", "robust error (%)"),
        },
    )


def _surfaces(runs, record):
    record.expect([row for row, *_ in _pairs(runs, "surface")], *ERRORS, "loss_rise")
    for row, model, analysis in _pairs(runs, "surface"):
        readings.trained(record, row, model)
        if readings.study(analysis, "surface") is None:
            continue
        found = readings.arrays(analysis, "surface")
        losses, middle = found["adversarial_loss"], len(found["axis0"]) // 2
        here, along = losses[middle, middle], losses[:, middle]
        ends = (losses[0, middle], losses[-1, middle], losses[middle, 0], losses[middle, -1])
        record.put(row, loss=here, loss_rise=sum(ends) / 4 - here, largest_loss=losses.max())
        record.curve("section", row, found["axis0"].tolist(), along.tolist())


def _surfaces_entry(name, task):
    return Entry(
        PAPER,
        f"figure12-{name}",
        f"Figure 12, loss surface along two eigenvectors, {NAMES[task]}",
        functools.partial(_studied, study="surface", task=task, data=name),
        _surfaces,
        (
            Claim(
                "The loss rises by more around the weights, along the two top eigenvectors, the larger ε is.",
                _if_all_train(ALONE, _with_epsilon("loss_rise", ALONE)),
            ),
        ),
        charts={"section": Chart("Loss along the top eigenvector", "a", "adversarial loss (nats)")},
    )


# Figures 5 and 13: learning rates -------------------------------------------------------------------------

WARMED_RATE = "warmed-up learning rate"  # how the rows of figure 13 begin that warm up no ε


def _rates_runs(lab):
    return {
        f"{schedule}, rate {rate}": lab.train(f"{MNIST}_{schedule}", lr=rate)
        for schedule in SCHEDULES
        for rate in lab.scale.levels["rates"]
    }


def _rates(runs, record):
    by_schedule = {}
    record.expect(runs, *ERRORS)
    for row, run in runs.items():
        readings.trained(record, row, run)
        schedule, _, rate = row.partition(", rate ")
        by_schedule.setdefault(schedule, {})[float(rate)] = record.values[f"{row}:pgd_error"]
    record.expect(by_schedule, "examples", "mean_over_rates", "best", "worst")
    examples = [value for name, value in record.values.items() if name.endswith(":examples") and value]
    for schedule, errors in by_schedule.items():
        known = {rate: errors[rate] for rate in sorted(errors) if errors[rate] is not None}
        if known:
            record.put(schedule, examples=examples[0])
            record.curve("rates", schedule, known.keys(), known.values())
        if len(known) == len(errors):  # without the rate that has failed, a mean is of something else
            found = known.values()
            record.put(schedule, mean_over_rates=sum(found) / len(found), best=min(found), worst=max(found))


FIGURE5 = Entry(
    PAPER,
    "figure5",
    "Figure 5, robust error by learning rate and schedule, LeNet on MNIST",
    _rates_runs,
    _rates,
    tuple(
        Claim(
            f"With a {schedule} ε the robust error is lower than with a constant one on the mean over "
            "learning rates: a broader range of them is good.",
            lower(f"{schedule}:mean_over_rates", "constant:mean_over_rates", images="constant:examples"),
        )
        for schedule in WARM
    ),
    charts={
        "rates": Chart("Robust error by learning rate", "learning rate of Adam", "PGD error (%)", log_x=True)
    },
)


def _warmup_runs(lab):
    """Both warm-ups have the same choice of learning rates."""
    rates = lab.scale.levels["rates"]
    warmed = {
        f"{WARMED_RATE}, {rate}": lab.train(f"{MNIST}_constant", lr=rate, lr_sched="warmup", lr_warmup="0.1")
        for rate in rates
    }
    of_epsilon = {
        f"{schedule} ε, {rate}": lab.train(f"{MNIST}_{schedule}", lr=rate)
        for schedule in WARM
        for rate in rates
    }
    return warmed | of_epsilon


def _warmup(runs, record):
    record.expect(runs, *ERRORS)
    for row, run in runs.items():
        readings.trained(record, row, run)
        rows = readings.epochs(run)
        record.curve("error", row, *_errors(rows, "val_robust_accuracy"))
    bests = {"best learning-rate warm-up": [], "best ε warm-up": []}
    for row in runs:
        bests["best learning-rate warm-up" if row.startswith(WARMED_RATE) else "best ε warm-up"].append(row)
    record.expect(bests, "pgd_error", "examples")
    for best, rows in bests.items():
        errors = [record.values[f"{row}:pgd_error"] for row in rows]
        if None not in errors:  # the one that has failed may be the best
            record.put(best, pgd_error=min(errors), examples=record.values[f"{rows[0]}:examples"])


FIGURE13 = Entry(
    PAPER,
    "figure13",
    "Figure 13, warm-up of the learning rate instead of ε, LeNet on MNIST",
    _warmup_runs,
    _warmup,
    (
        Claim(
            "Warming up the learning rate at a constant ε is no substitute: its best robust error is higher "
            "than the best of warming up ε.",
            lower(
                "best ε warm-up:pgd_error",
                "best learning-rate warm-up:pgd_error",
                images="best ε warm-up:examples",
            ),
        ),
    ),
    charts={"error": Chart("Robust error along training", "epoch", "PGD error, validation (%)")},
    note="The numbers are the learning rates of Adam. The best ones are those with the lowest error.",
)


# Figure 14: capacity ----------------------------------------------------------------------------------------


def _capacity_runs(lab):
    runs = {
        f"w = {width}, {schedule}": lab.train(f"{MNIST}_{schedule}", width=width)
        for width in lab.scale.levels["widths"]
        for schedule in SCHEDULES
    }
    return runs | {f"{row}, units": lab.analyze("dynamics", run) for row, run in runs.items()}


def _capacity(runs, record):
    record.expect([row for row, *_ in _pairs(runs, "units")], *ERRORS, "dead_units")
    for row, model, analysis in _pairs(runs, "units"):
        readings.trained(record, row, model)
        width, _, schedule = row.removeprefix("w = ").partition(", ")
        error = record.values[f"{row}:pgd_error"]
        if error is not None:
            known = record.curves.get("capacity", {}).get(schedule, {"x": [], "y": []})
            record.curve("capacity", schedule, [*known["x"], int(width)], [*known["y"], error])
        found = readings.study(analysis, "dynamics")
        if found:
            layers = found["units"][0]["layers"]
            dead = sum(layer["adversarial"]["dead"] for layer in layers)
            record.put(row, dead_units=100 * dead / sum(layer["units"] for layer in layers))
            record.put(row, dead_layers=sum(bool(layer["adversarial"]["dead_layer"]) for layer in layers))


def _by_width(make):
    """The claim holds at every width; `make` gets the beginning of the row. A width whose run has failed
    leaves it open, unless another refutes it."""

    def judge(measured):
        widths = _widths(measured)
        return together(*map(make, widths), names=widths)(measured)

    return judge


def _widths(measured):
    """Returns the beginnings of the rows, from the largest width to the smallest, also of failed runs."""
    names = [name for name in measured.names() if name.endswith(", constant:pgd_error")]
    return [name.partition(",")[0] for name in names]


def _small_widths(measured):
    """At the two smallest widths a constant ε fails and both warm-ups train."""
    small = _widths(measured)[-2:]
    fails = [seen_at_least(f"{width}, constant:pgd_error", TRAINS, "%") for width in small]
    trains = [
        seen_at_most(f"{width}, {schedule}:pgd_error", TRAINS)
        for width, schedule in itertools.product(small, WARM)
    ]
    names = [f"{width}, {schedule} ε" for width, schedule in itertools.product(small, WARM)]
    return together(*fails, *trains, names=[*(f"{width}, constant ε" for width in small), *names])(measured)


def _dead(measured):
    widths = _widths(measured)
    if not widths:
        raise Missing("No width was measured.")
    width = widths[-1]
    constant, cosine = f"{width}, constant:dead_units", f"{width}, cosine:dead_units"
    return more(constant, cosine, "% of the units")(measured)


FIGURE14 = Entry(
    PAPER,
    "figure14",
    "Figure 14, width of the network, LeNet on MNIST",
    _capacity_runs,
    _capacity,
    (
        *(
            Claim(
                f"A {schedule} ε gives a lower robust error than a constant one at every width.",
                _by_width(
                    lambda width, schedule=schedule: lower(
                        f"{width}, {schedule}:pgd_error",
                        f"{width}, constant:pgd_error",
                        images=f"{width}, constant:examples",
                    )
                ),
            )
            for schedule in WARM
        ),
        Claim(
            "At the two smallest widths training fails with a constant ε (an error above 80 %) and does not "
            "with the warm-ups.",
            _small_widths,
        ),
        Claim("At the smallest width a constant ε leaves more dead units than a cosine one.", _dead),
    ),
    charts={"capacity": Chart("Robust error by width", "width factor w", "PGD error (%)")},
)


# Figure 15: connectivity ------------------------------------------------------------------------------------

OTHER_END = 1000  # added to the seed of the one end for that of the other


def _connectivity_runs(lab, task, order):
    (schedule,) = lab.scale.levels["landscape schedule"]
    data = "mnist" if task == MNIST else "cifar10"
    runs = {}
    for epsilon in lab.scale.levels[f"{data} connectivity eps"]:
        ends = [lab.train(f"{task}_{schedule}", eps=epsilon, seed=lab.seed + more) for more in (0, OTHER_END)]
        runs[f"ε = {epsilon}"] = ends[0]
        runs[f"ε = {epsilon}, other end"] = ends[1]
        runs[f"ε = {epsilon}, curve"] = lab.analyze("connectivity", *ends, curve_order=order)
    return runs


def _connectivity(runs, record):
    rows = [row.removesuffix(", curve") for row in runs if row.endswith(", curve")]
    record.expect(rows, *ERRORS, "curve_barrier", "curve_dip")
    for row, analysis in runs.items():
        if not row.endswith(", curve"):
            continue
        name = row.removesuffix(", curve")
        readings.trained(record, name, runs[name])
        found = readings.study(analysis, "connectivity")
        if found:
            heights = found["curves"][0]
            record.put(name, curve_barrier=heights["curve"]["train_loss"]["barrier"])
            record.put(name, line_barrier=heights["line"]["train_loss"]["barrier"])
            record.put(name, curve_largest=heights["curve"]["train_loss"]["largest"])
            record.put(name, error_largest=heights["curve"]["test_error"]["largest"])
            arrays = readings.arrays(analysis, "connectivity")
            losses = arrays["curve_train_loss"][0].tolist()
            record.put(name, curve_dip=min(losses[0], losses[-1]) - min(losses))
            record.curve("curve", name, arrays["t"].tolist(), losses)


DIP = 0.05  # nats
NO_MINIMA = (
    "The ends are no minima of the loss on the images that the curve was trained on: it falls below both by "
    f"more than {DIP:g} nats for"
)


def _if_between_minima(start: str, judge: Judge) -> Judge:
    """Judges only where the ends of the curves are minima on the images that the curves were trained on.

    A curve that fits these images better than its ends do has been trained further, or on fewer images. What
    it rises or falls by above them then tells of that, and not of a barrier.
    """

    def whole(measured):
        rows = [name for name in measured.names() if name.startswith(start) and name.endswith(":curve_dip")]
        below = [name.partition(":")[0] for name in rows if (measured[name] > DIP).any()]
        if below:
            return Verdict(OPEN, reasons=(f"{NO_MINIMA} {', '.join(below)}.",))
        return judge(measured)

    return whole


def _connectivity_entry(name, task, order):
    return Entry(
        PAPER,
        f"figure15-{name}",
        f"Figure 15, curves between two minima, {NAMES[task]}",
        functools.partial(_connectivity_runs, task=task, order=order),
        _connectivity,
        (
            Claim(
                "Without perturbations the trained curve is flat: its loss rises by less than 0.1 nats above "
                "that of its ends.",
                provided(
                    seen_at_most("ε = 0:pgd_error", TRAINS),
                    f"ε = 0: {NOT_LEFT}",
                    _if_between_minima("ε = 0:", within_bound("ε = 0:curve_barrier", 0.1, "nats")),
                ),
            ),
            Claim(
                "The larger ε is, the higher is the barrier that is left on the trained curve.",
                _if_all_train(ALONE, _if_between_minima(ALONE, _with_epsilon("curve_barrier", ALONE))),
            ),
        ),
        charts={"curve": Chart("Loss along the trained curve", "position t", "training loss (nats)")},
    )


ENTRIES = (
    FIGURE1,
    _table1_entry("mnist", MNIST, periods=False),
    _table1_entry("vgg", VGG, periods=True),
    _table1_entry("resnet18", RESNET18, periods=True),
    _gradients_entry(2, RESNET18, "cifar10"),
    _spectra_entry(3, RESNET18, "cifar10"),
    _similarity_entry(4, RESNET18, "cifar10"),
    FIGURE5,
    _gradients_entry(8, MNIST, "mnist"),
    _spectra_entry(9, MNIST, "mnist"),
    _similarity_entry(10, MNIST, "mnist"),
    _losses_entry("mnist", MNIST),
    _losses_entry("cifar10", RESNET18),
    _surfaces_entry("mnist", MNIST),
    _surfaces_entry("cifar10", RESNET18),
    FIGURE13,
    FIGURE14,
    _connectivity_entry("mnist", MNIST, 2),
    _connectivity_entry("cifar10", RESNET18, 4),
)
