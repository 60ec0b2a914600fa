"""The study from settings to figure: its files, its table, its resumption, and the figure's demands."""

import itertools
import json

import numpy as np
import pytest
from helpers.analysis import study_context
from helpers.curve import classifiers, foreign, held_out_images, images
from helpers.figures import heading, legend_labels

from advtf.attacks.pgd import pgd
from advtf.errors import UsageError
from advtf.figures import style as drawing
from advtf.figures.connectivity import path_between_minima
from advtf.landscape.curves import Curve
from advtf.landscape.objective import AdversarialObjective
from advtf.studies import connectivity

ATTACK = pgd("linf", 2, 0.6)
POINTS = 5


def context_of(folder, models=None, say=None, **settings):
    given = {"curve_epochs": 2, "curve_lr": 0.02, "curve_points": POINTS, "eps": 0.03, "norm": "linf"}
    given |= {"attack_steps": 2, "attack_step_size": "0.6eps", "random_start": "uniform"}  # those of ATTACK
    x, y = images()
    x_test, y_test = held_out_images()
    return study_context(
        folder,
        "connectivity",
        models or classifiers(),
        (x, y),
        (x_test, y_test),
        say=say,
        **(given | settings),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three models, so two curves; the third is the first again, slightly moved."""
    first, second = classifiers()
    third = classifiers()[0]
    third.parameters.assign(third.parameters.value() * 1.01)
    lines = []
    context = context_of(tmp_path_factory.mktemp("run"), [first, second, third], lines.append)
    return context, connectivity.run(context), lines


def test_files(finished):
    context, files, _ = finished
    names = ["connectivity.json", "connectivity.npz", "curve1.npz", "curve2.npz", "connectivity.png"]
    assert files == [context.folder / name for name in names]
    assert all(file.stat().st_size for file in files)


def test_numbers_are_those_of_the_models(finished):
    context, _, _ = finished
    arrays = context.read_arrays("connectivity")
    assert arrays["t"].tolist() == [0, 0.25, 0.5, 0.75, 1] and arrays["epsilon"] == 0.03
    for number, classifier in enumerate(context.classifiers):
        measured = AdversarialObjective(classifier, *images(), ATTACK, 0.03, seed=0, batch_size=250)()
        for kind, curve in itertools.product(("curve", "line"), range(2)):
            if number - curve in (0, 1):
                assert arrays[f"{kind}_train_loss"][curve, -1 if number - curve else 0] == measured.loss
                assert arrays[f"{kind}_train_error"][curve, -1 if number - curve else 0] == measured.error


def test_control_points_are_saved(finished):
    context, _, _ = finished
    for number in (1, 2):
        saved = context.read_arrays(f"curve{number}")
        curve = Curve(str(saved["kind"]), saved["points"])
        assert curve.order == 2 and curve.kind == "bezier"
        for place, classifier in ((0, context.classifiers[number - 1]), (1, context.classifiers[number])):
            assert curve.at(place).tobytes() == classifier.parameters.value().tobytes()
        record = json.loads((context.folder / "connectivity.json").read_text())["curves"][number - 1]
        assert record["length"] == curve.length() > record["distance"] > 0


def test_record_and_table(finished):
    context, _, lines = finished
    record = json.loads((context.folder / "connectivity.json").read_text())
    arrays = context.read_arrays("connectivity")
    for number, curve in enumerate(record["curves"]):
        for kind, name in itertools.product(("curve", "line"), ("train_loss", "test_error")):
            values, heights = arrays[f"{kind}_{name}"][number], curve[kind][name]
            rise = values - np.interp(arrays["t"], [0, 1], values[[0, -1]])
            assert heights["barrier"] == pytest.approx(rise.max(), abs=1e-12)
            assert (heights["start"], heights["end"]) == (values[0], values[-1])
            assert heights["largest"] == values.max()
        assert len(curve["training_loss"]) == 2
    assert record["settings"]["curve_epochs"] == 2 and "versions" in record
    table = "\n".join(lines)
    largest = record["curves"][0]["line"]["train_loss"]["largest"]
    assert "ε 0.03, 256 training and 100 test images" in table and f"{largest:.4f}" in table


@pytest.mark.slow
def test_a_killed_study_continues_with_the_same_bits_and_no_other_settings(tmp_path):
    whole = context_of(tmp_path / "whole", curve_points=2)
    connectivity.run(whole)

    def interrupt(line):
        if "epoch 1/2" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        connectivity.run(context_of(tmp_path / "killed", say=interrupt, curve_points=2))
    lines = []
    resumed = context_of(tmp_path / "killed", say=lines.append, curve_points=2)
    connectivity.run(resumed)
    assert not any("epoch 1/2" in line for line in lines)
    for name in ("connectivity", "curve1"):
        wanted, got = whole.read_arrays(name), resumed.read_arrays(name)
        assert {key: value.tobytes() for key, value in wanted.items()} == {
            key: value.tobytes() for key, value in got.items()
        }
    with pytest.raises(UsageError, match="other images or settings"):
        connectivity.run(context_of(tmp_path / "killed", curve_points=2, attack_steps=3))


def test_what_cannot_be_connected_is_told_before_any_training(tmp_path):
    start, end = classifiers()
    with pytest.raises(UsageError, match="needs two models"):
        connectivity.run(context_of(tmp_path, [start]))
    with pytest.raises(UsageError, match="foreign, a SavedModel of unknown architecture"):
        connectivity.run(context_of(tmp_path, [start, end, foreign(end)]))
    assert not list((tmp_path / "connectivity").iterdir())


def test_divergence_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"must stay finite.*Lower --curve_lr"):
        connectivity.run(context_of(tmp_path, curve_lr=1e30))


def drawn(folder, output, *names):
    """What the figure draws: per panel, (label, x, y) of each line."""
    panels = []
    original = drawing.Figure.savefig

    def record(figure, *arguments, **options):
        panels.extend(figure.axes)
        return original(figure, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing.Figure, "savefig", record)
        path_between_minima({name: folder / "connectivity.npz" for name in names}, output)
    return panels


def test_figure_of_one_result_has_curve_and_line(finished, tmp_path):
    context, _, _ = finished
    panels = drawn(context.folder, tmp_path / "one.png", "")
    arrays = context.read_arrays("connectivity")
    assert len(panels) == 3
    for axes, name in zip(panels, ("train_loss", "test_error", "test_clean_error"), strict=True):
        wanted = [*arrays[f"curve_{name}"], *arrays[f"line_{name}"]]
        assert len(axes.lines) == 4  # two curves and two straight lines, end to end
        for line, values, shift in zip(axes.lines, wanted, (0, 1, 0, 1), strict=True):
            np.testing.assert_array_equal(line.get_ydata(), values)
            np.testing.assert_array_equal(line.get_xdata(), arrays["t"] + shift)
    first, *names = panels[-1].get_xlabel().split("\n")
    assert first.startswith("position t on the path") and [name[:3] for name in names] == [
        "0: ",
        "1: ",
        "2: ",
    ]
    told = heading(panels[0].figure)
    assert "ε = 0.03" in told and "training and" in told and "Fig. 15" in told
    assert legend_labels(panels[0].figure) == ["trained curve", "straight line"]


def test_figure_of_several_results_has_their_curves(finished, tmp_path):
    context, _, _ = finished
    panels = drawn(context.folder, tmp_path / "two.pdf", "ε = 0", "ε = 0.4")
    assert [len(axes.lines) for axes in panels] == [4, 4, 4]
    assert legend_labels(panels[0].figure) == ["ε = 0", "ε = 0.4"]


def test_figure_refuses_other_files(tmp_path):
    np.savez(tmp_path / "other.npz", t=np.zeros(3))
    with pytest.raises(UsageError, match=r"connectivity\.npz is required.*other\.npz"):
        path_between_minima({"": tmp_path / "other.npz"}, tmp_path / "x.png")
    with pytest.raises(UsageError, match="at least one"):
        path_between_minima({}, tmp_path / "x.png")
