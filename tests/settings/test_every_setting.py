"""What holds of every setting of every command, as declared."""

import dataclasses

import pytest

from advtf.convert import ConvertOptions
from advtf.errors import UsageError
from advtf.evaluation.run import EvaluateOptions
from advtf.evaluation.settings import AttackSettings
from advtf.reports.settings import ReportOptions
from advtf.studies.settings import AnalyzeOptions, AnalyzeSettings
from advtf.training.settings import RunOptions, TrainConfig

CLASSES = (
    *(TrainConfig, RunOptions, AttackSettings, EvaluateOptions),
    *(AnalyzeSettings, AnalyzeOptions, ConvertOptions, ReportOptions),
)
SETTINGS = [(cls, field) for cls in CLASSES for field in dataclasses.fields(cls)]
every_setting = pytest.mark.parametrize(
    ("cls", "field"), SETTINGS, ids=lambda each: getattr(each, "name", None) or each.__name__
)


@every_setting
def test_what_no_setting_can_mean_is_refused_by_its_name(cls, field):
    for nonsense in ("\x00", object(), {"a": 1}, b"bytes"):
        with pytest.raises(UsageError, match=f"^{field.name} must be .*Received: {field.name}=") as caught:
            cls.of({field.name: nonsense})
        assert "\n" not in str(caught.value)


@every_setting
def test_its_help_is_a_phrase_and_says_what_can_be_chosen(cls, field):
    text, parser = field.metadata["help"], field.metadata["parser"]
    assert text == text.strip() and not text.endswith(".") and 5 < len(text) < 120
    assert not parser.boolean or field.type is bool or "bool" in str(field.type)
    required = parser.requirement if isinstance(parser.requirement, str) else parser.requirement()
    assert all(name in required for name in parser.choices)
