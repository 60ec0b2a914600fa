"""The registry of studies: what follows from an entry, and studies that a script adds."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.analysis import read
from helpers.evaluate import digits

import advtf
from advtf.errors import UsageError
from advtf.settings.fields import Settings, real, setting
from advtf.studies import STUDIES, Study
from advtf.studies.run import AnalysisDirectory
from advtf.studies.settings import AnalyzeSettings, CommonSettings, settings_class

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BrightnessSettings(Settings):
    """Settings of the study that the tests add."""

    added: float = setting("brightness", real(), "what is added to every image", 0.25)


def brightness(context):
    """Writes the mean of the images and what the settings add to it."""
    return [context.write_json("brightness", {"mean": context.x.mean() + context.settings.added})]


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setitem(STUDIES, "brightness", Study(brightness, BrightnessSettings))


def test_every_setting_of_an_analysis_has_one_owner_and_studies_follow_the_common_ones():
    names = [field.name for field in dataclasses.fields(AnalyzeSettings)]
    assert len(set(names)) == len(names)
    parts = [CommonSettings, *(study.settings for study in STUDIES.values() if study.settings)]
    assert names == [field.name for part in parts for field in dataclasses.fields(part)]
    for name, study in STUDIES.items():
        own = {field.metadata["section"] for field in dataclasses.fields(study.settings or Settings)}
        assert own <= {name}
    assert STUDIES["similarity"].sections == ("similarity", "hessian")


def test_every_study_of_the_package_has_its_code():
    for study in STUDIES.values():
        assert (ROOT / f"{study.code.replace('.', '/')}.py").is_file()


def test_a_study_of_ones_own_brings_its_settings(own):
    model, x, y = digits()
    found = advtf.analyze(model, x, y, study="brightness", epsilon=0.1)
    assert found["mean"] == pytest.approx(x.mean() + 0.25) and found["settings"]["added"] == 0.25
    more = advtf.analyze(model, x, y, study="brightness", epsilon=0.1, added="1/2")
    assert more["settings"]["added"] == 0.5
    for given, message in (
        ({"study": "brightness", "added": -1}, r"added must be a number of at least 0.*Received: added=-1"),
        ({"study": "density", "added": 1}, "added"),  # it is no setting of other studies
        ({"study": "brightnes"}, "Did you mean 'brightness'"),
    ):
        with pytest.raises(UsageError, match=message):
            advtf.analyze(model, x, y, epsilon=0.1, **given)


def test_it_can_be_added_to_an_analysis_begun_without_it(own, tmp_path):
    model, x, y = digits()
    call = {"x": x, "y": y, "epsilon": 0.1, "out_dir": tmp_path / "out", "attack_steps": 2}
    advtf.analyze(model, study="density", density_probes=1, density_steps=2, **call)
    assert "added" not in read(tmp_path / "out" / "config.json")["config"]
    assert advtf.analyze(model, study="brightness", added=0.5, **call)["settings"]["added"] == 0.5
    stored = AnalysisDirectory(tmp_path / "out").stored_settings()
    assert (stored.study, stored.added, stored.density_steps) == (("density", "brightness"), 0.5, 2)
    with pytest.raises(UsageError, match=r"added=0.5. Received: added=0.75"):
        advtf.analyze(model, study="brightness", added=0.75, **call)


def test_two_settings_of_one_name_are_refused(own, monkeypatch):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Other(Settings):
        eigenvalues: float = setting("other", real(), "of something else", 0.0)

    monkeypatch.setitem(STUDIES, "other", Study(brightness, Other))
    with pytest.raises(UsageError, match="eigenvalues of HessianSettings and of Other"):
        settings_class(["other"])
    assert "added" not in {field.name for field in dataclasses.fields(settings_class())}


@pytest.mark.slow
def test_a_script_can_give_its_study_to_the_command(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import dataclasses, runpy\n"
        "from advtf.settings.fields import Settings, real, setting\n"
        "from advtf.studies import STUDIES, Study\n"
        "from advtf.studies import settings  # composed before the study is registered\n"
        "@dataclasses.dataclass(frozen=True, kw_only=True)\n"
        "class Mine(Settings):\n"
        "    added: float = setting('mine', real(), 'what is added', 0.25)\n"
        "def run(context):\n"
        "    return [context.write_json('mine', {'sum': 1 + context.settings.added})]\n"
        "STUDIES['mine'] = Study(run, Mine, models=0)\n"
        "runpy.run_module('advtf.analyze', run_name='__main__')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def command(*arguments):
        line = [sys.executable, str(script), *arguments]
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)

    helped = command("--help").stdout
    assert "what is added [0.25]" in helped and "theory, mine}" in " ".join(helped.split())
    done = command("--study=mine", "--added=1/2", "--out_dir=out")
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "out" / "mine" / "mine.json")["sum"] == 1.5
