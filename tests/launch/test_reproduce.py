"""The reproduction ledger: what its entries declare, how results are kept, and the page made of them."""

import dataclasses
import json
import os
import re
import types
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from helpers.command import ROOT, poisoned, run
from helpers.dynamics import write_run
from scipy import stats

from advtf.errors import UsageError
from advtf.evaluation.report import EvaluationDirectory
from advtf.evaluation.run import EvaluateOptions
from advtf.evaluation.settings import AttackSettings
from advtf.settings.commands import define_flags, given_flags, parse_flags
from advtf.settings.flagfiles import recipes
from advtf.studies.run import AnalysisDirectory
from advtf.studies.settings import AnalyzeOptions, AnalyzeSettings
from advtf.training.directory import TrainingDirectory
from advtf.training.settings import RunOptions, TrainConfig
from launch.common.runs import Run
from launch.reproduce import __main__ as command
from launch.reproduce import cost, ledger, readings, report
from launch.reproduce.entry import Record
from launch.reproduce.plan import Lab, Plan
from launch.reproduce.registry import ENTRIES, choose
from launch.reproduce.scales import SCALES, TASKS
from launch.reproduce.verdicts import FAILS, HOLDS, OPEN, Measured, decide

CLASSES = {
    TrainingDirectory: (TrainConfig, RunOptions),
    EvaluationDirectory: (AttackSettings, EvaluateOptions),
    AnalysisDirectory: (AnalyzeSettings, AnalyzeOptions),
}


@pytest.fixture(scope="module", params=SCALES)
def plan(request):
    return Plan(SCALES[request.param], "my runs", "my data")


def planned(plan, seeds=(0,)):
    """All runs of a scale, after every entry was asked."""
    entries = [entry for entry in ENTRIES if entry.key not in plan.scale.without]
    found = [one for entry in entries for seed in seeds for one in plan.of(entry, seed).values()]
    return plan.needed(found)


def parsed(one):
    """(settings, options) that the command makes of a run's flags."""
    values, classes = flags.FlagValues(), CLASSES[one.kind]
    define_flags(*classes, flag_values=values)
    words = [*one.flags, f"--out_dir={one.path}"]
    parse_flags(words, values, recipes=one.kind is TrainingDirectory)
    return tuple(cls.of(given_flags(values, cls)) for cls in classes)


def test_every_command_means_what_was_planned_and_comes_after_what_it_needs(plan):
    seen = {}
    for one in planned(plan):
        made = plan.run(one)
        settings, options = parsed(made)
        assert options.data_dir == "my data" and options.out_dir == made.path
        if one.kind is TrainingDirectory:
            assert settings == one.settings and options.export_dir == f"my runs/exports/{one.name}"
        else:
            ours = {name: value for name, value in settings.to_json().items() if name != "model"}
            assert ours == {name: one.settings.to_json()[name] for name in ours}
        named = settings.teachers if one.kind is TrainingDirectory else getattr(settings, "model", None)
        named = (options.model,) if one.kind is EvaluationDirectory else named
        folders = {str(Path(path).parent) for path in named or ()}
        assert folders == {f"my runs/exports/{Path(needed).name}" for needed in made.after}
        for path in named or ():
            assert Path(path).name in seen[f"my runs/runs/{Path(path).parent.name}"].settings.exported
        assert made.path not in seen
        seen[made.path] = one


def test_equal_trainings_share_a_directory_and_other_seeds_do_not():
    plan = Plan(SCALES["full"], "out")
    one, other = Lab(plan, 0), Lab(plan, 1)
    first = one.train("liu2020/mnist_lenet_constant")
    logged = one.train("liu2020/mnist_lenet_dynamics_eps0.4", dynamics_steps=500)
    assert first.name == logged.name and "--dynamics_steps=500" in plan.run(first).flags
    assert other.train("liu2020/mnist_lenet_constant").name != first.name
    assert one.train("liu2020/mnist_lenet_cosine").name != first.name
    assert (
        "--seed=0" in plan.run(first).flags
        and "--recipe=liu2020/mnist_lenet_constant" in plan.run(first).flags
    )


def test_what_a_recipe_itself_says_counts_more_than_the_scale():
    plan = Plan(SCALES["mini"], "out")
    base = SCALES["mini"].training["liu2020/mnist_lenet"]
    lab = Lab(plan, 0)
    assert lab.train("liu2020/mnist_lenet_constant").settings.width == base["width"]
    assert lab.train("liu2020/mnist_lenet_w2_constant").settings.width == 2
    assert lab.train("liu2020/mnist_lenet_w2_constant", width=3).settings.width == 3


def test_what_a_scale_says_of_a_recipe_counts_more_than_the_recipe():
    recipe = "li2023/cifar10_preact_resnet18_fgsm_n_advlc_swa"
    full, mini = (Lab(Plan(SCALES[name], "out"), 0) for name in ("full", "mini"))
    assert full.train(recipe).settings.swa_every == 500 and mini.train(recipe).settings.swa_every is None
    assert mini.train(recipe, swa_every=7).settings.swa_every == 7


def test_recipes_of_a_task_have_a_base():
    assert {f"{task}_base" for task in TASKS} <= set(recipes())
    for scale in SCALES.values():
        assert set(scale.training) == set(TASKS) and set(scale.recipes) <= set(recipes())


def test_every_claim_has_values_to_be_judged_by():
    """A claim names values; one that no entry measures would stay open for ever without anyone noticing."""
    for entry in ENTRIES:
        assert entry.claims and re.fullmatch(r"[a-z0-9_]+(-[a-z0-9_]+)*", entry.name)
        assert len({claim.text for claim in entry.claims}) == len(entry.claims)
        for claim in entry.claims:
            assert re.fullmatch(r"[A-Z].*\.", claim.text, re.DOTALL)
    keys = [entry.key for entry in ENTRIES]
    assert len(set(keys)) == len(keys)


def test_entries_are_chosen_by_name_and_by_what_they_begin_with():
    names = [entry.key for entry in choose(None, ("table1",))]
    assert {"liu2020-table1-mnist", "li2023-table1-pgd10"} <= set(names)
    assert [entry.key for entry in choose("li2023", ("figure1",))] == ["li2023-figure1"]
    assert {entry.paper for entry in choose("liu2020")} == {"liu2020"} and choose() == list(ENTRIES)
    with pytest.raises(UsageError, match=r"table1-mnist.*Received: only=table1-mnst\. Did you mean"):
        choose(None, ("table1-mnst",))
    with pytest.raises(UsageError, match="only=liu2020-table1"):
        choose("li2023", ("liu2020-table1",))


def test_the_list_and_a_bad_name_are_answered_without_tensorflow(tmp_path):
    first = (poisoned(tmp_path / "poison"),)
    code, out, error = run("launch.reproduce", tmp_path, "--list", "--scale=full", first=first)
    assert code == 0 and not error
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1:-2]] == [entry.key for entry in ENTRIES]
    assert "V100" in lines[1] and "not measured" in lines[-1]
    code, out, error = run("launch.reproduce", tmp_path, "--only=table9", first=first)
    assert (code, out) == (2, "") and error.startswith("error: only must be") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["poison"]


# Costs ----------------------------------------------------------------------------------------------------


def test_operations_are_counted_as_by_hand():
    # LeNet w = 1: 5×5 kernels, 2 channels on 28×28, 4 on 14×14, dense 7·7·4 -> 64 -> 10
    by_hand = 28 * 28 * 25 * 2 + 14 * 14 * 25 * 2 * 4 + 7 * 7 * 4 * 64 + 64 * 10
    assert cost.operations("lenet", (28, 28, 1), 10, width=1) == by_hand


def test_the_estimate_gives_back_the_steps_it_is_scaled_from():
    plan = Plan(SCALES["full"], "out")
    config = Lab(plan, 0).train("li2023/cifar10_preact_resnet18_pgd10", val_fraction=0, select_on="test")
    steps = 500 * 200
    watched = cost.of(plan, [config]).gpu_seconds - steps * 0.326
    assert 0 < watched < 0.1 * steps * 0.326  # measuring both exports, and the start
    config = Lab(plan, 0).train("liu2020/cifar10_resnet18_constant", precision="bfloat16", epochs=1)
    rows = json.loads(cost.STEPS.read_text())["comparisons"]
    measured = next(row for row in rows if row["what"].startswith("PGD-10 step, ResNet18"))["ours_median"]
    assert cost.of(plan, [config]).cpu_seconds > (49_000 // 128) * measured


# Results and their page -------------------------------------------------------------------------------------


def synthetic(entry, seed, shift=0.0):
    """A record in which every value of the entry's claims exists."""
    values = {name: pair[0] + shift + 0.01 * seed for name, pair in entry.published.items()}
    rows = {name.rpartition(":")[0] for name in values}
    values |= {f"{row}:{column}": 1000 for row in rows for column in ("examples", "attacked_images")}
    curve = {"x": [1, 2, 3], "y": [50.0 + seed, 40.0, None]}
    curves = {chart: {"constant": curve, "cosine": curve} for chart in entry.charts}
    return {"values": values, "curves": curves, "versions": {"advtf": "0"}}


@pytest.fixture
def stored(tmp_path):
    """A folder of results of one entry at the scale mini, with three seeds."""
    plan, (entry,) = Plan(SCALES["mini"], "out"), choose("liu2020", ("table1-mnist",))
    for seed in range(3):
        names = dict.fromkeys(one.name for one in plan.of(entry, seed).values())
        runs = [
            {"name": name, "command": f"python -m {name}", "seconds": 61.0, "finished": True}
            for name in names
        ]
        ledger.update(tmp_path / "ledger", plan, entry, seed, synthetic(entry, seed) | {"runs": runs})
    return plan, entry, tmp_path


def test_seeds_with_other_settings_are_not_mixed(stored):
    plan, entry, folder = stored
    assert list(ledger.read(folder / "ledger", "mini", entry).seeds) == [0, 1, 2]
    changed = {
        **plan.scale.training,
        "liu2020/mnist_lenet": plan.scale.training["liu2020/mnist_lenet"] | {"epochs": 3},
    }
    other = Plan(dataclasses.replace(plan.scale, training=changed), "out")
    names = dict.fromkeys(one.name for one in other.of(entry, 1).values())
    runs = [{"name": name, "command": "", "seconds": None, "finished": True} for name in names]
    ledger.update(folder / "ledger", other, entry, 1, synthetic(entry, 1) | {"runs": runs})
    assert list(ledger.read(folder / "ledger", "mini", entry).seeds) == [1]


def test_damaged_results_are_refused_in_one_line(stored):
    _, entry, folder = stored
    path = ledger.file_of(folder / "ledger", "mini", entry)
    path.write_text(path.read_text()[:100])
    with pytest.raises(UsageError, match="results of this version of the ledger"):
        ledger.read(folder / "ledger", "mini", entry)
    path.write_text('{"format": 99, "seeds": {}}')
    with pytest.raises(UsageError, match="format 99"):
        ledger.read(folder / "ledger", "mini", entry)


def test_the_page_has_every_claim_with_its_verdict_and_both_numbers(stored):
    _, entry, folder = stored
    page, *figures = report.write(folder / "ledger", folder / "page" / "results.md")
    text = page.read_text()
    measured = ledger.read(folder / "ledger", "mini", entry).measured
    shown = {HOLDS: "**holds**", FAILS: "**does not hold**", OPEN: "cannot be judged"}
    for claim in entry.claims:
        found = decide(claim.judge, measured)
        row = next(line for line in text.splitlines() if claim.text in line and f"#{entry.key}" in line)
        assert f"| {shown[found.result]} |" in row and row.endswith("| 3 |")
    assert "1.57 ± 0.0100 (1.56 ± 0.17)" in text  # clean error of constant ε: ours, published
    assert all(f"{{ #{each.key} }}" in text for each in ENTRIES)
    (figure,) = figures
    assert figure.exists() and f"]({figure.relative_to(page.parent)})" in text
    again = report.write(folder / "ledger", folder / "again" / "results.md")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in (page, *figures)]


def test_the_page_in_the_documentation_is_that_of_the_stored_results(tmp_path, monkeypatch):
    docs = ROOT / "docs"
    page, *figures = report.write(docs / "results" / "ledger", tmp_path / "results.md")
    assert page.read_text() == (docs / "results.md").read_text()
    names = {figure.name for figure in figures}
    assert names == {path.name for path in (docs / report.FIGURES).glob("*.png")}


def test_a_record_keeps_six_digits_and_what_is_not_finite_as_none():
    record = Record()
    record.put("a b", loss=1 / 3, count=1000.0, bad=float("nan"), none=None)
    record.curve("c", "x", [1, 2], [float("inf"), 2.5])
    assert record.values == {"a b:loss": 0.333333, "a b:count": 1000, "a b:bad": None, "a b:none": None}
    assert json.dumps(record.values["a b:count"]) == "1000"
    assert record.curves == {"c": {"x": {"x": [1, 2], "y": [None, 2.5]}}}


def finished(folder, kind, **files):
    """A run of which the readings see nothing but these files."""
    folder.mkdir(parents=True)
    for path, arrays in files.items():
        (folder / "input").mkdir(exist_ok=True)
        np.savez(folder / "input" / f"{path}.npz", **arrays)
    (folder / "config.json").write_text(json.dumps({"kind": kind.kind, "versions": {"advtf": "0"}}))
    (folder / kind.own_files[0]).write_text("{}")
    return Run(str(folder), (), kind)


def test_what_was_measured_around_images_has_standard_errors(tmp_path):
    rng = np.random.default_rng(0)
    names = ("ig", "hs", "av", "effectiveness", "loss")
    arrays = {f"{split}_{name}": rng.random((2, 9)) for split in ("train", "test") for name in names}
    arrays["train_effectiveness"][1, 3] = np.nan  # of an image that no attack reaches
    run_of = finished(
        tmp_path / "a", AnalysisDirectory, input=arrays | {"splits": np.array(["train", "test"])}
    )
    record = Record()
    readings.around_images(record, "row", run_of, 1)
    found, known = record.values, np.delete(arrays["train_effectiveness"][1], 3)
    assert found["row:effectiveness_train"] == pytest.approx(known.mean(), rel=1e-5)
    assert found["row:hs_test_se"] == pytest.approx(stats.sem(arrays["test_hs"][1]), rel=1e-5)
    losses = {split: arrays[f"{split}_loss"][1] + arrays[f"{split}_av"][1] for split in ("train", "test")}
    assert found["row:adv_gap"] == pytest.approx(losses["test"].mean() - losses["train"].mean(), rel=1e-5)
    error = np.hypot(stats.sem(losses["test"]), stats.sem(losses["train"]))
    assert found["row:adv_gap_se"] == pytest.approx(error, rel=1e-5)


def test_first_and_last_updates_are_read(tmp_path):
    write_run(tmp_path / "run", scale=2.0)
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(record | {"kind": "training"}))
    one = Run(str(tmp_path / "run"), ())
    assert readings.updates(one) is None  # not finished
    (tmp_path / "run" / "evaluation.json").write_text("{}")
    found = readings.updates(one)
    assert found["first"]["gradient_norm"] == pytest.approx(np.mean([2 / n for n in (1, 2, 3, 4)]))
    assert found["last"]["distance"] == pytest.approx(2 * np.sqrt(20))
    assert found["last"]["steps"] == [17, 18, 19, 20]


def test_seconds_add_up_over_starts(tmp_path):
    ledger.Seconds(tmp_path).add("a", 2.0)
    seconds = ledger.Seconds(tmp_path)
    seconds.add("a", 3.04)
    seconds.add("b", 0.0)
    assert seconds.by_run() == {"a": 5.0}


OF_MORE_IMAGES = {"Not measured at this scale: hs:largest_deviation_2000."}


class Pretending:
    """Ends every run at once with made-up results in its directory; those of `bad` fail."""

    def __init__(self, bad=""):
        self.bad, self.started = bad, []

    def describe(self):
        return "nowhere"

    def room(self):
        return 2

    def close(self):
        pass

    def start(self, made, command):
        assert all(Path(path, "evaluation.json").exists() for path in made.after)
        self.started.append(made.name)
        failed = bool(self.bad) and self.bad in made.name
        if not failed:
            settings = (TrainConfig.of({}), RunOptions())
            made.files.path.mkdir(parents=True)
            made.files.write_config(*settings)
            made.files.results.write_text(json.dumps(self.results(len(self.started))))
            (made.files.path / "metrics.jsonl").write_text('{"epoch": 1, "val_robust_accuracy": 0.25}\n')
        return types.SimpleNamespace(code=lambda: int(failed))

    @staticmethod
    def results(number):
        errors = {"clean_error": 2.0 + number, "pgd_error": 10.0 + number, "examples": 500}
        attacks = {name: {"error": 20.0 + number} for name in ("pgd100", "apgd_ce", "apgd_dlr", "square")}
        evaluation = {"attacks": attacks, "clean": {"error": 2.0}, "examples": 100, "worst_case": {}}
        return {"results": {"last": errors}, "robust_overfitting": {}} | evaluation


def carried_out(monkeypatch, executor):
    monkeypatch.setattr(command.WorkOptions, "executor", lambda work: executor)
    values = flags.FlagValues()
    define_flags(command.ReproduceOptions, command.WorkOptions, flag_values=values)
    parse_flags(["--only=table1-mnist", "--seeds=2", "--out_dir=out", "--ledger=ledger"], values)
    monkeypatch.setattr(command.flags, "FLAGS", values)
    command.main([])


def test_results_are_written_when_all_runs_of_an_entry_have_ended(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (entry,) = choose("liu2020", ("table1-mnist",))
    first = Pretending(bad="evaluate-mnist-lenet_w8-cosine-at-pgd-seed1")
    with pytest.raises(SystemExit, match="1"):
        carried_out(monkeypatch, first)
    assert len(first.started) == 12 and "1 run of 12 failed" in capsys.readouterr().out
    stored = ledger.read(tmp_path / "ledger", "mini", entry)
    values = {seed: record["values"] for seed, record in stored.seeds.items()}
    assert values[0]["cosine:apgd_ce"] > 20 and "cosine:apgd_ce" not in values[1]
    assert values[1]["cosine:pgd_error"] > 10 and values[0]["constant:examples"] == 500
    assert stored.seeds[0]["curves"]["robust_error"]["linear"] == {"x": [1], "y": [75]}
    lost = [run["name"] for run in stored.seeds[1]["runs"] if not run["finished"]]
    assert len(lost) == 1 and lost[0].startswith("evaluate-mnist")
    words = [word for run in stored.seeds[0]["runs"] for word in run["command"].split()]
    assert not any(word.startswith("--data_dir") for word in words)
    attacked = [word for word in words if word.startswith("--model=")]
    assert attacked and all(f"--export_dir={word[8:].rpartition('/')[0]}" in words for word in attacked)
    again = Pretending()
    carried_out(monkeypatch, again)  # only what has failed
    assert again.started == lost
    stored = ledger.read(tmp_path / "ledger", "mini", entry)
    assert all(run["finished"] for record in stored.seeds.values() for run in record["runs"])
    assert all(claim.text in capsys.readouterr().out for claim in entry.claims[:1])
    last = Pretending()
    carried_out(monkeypatch, last)
    assert last.started == []


@pytest.mark.slow
def test_the_whole_ledger_runs_at_the_smallest_scale_and_repeats_nothing(tmp_path):
    chosen = ("--scale=smoke", "--ledger=ledger", "--page=page.md")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from helpers.command import start

    process = start("launch.reproduce", tmp_path, *chosen)
    out, error = process.communicate(timeout=3600)
    assert process.returncode == 0, out[-3000:] + error
    for entry in ENTRIES:
        found = ledger.read(tmp_path / "ledger", "smoke", entry)
        assert list(found.seeds) == [0] and found.measured.names(), entry.key
        for claim in entry.claims:
            reasons = set(decide(claim.judge, found.measured).reasons) - OF_MORE_IMAGES
            assert not any("Not measured" in reason for reason in reasons), (entry.key, claim.text, reasons)
    before = {path: path.read_bytes() for path in (tmp_path / "ledger").rglob("*.json")}
    code, out, error = run("launch.reproduce", tmp_path, *chosen)
    assert code == 0 and "started" not in out, out + error
    assert {path: path.read_bytes() for path in before} == before
    code, out, error = run("launch.reproduce", tmp_path, "--report", *chosen)
    assert code == 0 and (tmp_path / "page.md").exists(), error


def test_runs_that_have_all_failed_leave_every_claim_open():
    for entry in ENTRIES:
        assert {decide(claim.judge, Measured({0: {}})).result for claim in entry.claims} == {OPEN}
