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


def test_further_seeds_have_the_methods_that_the_scale_names_last():
    few = dataclasses.replace(
        SCALES["smoke"], levels=SCALES["smoke"].levels | {"methods, fgsm_n": (("", "_igr", "_advlc"), ("",))}
    )
    (entry,), plan = choose("li2023", ("table1-fgsm_n",)), Plan(few, "out")
    rows = [
        [name for name in plan.of(entry, seed) if f"{name}, best" in plan.of(entry, seed)]
        for seed in range(3)
    ]
    assert rows == [["", " + IGR", " + AdvLC"], [""], [""]]


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
    in_order = [entry.key for entry in choose(None, ("li2023-a3", "figure9", "a3", "table2"))]
    assert in_order == ["li2023-a3", "liu2020-figure9", "li2023-table2"]
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
    code, out, error = run("launch.reproduce", tmp_path, "--dry_run", "--only=figure5,figure1", first=first)
    steps = [line.index(word) for word in ("--lr=", "analyze --", "=li2023") for line in [out]]
    assert code == 0 and not error and steps == sorted(steps)  # figure 5 before figures 1
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
    assert (
        "1.57 ± 0.01 (1.56 ± 0.17)" in text and "| 1,000 |" in text
    )  # clean error of constant ε: ours, published
    assert all(f"{{ #{each.key} }}" in text for each in ENTRIES)
    assert "<summary>Seeds 0, 1, 2; number of threads not recorded; " in text  # files of earlier versions
    (figure,) = figures
    assert figure.exists() and f"]({figure.relative_to(page.parent)})" in text
    again = report.write(folder / "ledger", folder / "again" / "results.md")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in (page, *figures)]


def test_the_page_tells_of_rows_that_only_some_seeds_have(stored):
    _, entry, _ = stored
    values = {seed: {"constant:clean_error": 1.5 + seed} for seed in range(3)}
    values[1] |= {"linear:clean_error": 2.0}
    values[2] |= {"linear:clean_error": None}  # its run has failed
    page = "\n".join(report._table(entry, Measured(values)))
    assert "| linear (2 of 3 seeds) |" in page and "| constant |" in page


def test_the_page_tells_the_threads_of_the_runs():
    one, both, unknown = ({"threads": each} for each in ([1], [1, 2], []))
    assert report._threads([one, one]) == "1 thread each"
    assert report._threads([one, both]) == "1 or 2 threads each"
    assert report._threads([one, unknown]) == "1 thread each (not recorded of 1 run)"
    assert report._threads([unknown, {}]) == "number of threads not recorded"


def test_curves_of_two_parts_have_a_colour_for_one_and_a_line_for_the_other():
    looks, (colors, lines) = report._looks(
        [f"{kind}, ε = {eps}" for kind in ("constant", "cosine") for eps in (0, 1, 2)]
    )
    assert looks["constant, ε = 1"][0] == looks["cosine, ε = 1"][0] != looks["cosine, ε = 2"][0]
    assert looks["constant, ε = 1"][1] == looks["constant, ε = 2"][1] != looks["cosine, ε = 2"][1]
    assert len(set(looks.values())) == 6
    assert [each.get_label() for each in colors] == ["ε = 0", "ε = 1", "ε = 2"]
    assert [each.get_label() for each in lines] == ["constant", "cosine"]
    looks, (legend,) = report._looks(["a, train", "b, train", *"cdefgh"])
    assert len(set(looks.values())) == 8 and len(legend) == 8
    looks, (legend,) = report._looks(["hs", "fgsm"])
    assert [each.get_label() for each in legend] == ["HS", "effectiveness of FGSM"]


def test_means_have_the_decimals_of_their_deviations():
    spreads = {
        (2000, 2000): "2,000",
        (50.0, 52.0): "51.0 ± 1.4",
        (4.85, 4.95): "4.90 ± 0.07",
        (1.0, 1.0001): "1.00 ± 7.07e-05",
        (0.5,): "0.500",
        (-1.0,): "−1",
    }
    assert {values: report._spread(list(values)) for values in spreads} == spreads
    assert report._spread([None, 3.0]) == "3" and report._spread([None]) == ""


def test_the_page_in_the_documentation_is_that_of_the_stored_results(tmp_path, monkeypatch):
    docs = ROOT / "docs"
    monkeypatch.setattr(report, "draw", lambda chart, curves, scale, output: output)
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
    ledger.Notes(tmp_path).add_seconds("a", 2.0)
    notes = ledger.Notes(tmp_path)
    notes.add_seconds("a", 3.04)
    notes.add_seconds("b", 0.0)
    assert notes.seconds() == ledger.Notes(tmp_path).seconds() == {"a": 5.0}
    (tmp_path / "seconds.json").write_text("{")
    with pytest.raises(UsageError, match=r"seconds\.json must be what launch\.reproduce has noted"):
        ledger.Notes(tmp_path)


def test_threads_are_those_of_the_start_and_of_every_continuation(tmp_path):
    new, begun = Run(str(tmp_path / "new"), ()), Run(str(tmp_path / "begun"), ())
    old, analysis = Run(str(tmp_path / "old"), ()), Run(str(tmp_path / "an"), (), AnalysisDirectory)
    ledger.Notes(tmp_path).add_threads([new, begun], 1)
    for made, more in ((begun, {}), (old, {"threads": {"intra_op": 4, "inter_op": 4}}), (analysis, {})):
        made.files.path.mkdir()
        made.files.write_config(TrainConfig.of({}), RunOptions(), **more)
    notes = ledger.Notes(tmp_path)
    assert [notes.threads(each) for each in (new, begun, old, analysis)] == [[1], [1], [4], []]
    notes.add_threads([new, begun, old], 2)  # the first one was never begun
    notes = ledger.Notes(tmp_path)
    assert [notes.threads(each) for each in (new, begun, old)] == [[2], [1, 2], [2, 4]]


OF_MORE_IMAGES = {
    "There is no largest deviation, 2,000 images of HS: it is not measured at this scale, or its run has "
    "failed."
}


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
            made.files.path.mkdir(parents=True, exist_ok=True)
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


def carried_out(monkeypatch, executor, *more):
    monkeypatch.setattr(command.WorkOptions, "executor", lambda work: executor)
    values = flags.FlagValues()
    define_flags(command.ReproduceOptions, command.WorkOptions, flag_values=values)
    parse_flags(["--only=table1-mnist", "--seeds=2", "--out_dir=out", "--ledger=ledger", *more], values)
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
    carried_out(monkeypatch, again, "--threads=2")  # only what has failed
    assert again.started == lost
    said = capsys.readouterr().out
    assert "11 finished runs had 1, the others get 2" in said
    stored = ledger.read(tmp_path / "ledger", "mini", entry)
    assert all(run["finished"] for record in stored.seeds.values() for run in record["runs"])
    assert all(claim.text in said for claim in entry.claims)
    threads = {run["name"]: run["threads"] for each in stored.seeds.values() for run in each["runs"]}
    assert {name: found for name, found in threads.items() if found != [1]} == {lost[0]: [2]}
    last = Pretending()
    carried_out(monkeypatch, last)
    assert last.started == []


def test_a_damaged_file_of_one_run_stops_no_other(tmp_path, monkeypatch, capsys):
    """Seed 1 has a table of errors that ends in its middle; seed 0 and all other runs know nothing of it."""
    monkeypatch.chdir(tmp_path)
    (entry,) = choose("liu2020", ("table1-mnist",))
    torn = "mnist-lenet_w8-linear-at-pgd-seed1"

    class Tearing(Pretending):
        def start(self, made, command):
            attempt = super().start(made, command)
            if made.name.startswith(torn):
                made.files.results.write_text(made.files.results.read_text()[:40])
            return attempt

    first = Tearing()
    with pytest.raises(SystemExit, match="1"):
        carried_out(monkeypatch, first)
    said = capsys.readouterr().out
    (path,) = Path("out/runs").glob(f"{torn}*/evaluation.json")
    assert len(first.started) == 12 and "1 pair of an entry and a seed could not be measured" in said
    assert f"{path} must be the results that the run has written. Received: damaged JSON (" in said
    assert "remove it and continue the run with --resume, which writes it anew." in said
    assert list(ledger.read(tmp_path / "ledger", "mini", entry).seeds) == [0]
    path.unlink()
    again = Pretending()
    carried_out(monkeypatch, again)
    assert again.started == [path.parent.name]
    assert list(ledger.read(tmp_path / "ledger", "mini", entry).seeds) == [0, 1]


REPEAT = "Remove a/run and a/exports, and the same command repeats the run."
DAMAGED = {
    "evaluation.json": (
        "a/run/evaluation.json must be the results that the run has written. Received: JSON without an entry "
        "'results'. ",
        "Restore it from a copy, or remove it and continue the run with --resume, which writes it anew.",
    ),
    "metrics.jsonl": (
        "every line of a metrics file must be one JSON object whose values are numbers. Received: "
        "a/run/metrics.jsonl, line 1: 'torn'. ",
        REPEAT,
    ),
    "dynamics.npz": ("a/run/dynamics.npz must be what the run has written. Received: damage (", REPEAT),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_with_its_run_and_the_remedy(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    made = Run("a/run", ("--export_dir=a/exports",))
    write_run(Path(made.path), scale=2.0)
    made.files.write_config(TrainConfig.of({}), RunOptions())
    for file, text in (("evaluation.json", "{}"), ("metrics.jsonl", "torn\n{}\n")):
        Path(made.path, file).write_text(text)  # JSON without results is damage, too
    path = Path(made.path, "dynamics.npz")
    path.write_bytes(path.read_bytes()[:200])
    reading = {
        "evaluation.json": lambda: readings.trained(Record(), "row", made),
        "metrics.jsonl": lambda: readings.epochs(made),
        "dynamics.npz": lambda: readings.updates(made),
    }
    with pytest.raises(UsageError) as found:
        reading[name]()
    begins, ends = DAMAGED[name]
    assert str(found.value).startswith(begins) and str(found.value).endswith(ends)


def test_a_damaged_ledger_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("ledger/mini/liu2020-table1-mnist.json")
    path.parent.mkdir(parents=True)
    path.write_text('{"format": 1, "seeds": {"0": {"values": {}}}}')
    idle = Pretending()
    with pytest.raises(UsageError, match=r"table1-mnist\.json must be results.*no curves, runs, versions"):
        carried_out(monkeypatch, idle)
    assert idle.started == []


@pytest.mark.parametrize(
    ("given", "ledger_and_page"),
    [
        ({}, ("docs/results/ledger", "docs/results.md")),
        ({"scale": "mini", "out_dir": "x"}, ("docs/results/ledger", "docs/results.md")),
        ({"scale": "smoke"}, ("runs/reproduce-smoke/ledger", "runs/reproduce-smoke/results.md")),
        ({"scale": "smoke", "out_dir": "x"}, ("x/ledger", "x/results.md")),
        ({"scale": "smoke", "ledger": "l", "page": "p.md"}, ("l", "p.md")),
    ],
)
def test_what_says_nothing_stays_beside_its_runs(given, ledger_and_page):
    options = command.ReproduceOptions.of(given)
    assert options.places() == tuple(map(Path, ledger_and_page))
    told = options.to_report().split()
    values = flags.FlagValues()
    define_flags(command.ReproduceOptions, flag_values=values)
    parse_flags(told[3:], values)
    repeated = command.ReproduceOptions.of(given_flags(values, command.ReproduceOptions))
    assert repeated.report and repeated.places() == options.places()


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
            assert not any("There is no" in reason for reason in reasons), (entry.key, claim.text, reasons)
    before = {path: path.read_bytes() for path in (tmp_path / "ledger").rglob("*.json")}
    code, out, error = run("launch.reproduce", tmp_path, *chosen)
    assert code == 0 and "started" not in out, out + error
    assert {path: path.read_bytes() for path in before} == before
    code, out, error = run("launch.reproduce", tmp_path, "--report", *chosen)
    assert code == 0 and (tmp_path / "page.md").exists(), error


def level_runs(folder, entry, errors):
    """Finished trainings of an entry's rows with these PGD errors; None is a run that has failed."""
    runs = {}
    for number, (row, error) in enumerate(errors.items()):
        path = folder / f"{entry.name}-{number}"
        runs[row] = Run(str(path), ())
        if error is not None:
            write_run(path, scale=1.0 + number, losses=(9.0 - number, 1.0))
            runs[row].files.write_config(TrainConfig.of({}), RunOptions())
            found = {"clean_error": 1.0, "pgd_error": error, "examples": 500}
            runs[row].files.results.write_text(json.dumps({"results": {"last": found}}))
    return runs


LEVELS = ("0", "0.1", "0.2", "0.3")
RANGE = "The loss runs through a smaller range during training, the larger ε is."


@pytest.mark.parametrize(
    ("errors", "result", "reason"),
    [
        ((10.0, 20.0, 30.0, 40.0), HOLDS, "6 of 6 pairs"),
        (
            (10.0, 20.0, None, 40.0),
            OPEN,
            "There is no range of the loss of constant, ε = 0.2: its run has failed",
        ),
        ((10.0, 20.0, 30.0, 90.0), HOLDS, "Trained to a constant classifier: ε = 0.3."),
    ],
)
def test_a_level_that_has_failed_or_is_stuck_is_told(tmp_path, errors, result, reason):
    (entry,) = choose("liu2020", ("figure11-mnist",))
    record = Record()
    rows = {f"constant, ε = {eps}": error for eps, error in zip(LEVELS, errors, strict=True)}
    entry.measure(level_runs(tmp_path, entry, rows), record)
    (claim,) = entry.claims
    found = decide(claim.judge, Measured({0: record.values}))
    assert claim.text == RANGE and found.result == result
    assert any(each.startswith(reason) for each in found.reasons), found.reasons


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ((10.0, 20.0, 30.0, 40.0), "12 of 12 pairs"),
        ((10.0, 20.0, 90.0, 40.0), "Training has not left the constant classifier, so that it has no end"),
        ((10.0, None, 30.0, 40.0), "There is no PGD error of ε = 0.1 with seed 1: its run has failed"),
    ],
)
def test_ends_are_compared_only_where_every_level_and_seed_has_trained(second, reason):
    """One seed in the middle of the levels decides: the last level alone, or the mean, would not see it."""
    (entry,) = choose("liu2020", ("figure9",))
    claim = next(each for each in entry.claims if each.text == "The largest eigenvalue grows with ε.")
    by_seed = {}
    for seed, errors in enumerate([(10.0, 20.0, 30.0, 40.0), second]):
        by_seed[seed] = {f"ε = {eps}:pgd_error": error for eps, error in zip(LEVELS, errors, strict=True)}
        by_seed[seed] |= {f"ε = {eps}:lambda_1": 2.0**n for n, eps in enumerate(LEVELS)}
    found = decide(claim.judge, Measured(by_seed))
    assert found.reasons[0].startswith(reason), found.reasons
    assert found.result == (HOLDS if "pairs" in reason else OPEN)
    if "left" in reason:
        assert found.reasons[0].endswith(" ε = 0.2 (1 of 2 seeds).")


def test_three_levels_of_one_seed_are_judged_step_by_step():
    """Six orders are too few for a test of the trend; two seeds have 36, and need no standard errors."""
    (entry,) = choose("li2023", ("figure2",))
    claim = next(each for each in entry.claims if "ST + β·IGR" in each.text)
    rows = ("ST + 0·IGR", "ST + 0.01·IGR", "ST + 0.1·IGR")

    def judged(*gaps, error=0.1):
        values = {f"{row}:adv_gap": gap for row, gap in zip(rows, gaps, strict=True)}
        return values | {f"{row}:adv_gap_se": error for row in rows}

    steep = decide(claim.judge, Measured({0: judged(3.0, 2.0, 1.0)}))
    low, high = stats.norm.interval(0.95, loc=1.0, scale=0.1 * np.sqrt(2))
    assert steep.result == HOLDS and "shown is ST + 0·IGR to ST + 0.01·IGR." in steep.reasons[-1]
    assert (steep.interval.low, steep.interval.high) == pytest.approx((low, high))
    assert decide(claim.judge, Measured({0: judged(3.0, 2.0, 1.9)})).result == OPEN
    assert decide(claim.judge, Measured({0: judged(3.0, 2.0, 2.9)})).result == FAILS
    both = decide(claim.judge, Measured({0: judged(3.0, 2.0, 1.9), 1: judged(3.0, 2.1, 2.0)}))
    assert both.result == HOLDS and "6 of 6 pairs" in both.reasons[0]


def test_a_curve_between_constant_classifiers_is_not_called_flat():
    (entry,) = choose("liu2020", ("figure15-mnist",))
    flat = next(claim for claim in entry.claims if "flat" in claim.text)
    for error, result in ((5.0, HOLDS), (90.0, OPEN)):
        values = {"ε = 0:pgd_error": error, "ε = 0:curve_barrier": 0.01, "ε = 0:curve_dip": 0.02}
        assert decide(flat.judge, Measured({0: values})).result == result


def test_a_curve_that_was_trained_further_than_its_ends_shows_no_barrier():
    (entry,) = choose("liu2020", ("figure15-mnist",))
    flat, grows = entry.claims
    values = {}
    for number, eps in enumerate(LEVELS):
        row = f"ε = {eps}"
        values |= {f"{row}:pgd_error": 20.0, f"{row}:curve_dip": 0.01, f"{row}:curve_barrier": 0.02 * number}
    assert [decide(claim.judge, Measured({0: values})).result for claim in (flat, grows)] == [HOLDS, HOLDS]
    further = Measured({0: values | {"ε = 0.2:curve_dip": 0.3}})
    assert decide(flat.judge, further).result == HOLDS
    (reason,) = decide(grows.judge, further).reasons
    assert "no minima" in reason and reason.endswith("0.05 nats for ε = 0.2.")


def test_the_smallest_widths_are_those_of_the_plan_not_of_the_runs_that_ended():
    (entry,) = choose("liu2020", ("figure14",))
    claim = next(each for each in entry.claims if "two smallest widths" in each.text)
    errors = {8: (20.0, 15.0, 15.0), 4: (90.0, 30.0, 30.0), 2: (90.0, 40.0, 40.0)}
    values = {
        f"w = {width}, {schedule}:pgd_error": error
        for width, found in errors.items()
        for schedule, error in zip(("constant", "cosine", "linear"), found, strict=True)
    }
    assert decide(claim.judge, Measured({0: values})).result == HOLDS
    failed = values | {"w = 2, constant:pgd_error": None}
    found = decide(claim.judge, Measured({0: failed}))
    assert found.result == OPEN and "PGD error of w = 2, constant" in found.reasons[0]


def test_the_best_of_several_rates_needs_all_of_them(tmp_path):
    (entry,) = choose("liu2020", ("figure13",))
    rows = {f"warmed-up learning rate, {rate}": 50.0 for rate in ("2e-4", "5e-4")}
    for missing, result in (({}, HOLDS), ({"warmed-up learning rate, 2e-3": None}, OPEN)):
        record = Record()
        runs = level_runs(
            tmp_path / result, entry, rows | missing | {"cosine ε, 2e-4": 10.0, "linear ε, 5e-4": 11.0}
        )
        entry.measure(runs, record)
        assert decide(entry.claims[0].judge, Measured({0: record.values})).result == result


def speeds(tmp_path, **by_row):
    """What the entry about cost makes of epochs with these images per second."""
    (entry,) = choose("li2023", ("cost",))
    runs = {}
    for row, found in by_row.items():
        path = tmp_path / row
        write_run(path)
        runs[row] = Run(str(path), ())
        runs[row].files.write_config(TrainConfig.of({}), RunOptions())
        runs[row].files.results.write_text("{}")
        lines = [json.dumps({"epoch": n, "images_per_second": each}) for n, each in enumerate(found)]
        runs[row].files.metrics.write_text("\n".join(lines) + "\n")
    record = Record()
    entry.measure(runs, record)
    return entry, record.values


def test_the_cost_of_a_step_is_judged_only_where_the_speed_was_steady(tmp_path):
    steady = {"FGSM-N AT": [100.0, 101.0, 102.0], "FGSM-N AT + AdvLC": [90.0, 91.0, 92.0]}
    entry, values = speeds(tmp_path / "a", **steady)
    assert values["FGSM-N AT + AdvLC:step_ratio"] == pytest.approx(101.8 / 91.8, rel=1e-5)
    assert values["FGSM-N AT + AdvLC:step_ratio_high"] == pytest.approx(101.8 / 90.2, rel=1e-5)
    claim = entry.claims[0]
    one = decide(claim.judge, Measured({0: values}))
    assert one.result == OPEN and "One run of each is too few." in one.reasons
    two = decide(claim.judge, Measured({0: values, 1: values}))
    assert two.result == HOLDS and "not timed in turn" in two.reasons[0]
    disturbed = steady | {"FGSM-N AT + AdvLC": [30.0, 60.0, 92.0]}
    _, slow = speeds(tmp_path / "b", **disturbed)
    found = decide(claim.judge, Measured({0: values, 1: slow}))
    assert found.result == OPEN and found.reasons[-1] == "The range contains 1.2."


def test_steps_of_methods_are_compared_where_both_were_trained(tmp_path):
    every = {"FGSM-N AT": [100.0] * 3, "FGSM-N AT + AdvLC": [90.0] * 3}
    entry, one = speeds(tmp_path / "a", **every, **{"FGSM-N AT + IGR": [50.0] * 3})
    _, other = speeds(tmp_path / "b", **every)
    claim = next(each for each in entry.claims if "With FGSM-N AT AdvLC is the cheapest" in each.text)
    found = decide(claim.judge, Measured({0: one, 1: other}))
    assert found.result == OPEN and "One run of each is too few." in found.reasons
    assert decide(claim.judge, Measured({0: one, 1: one})).result == HOLDS


LEVELS_OF = {  # entries with claims about all levels -> a value that each of these needs
    "liu2020-figure2": "gradient_norm_first",
    "liu2020-figure3": "lambda_1",
    "liu2020-figure4": "cosine_random",
    "liu2020-figure5": "mean_over_rates",
    "liu2020-figure11-mnist": "loss_range",
    "liu2020-figure12-cifar10": "loss_rise",
    "liu2020-figure13": "pgd_error",
    "liu2020-figure14": "dead_units",
    "liu2020-figure15-mnist": "curve_barrier",
    "li2023-figure2": "adv_gap",
    "li2023-table1-fgsm_n": "robust_best",
    "li2023-table3": "clean_best",
    "li2023-cost": "step_ratio",
}


def test_what_was_planned_is_missed_where_no_run_has_ended(tmp_path):
    """Every entry measures runs of which none is finished: nothing is read, and every claim is open."""
    plan = Plan(SCALES["mini"], str(tmp_path))
    for entry in ENTRIES:
        record, runs = Record(), plan.of(entry, 0)
        entry.measure({name: plan.run(one) for name, one in runs.items()}, record)
        assert set(record.values.values()) <= {None}
        found = [decide(claim.judge, Measured({0: record.values})) for claim in entry.claims]
        assert {each.result for each in found} == {OPEN}
        if entry.key in LEVELS_OF:
            rows = [name for name in record.values if name.endswith(f":{LEVELS_OF[entry.key]}")]
            assert len(rows) > 1
            told = [reason for each in found for reason in each.reasons]
            assert any("its run has failed, or the value" in reason for reason in told), told


def test_runs_that_have_all_failed_leave_every_claim_open():
    for entry in ENTRIES:
        assert {decide(claim.judge, Measured({0: {}})).result for claim in entry.claims} == {OPEN}
