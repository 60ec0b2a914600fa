"""Figures: what was drawn is read back from the axes, and files are written or refused as a whole."""

import json
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from helpers.figures import heading, legend_labels
from matplotlib.colors import same_color
from matplotlib.image import imread

from advtf.errors import UsageError
from advtf.figures import training as plots
from advtf.figures.style import WIDTH, Heading


@pytest.fixture
def drawn(monkeypatch):
    """The panels of every sheet a test draws."""
    seen, original = [], plots.sheet

    @contextmanager
    def recording(*args, **kwargs):
        with original(*args, **kwargs) as panels:
            seen.append(panels)
            yield panels

    monkeypatch.setattr(plots, "sheet", recording)
    return seen


def write_metrics(path, epochs, **columns):
    rows = [
        {"epoch": e + 1, "loss": 2.0 / (e + 1)} | {k: v[e] for k, v in columns.items()} for e in range(epochs)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_config(folder):
    settings = {"dataset": "cifar10", "norm": "linf", "eps": 8 / 255, "attack_steps": 7}
    images = {"train": 45000, "validation": 5000, "test": 10000}
    (folder / "config.json").write_text(json.dumps({"config": settings, "image_counts": images}))


def lines(axes):
    return [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.get_lines()]


def looks(axes):
    return [(line.get_color(), line.get_linestyle()) for line in axes.get_lines() if len(line.get_xdata())]


def test_learning_curves_are_errors_in_percent(tmp_path, drawn):
    path = write_metrics(
        tmp_path / "m", 2, clean_accuracy=[0.5, 0.75], robust_accuracy=[0.25, None],
        val_loss=[3.0, 2.5], val_clean_accuracy=[0.625, 0.5], val_robust_accuracy=[0.125, 0.25],
    )  # fmt: skip
    assert plots.learning_curves(path, tmp_path / "new" / "curves.png") == tmp_path / "new" / "curves.png"
    (loss, error), both = drawn[0], [1.0, 2.0]
    assert lines(loss) == [(both, [2.0, 1.0]), (both, [3.0, 2.5])]
    assert lines(error) == [
        (both, [50.0, 25.0]),
        ([1.0], [75.0]),  # null: the point is missing
        (both, [37.5, 50.0]),
        (both, [87.5, 75.0]),
    ]
    assert looks(error) == [
        (plots.BLUE, "--"),
        (plots.VERMILLION, "--"),
        (plots.BLUE, "-"),
        (plots.VERMILLION, "-"),
    ]
    assert error.get_ylabel() == "error (%)"
    assert error.get_xlabel() == "epoch"
    colors, training = ["clean images", "attacked images"], "training, ε of the epoch"
    assert legend_labels(loss.figure) == [*colors, training, "validation, target ε"]
    assert loss.get_legend() is None and error.get_legend() is None  # one legend explains both panels
    write_config(tmp_path)
    plots.learning_curves(path, tmp_path / "test.png", "test")
    assert legend_labels(drawn[1][0].figure)[-1] == "test, ε = 8/255"
    about = "cifar10, 45,000 training and 10,000 test images, PGD-7, l∞, ε = 8/255"
    assert heading(drawn[1][0].figure) == f"Loss and error in training, by epoch {about}"


def test_figure_is_column_width_and_one_epoch_shows_a_marker(tmp_path, drawn):
    path = write_metrics(tmp_path / "m", 1, clean_accuracy=[0.5], robust_accuracy=[0.25])
    image = imread(plots.learning_curves(path, tmp_path / "a.png"))
    assert drawn[0][0].figure.get_figwidth() == WIDTH
    assert image.shape[1] / image.shape[0] == pytest.approx(
        WIDTH / drawn[0][0].figure.get_figheight(), rel=0.01
    )
    assert drawn[0][0].get_lines()[0].get_marker() == "o"
    assert len(legend_labels(drawn[0][0].figure)) == 3  # two colours, and no validation
    ticks = [t for t in drawn[0][1].get_xticks() if 0 <= t <= 1]
    assert ticks == [0, 1]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "m"]


@pytest.mark.parametrize(
    ("accuracy", "scale", "limits"),
    [([0.1, 0.5], "linear", (0, 97.2)), ([0.1, 0.95], "symlog", (4, 108)), ([0.1, 1.0], "symlog", (0, 108))],
)
def test_error_axis_is_logarithmic_only_above_a_decade(tmp_path, drawn, accuracy, scale, limits):
    plots.learning_curves(write_metrics(tmp_path / "m", 2, clean_accuracy=accuracy), tmp_path / "a.svg")
    assert drawn[0][1].get_yscale() == scale
    assert drawn[0][1].get_ylim() == pytest.approx(limits)


def test_repeated_epochs_show_the_later_record(tmp_path, drawn):
    path = tmp_path / "m"
    path.write_text(
        "".join(json.dumps({"epoch": e, "loss": v}) + "\n" for e, v in ((1, 9), (2, 8), (2, 7), (3, 6)))
    )
    plots.learning_curves(path, tmp_path / "a.png")
    assert lines(drawn[0][0])[0] == ([1, 2, 3], [9, 7, 6])


def test_schedule_holds_each_value_over_its_epoch(tmp_path, drawn):
    path = write_metrics(tmp_path / "m", 3, epsilon=[0.0, 0.1, 0.3], learning_rate=[1.0, 0.1, 0.01])
    plots.schedule(path, tmp_path / "a.png", period_starts=(2,))
    epsilon, rate = drawn[0]
    step, start = epsilon.get_lines()
    assert (list(step.get_xdata()), list(step.get_ydata())) == ([0, 1, 2, 3], [0, 0.1, 0.3, 0.3])
    assert step.get_drawstyle() == "steps-post"
    assert list(start.get_xdata()) == [2, 2]
    assert start.get_linestyle() == ":"
    assert rate.get_yscale() == "log"


def test_schedule_per_step_is_known_at_the_ends_of_the_epochs(tmp_path, drawn):
    path = write_metrics(tmp_path / "m", 3, epsilon=[0.1, 0.2, 0.3], learning_rate=[1.0, 1.0, 1.0])
    plots.schedule(path, tmp_path / "a.png", unit="step")
    (line,) = drawn[0][0].get_lines()
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1, 2, 3], [0.1, 0.2, 0.3])
    assert line.get_drawstyle() == "default"


@pytest.mark.parametrize("rates", [[0.1, 0.01], [0.1, 0.1], [0.0, 0.0], [0.1, 0.0]])
def test_rate_axis_is_linear_within_a_decade_or_with_zero(tmp_path, drawn, rates):
    plots.schedule(write_metrics(tmp_path / "m", 2, epsilon=[0, 0], learning_rate=rates), tmp_path / "a.png")
    assert drawn[0][1].get_yscale() == "linear"
    assert drawn[0][1].get_ylim()[0] == 0


def test_compare_runs_keeps_one_look_per_run(tmp_path, drawn):
    paths = {
        f"run {i}": write_metrics(
            tmp_path / f"m{i}", 2, robust_accuracy=[0.5, 0.6], val_robust_accuracy=[0.4, 0.5 + i / 100]
        )
        for i in range(9)
    }
    plots.compare_runs(paths, tmp_path / "a.png")
    validation, training = drawn[0]
    assert looks(validation) == looks(training)
    assert len(set(looks(validation))) == 9
    assert [line[1][-1] for line in lines(validation)] == pytest.approx([50 - i for i in range(9)])
    assert legend_labels(validation.figure) == list(paths)


def test_compare_runs_without_validation_has_one_panel(tmp_path, drawn):
    plots.compare_runs(
        {"a": write_metrics(tmp_path / "m", 2, robust_accuracy=[0.5, 0.6])}, tmp_path / "a.png"
    )
    assert len(drawn[0]) == 1
    assert "training" in drawn[0][0].get_ylabel()
    with pytest.raises(UsageError, match="none"):
        plots.compare_runs({}, tmp_path / "b.png")


def save_examples(path, channels=1, **changes):
    rng = np.random.default_rng(0)
    clean = rng.uniform(0.2, 0.8, (3, 4, 4, channels)).astype(np.float32)
    data = dict(
        clean=clean, adversarial=clean + np.float32(0.1), labels=[1, 2, 3], clean_predictions=[1, 2, 0]
    )
    data |= dict(adversarial_predictions=[1, 7, 0], epsilon=0.1) | changes
    np.savez(path, **{key: value for key, value in data.items() if value is not None})
    return data


@pytest.mark.parametrize("channels", [1, 3, 2])
def test_grid_shows_images_verdicts_and_factor(tmp_path, drawn, channels):
    data = save_examples(tmp_path / "g.npz", channels)
    plots.adversarial_grid(tmp_path / "g.npz", tmp_path / "a.png", columns=2)
    panels = drawn[0]
    assert [axes.get_title() for axes in panels] == ["1\n1", "2\n2", "1\n1", "2\n7", "", ""]
    named = [[text.get_text() for text in axes.texts] for axes in (panels[0], panels[2])]
    assert named == [["true class\npredicted", ""]] * 2
    wrong = [same_color(axes.title.get_color(), plots.VERMILLION) for axes in panels]
    assert wrong == [False, False, False, True, False, False]
    assert panels[2].get_ylabel() == "adversarial\nimage"
    assert panels[4].get_ylabel() == "perturbation\n× 5.0"
    assert heading(panels[0].figure) == "The first 2 test images, clean and attacked ε = 0.1"
    np.testing.assert_allclose(panels[4].images[0].get_array(), 1.0, atol=1e-5)
    if channels != 2:
        shown = np.asarray(panels[3].images[0].get_array()).reshape(4, 4, channels)
        np.testing.assert_allclose(shown, data["adversarial"][1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "no labels"),
        ({"labels": [1, 2]}, "N entries"),
        ({"adversarial": np.zeros((3, 4, 4, 2))}, r"adversarial.shape=\(3, 4, 4, 2\)"),
        ({"clean": np.zeros((3, 4, 4)), "adversarial": np.zeros((3, 4, 4))}, r"clean.shape=\(3, 4, 4\)"),
        ({"labels": np.array([{}, {}, {}])}, "pickle"),
    ],
)
def test_foreign_examples_are_refused(tmp_path, changes, message):
    save_examples(tmp_path / "g.npz", **changes)
    with pytest.raises(UsageError, match=message):
        plots.adversarial_grid(tmp_path / "g.npz", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 torn", b"text"])
def test_broken_examples_file_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "g.npz").write_bytes(content)
    with pytest.raises(UsageError, match="NPZ"):
        plots.adversarial_grid(tmp_path / "g.npz", tmp_path / "a.png")


@pytest.mark.parametrize(
    "draw", [plots.learning_curves, plots.schedule, lambda m, o: plots.compare_runs({"a": m}, o)]
)
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "readable"), ("", "no epoch"), ('{"a": 1}\n', "keys a"), ("{\n 1\n}", "line 1")],
)
def test_foreign_metrics_are_refused(tmp_path, draw, content, message):
    path = tmp_path / "m"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=message):
        draw(path, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_unknown_suffix_and_failed_drawing_leave_nothing(tmp_path):
    path = write_metrics(tmp_path / "m", 1)
    with pytest.raises(UsageError, match=r"a\.jpeg"):
        plots.learning_curves(path, tmp_path / "a.jpeg")
    with pytest.raises(RuntimeError), plots.sheet(tmp_path / "a.png", Heading("a"), rows=1, height=1):
        raise RuntimeError
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


def test_drawing_needs_no_tensorflow_and_no_pyplot(tmp_path):
    path = write_metrics(tmp_path / "m", 2)
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy(); "
        "from advtf.figures import training as plots; "
        f"plots.learning_curves({str(path)!r}, {str(tmp_path / 'a.png')!r}); "
        "print('tensorflow' in sys.modules, 'matplotlib.pyplot' in sys.modules, "
        "before == matplotlib.rcParams.copy())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True"]
