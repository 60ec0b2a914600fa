"""Damaged files of runs: the command that reads one ends in one line with a remedy."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.damage import damaged

from advtf import main
from advtf.errors import UsageError
from advtf.evaluation.report import EvaluationDirectory
from advtf.evaluation.run import EvaluateOptions
from advtf.evaluation.run import plan as plan_evaluation
from advtf.evaluation.settings import AttackSettings
from advtf.storage import jsonl
from advtf.studies import dynamics
from advtf.studies.registry import STUDIES
from advtf.studies.run import AnalysisDirectory
from advtf.studies.run import plan as plan_analysis
from advtf.studies.settings import AnalyzeOptions, settings_class
from advtf.training.checkpoint import load_state
from advtf.training.directory import TrainingDirectory
from advtf.training.settings import RunOptions, TrainConfig

RESULTS = {"results": {}, "attacks": {}, "studies": {}}  # what the three commands write, each its own
REMEDY = re.compile(r"Restore|restored|[Cc]hoose|Leave|Add |Give|Name|start again|Use |Did you mean|must be")


def trained(path):
    run = TrainingDirectory(path)
    path.mkdir()
    run.write_config(TrainConfig.of({}), RunOptions(), exports="../saved")
    return run


def evaluated(path):
    run = EvaluationDirectory(path)
    path.mkdir()
    (path / "m").mkdir()
    (path / "m" / "saved_model.pb").write_bytes(b"")
    run.write_config(AttackSettings(eps=0.1), EvaluateOptions(model=str(path / "m"), dataset="digits"))
    return run


def analyzed(path):
    run = AnalysisDirectory(path)
    path.mkdir()
    settings = settings_class(STUDIES)(study=("theory",), eps=0.1)
    run.write_config(settings, AnalyzeOptions(), identity="0" * 64)
    return run


def continue_training(path):
    run = TrainingDirectory.choose(str(path), "", resume=True, overwrite=False)
    config, options = main._stored(run, {}, {"resume": "true"})
    run.exporting(options.export_dir, config.exported, typed=False, resume=True, overwrite=False)
    dynamics.labels([run])


def replace_training(path):
    run = TrainingDirectory.choose(str(path), "", resume=False, overwrite=True)
    run.exporting(None, ["last"], typed=False, resume=False, overwrite=True)


def continue_evaluation(path):
    plan_evaluation({}, {"out_dir": str(path), "resume": True})


def continue_analysis(path):
    run, settings, _ = plan_analysis({}, {"out_dir": str(path), "resume": True})
    run.is_finished(settings)


def refused(reader, path):
    try:
        reader(path)
    except UsageError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("make", "readers"),
    [
        (trained, (continue_training, replace_training)),
        (evaluated, (continue_evaluation,)),
        (analyzed, (continue_analysis,)),
    ],
)
def test_any_entry_of_another_type_in_config_json_ends_in_one_line(tmp_path, monkeypatch, make, readers):
    monkeypatch.chdir(tmp_path)
    run = make(tmp_path / "run")
    content = json.loads(run.config.read_text())
    for reader in readers:
        reader(run.path)  # what is whole is read
    lines = set()
    for _, _, text in damaged(content):
        run.config.write_text(json.dumps(text))
        lines |= {refused(reader, run.path) for reader in readers}
    lines.discard(None)
    assert len(lines) > 50
    assert [line for line in lines if "\n" in line or len(line) > 500 or not REMEDY.search(line)] == []
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff\xfe", "[" * 100_000])
@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("kind", [TrainingDirectory, EvaluationDirectory, AnalysisDirectory])
def test_a_config_that_is_no_record_is_named_with_the_remedy(tmp_path, kind, flags, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"config\.json must be the JSON object .* Restore it") as refused:
        kind.choose(str(tmp_path), "", **{"resume": False, "overwrite": False, **flags})
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "text", ["", "{", "[]\n", "null", "{}", '{"results": 1, "attacks": 1, "studies": 1}']
)
@pytest.mark.parametrize(
    ("make", "kind"),
    [(trained, TrainingDirectory), (evaluated, EvaluationDirectory), (analyzed, AnalysisDirectory)],
)
def test_results_that_are_damaged_are_not_called_finished(tmp_path, make, kind, text):
    run = make(tmp_path / "run")

    def resumed():
        return kind.choose(str(run.path), "", resume=True, overwrite=False)

    run.results.write_text(json.dumps(RESULTS))
    assert resumed().state() == "finished"
    run.results.write_text(text)
    with pytest.raises(
        UsageError, match=rf"{run.results.name} .* Restore it from a copy, or remove it"
    ) as line:
        resumed()
    assert "\n" not in str(line.value) and len(str(line.value)) < 500
    run.results.unlink()
    assert resumed().state() == "unfinished"


@pytest.mark.parametrize("kind", [TrainingDirectory, EvaluationDirectory, AnalysisDirectory])
def test_a_config_without_the_marks_of_a_run_is_named_where_one_is_continued(tmp_path, kind):
    (tmp_path / "config.json").write_text('{"model": 3}')
    with pytest.raises(UsageError, match=r"config\.json must tell .* damaged or of another .* Restore it"):
        kind.choose(str(tmp_path), "", resume=True, overwrite=False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.jsonl", "[]\n"),
        ("metrics.jsonl", "years of work\n"),
        ("metrics.jsonl", '{"epoch": 1}\n7\n'),
        ("snapshots/best.npz", "1"),
        ("snapshots/best.npz", ""),
    ],
)
def test_a_training_names_its_damaged_files_before_it_starts_tensorflow(tmp_path, monkeypatch, name, text):
    run = trained(tmp_path / "run")
    run.snapshots.mkdir()
    snapshot(run.snapshots / "best.npz")
    run.metrics.write_text('{"epoch": 1, "loss": 0.5}\n{"epo')  # as a kill leaves it
    run.require_undamaged()
    (run.path / name).write_text(text)
    monkeypatch.setattr(main, "_train_and_finish", lambda *_: pytest.fail("it has started"))
    monkeypatch.setattr(
        main.commands,
        "given_flags",
        lambda _, cls: {"out_dir": str(run.path), "resume": True} if cls is RunOptions else {},
    )
    with pytest.raises(UsageError, match=rf"{name}.*Restore it from a copy, or .* --overwrite") as line:
        main.main([])
    assert "\n" not in str(line.value) and "pickle" not in str(line.value)


def test_metrics_that_lack_what_is_finished_are_refused(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epo')
    jsonl.truncate(path, 0)
    with pytest.raises(UsageError, match=r"the records of 2 finished epochs\. Received: none\. Restore it"):
        jsonl.truncate(path, 2)


@pytest.mark.parametrize("value", ["x", True, [1.0], {"a": 1}])
def test_metrics_that_are_no_numbers_are_refused(tmp_path, value):
    path = tmp_path / "metrics.jsonl"
    text = json.dumps({"epoch": 1, "loss": value}) + "\n" + '{"epoch": 2, "loss": null}\n'
    path.write_text(text)
    with pytest.raises(UsageError, match=r"metrics\.jsonl, line 1: .*Restore it from a copy, or start again"):
        jsonl.truncate(path, 1)
    assert path.read_text() == text


def snapshot(path):
    np.savez(path, **{"classifier/0000/w": np.ones(3), "__meta__": np.array('{"name": "best"}')})
    return path.read_bytes()


@pytest.mark.parametrize(
    "damage", ["empty", "half", "flipped", "text", "other arrays", "list", "no JSON", "folder"]
)
def test_a_snapshot_that_is_damaged_is_named_with_the_remedy(tmp_path, damage):
    path = Path(tmp_path / "best.npz")
    whole = snapshot(path)
    groups, meta = load_state(path)
    assert meta == {"name": "best"} and list(groups) == ["classifier"]
    flipped = bytearray(whole)
    flipped[whole.index(np.ones(3).tobytes()) + 7] ^= 1
    contents = {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "flipped": bytes(flipped),
        "text": b"years of work",
    }
    if damage in contents:
        path.write_bytes(contents[damage])
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        record = {"list": "[1]", "no JSON": "{"}.get(damage)
        np.savez(path, **({"a": np.ones(2)} if record is None else {"__meta__": np.array(record)}))
    with pytest.raises(
        UsageError, match=r"best.npz .*Restore it from a copy, or train again with --over"
    ) as error:
        load_state(path)
    assert "\n" not in str(error.value) and "pickle" not in str(error.value)
