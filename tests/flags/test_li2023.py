"""The flagfiles of Li & Spratling 2023 against the settings and the numbers of its Tables 1 to 3."""

import pytest
from helpers.flagfiles import content, experiments, header, parsed

from advtf.training.settings import TrainConfig

RESNET, WIDE_RESNET = "li2023/cifar10/preact_resnet18", "li2023/cifar10/wrn34_10"
EXPORTS = "saved_models/cifar10_preact_resnet18"
TINY_IMAGENET = "li2023/tiny_imagenet/preact_resnet18"

SHARED = dict(
    eps=8 / 255, eps_sched="constant", eps_max=None, eps_min=0.0, norm="linf", attack_steps=10,
    relative_step=0.25, random_start="none", attack_mode="training", epochs=200, periods=(), batch_size=100,
    augment=True, optimizer="sgd", lr=0.1, momentum=0.9, lr_sched="step", lr_milestones=(0.5, 0.75),
    lr_factor=0.1, weight_decay=1e-4, nesterov=False, val_fraction=0.02, awp=0.0, activation="relu",
)  # fmt: skip
RAW = dict(shortcut="raw", stride_in=None)
SMALL = dict(dataset="cifar10", model="preact_resnet18", width=16, depth=None, **RAW)
WIDE = dict(dataset="cifar10", model="wide_resnet", width=10, depth=34, shortcut="raw", stride_in="second")
TINY = dict(dataset="tiny_imagenet", model="preact_resnet18", width=16, adversary="pgd", **RAW)
SWA = dict(averaging="swa", swa_start=0.25, swa_every=500)
STRENGTHS = {  # section 5.1, against FGSM-N and PGD10
    "igr": (12, 10), "cure": (15, 15), "gradalign": (7, 6), "logitalign": (100, 50),
    "consistency": (50, 50), "kdsa": (None, None), "advlc": (0.55, 0.4),
}  # fmt: skip
TABLE = {  # clean accuracy best and end, AutoAttack best and end
    "standard": (44.25, 94.88, 2.61, 0.00),
    "fgsm_n": (83.51, 83.72, 41.77, 34.19),
    "fgsm_n_igr": (80.90, 83.56, 43.96, 35.98),
    "fgsm_n_cure": (81.32, 82.45, 44.18, 39.33),
    "fgsm_n_gradalign": (80.73, 81.35, 41.03, 33.95),
    "fgsm_n_logitalign": (81.26, 82.04, 43.72, 38.38),
    "fgsm_n_consistency": (81.21, 82.75, 45.70, 43.53),
    "fgsm_n_kdsa": (84.40, 85.20, 43.77, 42.15),
    "fgsm_n_kdsa_swa": (84.03, 85.17, 45.80, 45.04),
    "fgsm_n_advlc": (81.06, 82.70, 47.07, 42.71),
    "fgsm_n_advlc_swa": (79.46, 82.14, 48.96, 48.14),
    "pgd10": (83.40, 83.58, 46.50, 40.42),
    "pgd10_igr": (81.43, 83.50, 46.45, 41.90),
    "pgd10_cure": (80.65, 82.67, 46.24, 42.38),
    "pgd10_gradalign": (81.52, 82.28, 45.01, 38.96),
    "pgd10_logitalign": (81.30, 81.93, 46.59, 43.42),
    "pgd10_consistency": (81.66, 81.95, 48.11, 47.66),
    "pgd10_kdsa": (84.15, 85.15, 47.92, 46.15),
    "pgd10_kdsa_swa": (83.81, 84.73, 49.58, 49.26),
    "pgd10_advlc": (81.16, 82.23, 48.73, 45.11),
    "pgd10_advlc_swa": (79.70, 82.09, 50.55, 49.73),
    "fgsm_n_advlc_l1": (81.09, 82.88, 46.01, 40.04),
    "fgsm_n_advlc_kl": (80.83, 82.74, 46.29, 41.12),
    "fgsm_n_advlc_js": (81.18, 82.73, 46.69, 41.75),
    "fgsm_n_advlc_nuclear": (80.82, 82.64, 46.52, 42.51),
    "fgsm_n_advlc_l2": (80.73, 82.79, 47.00, 41.73),
}


def expectations() -> dict[str, dict]:
    expected = {f"{RESNET}/standard": SMALL | dict(objective="standard")}
    for place, (short, adversary) in enumerate((("fgsm_n", "fgsm_n"), ("pgd10", "pgd"))):
        name, base = f"{RESNET}/{short}", SMALL | dict(adversary=adversary)
        expected[name] = base | dict(objective="at", averaging="none")
        for objective, strengths in STRENGTHS.items():
            noised = adversary == "fgsm_n" and objective == "advlc"
            made = base | dict(objective=objective, strength=strengths[place], noised_clean=noised)
            expected[f"{name}_{objective}"] = made
        teachers = (f"{EXPORTS}_standard/last", f"{EXPORTS}_{short}/best")
        expected[f"{name}_kdsa"] |= dict(teachers=teachers, temperature=2)
        expected[f"{name}_consistency"]["temperature"] = 1
        expected[f"{name}_kdsa_swa"] = expected[f"{name}_kdsa"] | SWA
        averaged = SWA | dict(strength=(0.5, 0.3)[place])
        expected[f"{name}_advlc_swa"] = expected[f"{name}_advlc"] | averaged
    return expected | distances() | tiny() | wide()


def distances() -> dict[str, dict]:
    shared = SMALL | dict(adversary="fgsm_n", objective="advlc", noised_clean=True)
    names = ("l1", "l2", "kl", "js", "nuclear")
    return {f"{RESNET}/fgsm_n_advlc_{name}": shared | dict(advlc_distance=name) for name in names}


def tiny() -> dict[str, dict]:
    ramped = TINY | dict(objective="advlc", strength_ramp=True)
    top = dict(advlc_distance="top", strength=0.15, advlc_fraction=0.1)
    return {
        f"{TINY_IMAGENET}/pgd10": TINY | dict(objective="at"),
        f"{TINY_IMAGENET}/pgd10_advlc": ramped | top,
        f"{TINY_IMAGENET}/pgd10_advlc_l1": ramped | dict(advlc_distance="l1", strength=0.07),
    }


def wide() -> dict[str, dict]:
    made = {
        "standard": dict(objective="standard"),
        "fgsm": dict(adversary="fgsm", objective="at"),
        "fgsm_r": dict(adversary="fgsm_r", objective="at"),
        "pgd10": dict(adversary="pgd", objective="at"),
        "fgsm_r_minus_st": dict(adversary="fgsm_r", objective="at_minus_st", strength=0.5),
        "standard_igr": dict(adversary="none", objective="igr", strength=10),
    }
    return {f"{WIDE_RESNET}/{name}": WIDE | settings for name, settings in made.items()}


EXPECTED = expectations()


def run_name(name: str) -> str:
    """The name of the run and of its exports: data set, model, variant. The default has no variant."""
    return "_".join(name.split("/")[1:])


def test_every_row_has_a_flagfile_and_every_flagfile_is_expected():
    assert {f"{RESNET}/{row}" for row in TABLE} <= set(EXPECTED)
    assert experiments("li2023") == sorted(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_resolves_to_the_papers_settings(name):
    settings, options = parsed(name)
    config = TrainConfig.of(settings)
    for setting, value in (SHARED | EXPECTED[name]).items():
        assert getattr(config, setting) == pytest.approx(value), setting
    assert options == {"out_dir": f"runs/{run_name(name)}"}


@pytest.mark.parametrize("name", EXPECTED)
def test_header_names_the_evaluation_and_what_was_not_measured(name):
    best = "swa_best" if name.endswith("_swa") else "best"
    command = f"python -m advtf.evaluate --model=saved_models/{run_name(name)}/{best}"
    assert header(name).splitlines()[2].startswith(command)
    assert "not measured" in header(name)


def test_the_base_file_names_the_held_out_data():
    assert f"holds out {SHARED['val_fraction']:.0%} of\nthe training images" in header("li2023/base")


@pytest.mark.parametrize("row", TABLE)
def test_header_quotes_the_papers_accuracies(row):
    clean_best, clean_end, best, end = (f"{value:.2f}±" for value in TABLE[row])
    (line,) = [line for line in header(f"{RESNET}/{row}").splitlines() if line.startswith("  clean ")]
    clean, robust = line.split(", AutoAttack ")
    assert clean.removeprefix("  clean ").startswith(clean_best) and f" / {clean_end}" in clean
    assert robust.startswith(best) and f" / {end}" in robust


@pytest.mark.parametrize(
    "name", [name for name in EXPECTED if name.rpartition("_")[2] in ("l1", "l2", "kl", "js", "nuclear")]
)
def test_a_strength_that_the_paper_does_not_give_is_marked_as_ours(name):
    assert ("our choice" in header(name)) == name.startswith(RESNET)


def test_teachers_are_what_other_flagfiles_export():
    distilled = [name for name in EXPECTED if "kdsa" in name]
    assert len(distilled) == 4
    for name in distilled:
        for teacher in parsed(name)[0]["teachers"].split(","):
            run = teacher.split("/")[1]
            (other,) = [other for other in EXPECTED if run_name(other) == run]
            assert parsed(other)[1]["out_dir"] == f"runs/{run}"
            assert f"{other.rpartition('/')[2]}.flags" in content(name).split("\n--")[0]
