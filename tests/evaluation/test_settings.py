"""The settings of an evaluation: names of attacks, defaults, mistakes."""

import dataclasses

import pytest

from advtf.errors import UsageError
from advtf.evaluation.attacks import SUITES, line_up
from advtf.evaluation.settings import AttackSettings


def test_autoattack_is_the_standard_version():
    # Croce & Hein 2020, section 5: APGD-CE, targeted APGD-DLR and FAB of 9 targets, 100 iterations each,
    # one start, and Square of 5000 queries.
    settings = AttackSettings()
    assert line_up(settings.attacks, 10).suites == {"autoattack": ("apgd_ce", "apgd_t", "fab_t", "square")}
    assert SUITES["screen"].attacks == SUITES["autoattack"].attacks[:2]
    assert (settings.steps, settings.targets, settings.restarts, settings.queries) == (100, 9, 1, 5000)


def test_names_are_split_and_kept_once():
    settings = AttackSettings(attacks="pgd, screen,apgd_ce,pgd")
    assert settings.attacks == ("pgd", "screen", "apgd_ce")
    assert line_up(settings.attacks, 10).components == ("pgd", "apgd_ce", "apgd_t")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attacks": "pgd,sqare"}, "Did you mean 'square'"),
        ({"attacks": ""}, "attacks must be"),
        ({"eps": 8.0}, "8 probably means 8/255"),
        ({"eps": float("nan")}, "eps must be"),
        ({"eps": -0.1}, "eps must be"),
        ({"eps": 60.0, "norm": "l2"}, r"in \[0, 50\]"),
        ({"norm": "l1"}, "norm must be one of linf, l2"),
        ({"restarts": 0}, "restarts must be"),
        ({"targets": 10}, "targets must be"),
        ({"pgd_step_size": 0.5, "eps": 0.1}, "try eps/4"),
        ({"jit": "yes"}, "jit must be"),
        (
            {"jit": "on", "deterministic": True},
            "excludes XLA.*: deterministic=true, jit=on",
        ),
    ],
)
def test_bad_settings(given, message):
    with pytest.raises(UsageError, match=message):
        AttackSettings(**given)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AttackSettings().eps = 0.2
