"""What every figure says of itself: titles, conditions and legends; nothing is cut off, whatever is drawn.

Older result files, which tell less, are drawn too.
"""

import json

import numpy as np
import pytest
from helpers.figures import drawn_figure, heading, legend_labels
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image

from advtf.errors import UsageError
from advtf.figures import connectivity, density, hessian, input, input_experiments, similarity, surface
from advtf.figures import dynamics as updates
from advtf.figures import evaluation as evaluated
from advtf.figures import training as trained
from advtf.figures.results import Conditions, conditions
from advtf.figures.style import RUN_COLORS, Heading, short_label, two_digits

ABOUT = Conditions("digits", {"train": 300, "test": 200}, "PGD-10", "linf", 8 / 255)
TOLD = "digits, 300 training and 200 test images, PGD-10, l∞, ε = 8/255"
TRAIN_ONLY = TOLD.replace(" and 200 test", "")
LONG = "saved_models/cifar10-preact_resnet18-a-very-long-experiment-name-that-goes-on-and-on-seed{}/last"
SIZES = {"usual": 1.0, "tiny": 1e-150, "huge": 1e150, "missing": np.nan, "zero": 0.0}


def numbers(size, *shape):
    """Numbers of a size within two decades, one of which is missing."""
    values = size * np.geomspace(0.1, 10, int(np.prod(shape)))
    values[0] = np.nan
    return values.reshape(shape)


def arrays_file(folder, name, about=ABOUT, **arrays):
    told = {} if about is None else {"about": about.array()}
    np.savez(folder / name, **told, **arrays)
    return folder / name


def draw_hessian(folder, names, size, about=ABOUT):
    values = [None if np.isnan(value) else value for value in numbers(size, 5).tolist()]
    models = [{"name": n, "values": values, "normalised": values, "converged": [True] * 5} for n in names]
    record = {"models": models}
    if about:
        record |= {"dataset": about.dataset, "split": "train", "examples": 300, "test_examples": 200}
        record["settings"] = {"norm": "linf", "eps": 8 / 255, "attack_steps": 10, "eigen_end": "largest"}
    (folder / "hessian.json").write_text(json.dumps(record))
    hessian.spectra({"": folder / "hessian.json"}, folder / "f.png")


def draw_density(folder, names, size, about=ABOUT):
    nodes = np.nan_to_num(numbers(size, len(names), 2, 4))
    path = arrays_file(
        folder, "density.npz", about, models=names, dimensions=[100] * len(names), nodes=nodes,
        weights=np.full(nodes.shape, 0.25),
    )  # fmt: skip
    density.spectral_densities({"": path}, folder / "f.png")


def draw_similarity(folder, names, size, about=ABOUT):
    shape = (len(names), 2, 2, 2)
    path = arrays_file(
        folder, "similarity.npz", about, offsets=[0, 0.01, 1], models=names, splits=["train", "test"],
        directions=["eigenvector", "random"], similarity=numbers(0.5, *shape, 3),
        error=numbers(50, *shape, 2, 3), between_starts=numbers(0.5, len(names), 2, 2),
    )  # fmt: skip
    similarity.perturbation_similarity({"": path}, folder / "f.png")


def draw_surface(folder, names, size, about=ABOUT, dimensions=2):
    paths = {}
    for number, name in enumerate(names):
        grids = dict.fromkeys(surface.QUANTITIES, numbers(size, *[5] * dimensions))
        axes = {f"axis{k}": np.linspace(-1, 1, 5) for k in range(dimensions)}
        labels = [f"t{k} towards {name}" for k in range(dimensions)]
        paths[name] = arrays_file(
            folder, f"surface{number}.npz", about, **axes, **grids, labels=labels, model=name, towards=True,
            epsilon=8 / 255,
        )  # fmt: skip
    surface.loss_surface({"": paths[names[0]]} if len(names) == 1 else paths, folder / "f.png")


def draw_line(folder, names, size, about=ABOUT):
    draw_surface(folder, names, size, about, dimensions=1)


def draw_connectivity(folder, names, size, about=ABOUT):
    curves = max(len(names) - 1, 1)
    measured = {f"{k}_{n}": numbers(size, curves, 6) for k in ("curve", "line") for n in connectivity.PANELS}
    ends = names if len(names) > 1 else [*names, "other"]
    path = arrays_file(
        folder, "connectivity.npz", about, t=np.linspace(0, 1, 6), epsilon=8 / 255, names=ends, **measured
    )
    connectivity.path_between_minima({"": path}, folder / "f.png")


def draw_input(folder, names, size, about=ABOUT):
    measured = {f"{s}_{m}": numbers(size, len(names), 9) for s in ("train", "test") for m in input.PANELS}
    path = arrays_file(folder, "input.npz", about, models=names, splits=["train", "test"], **measured)
    input.input_landscape({"": path}, folder / "f.png")


def draw_dead_units(folder, names, size, about=ABOUT):
    layer = {"name": "conv", "units": 10, "clean": {"dead": 1}, "adversarial": {"dead": 2}}
    record = {"units": [{"name": name, "layers": [layer, layer]} for name in names]}
    if about:
        record["about"] = about.to_json()
    (folder / "dynamics.json").write_text(json.dumps(record))
    updates.dead_units(folder / "dynamics.json", folder / "f.png")


DRAWN = {  # figure -> how it is drawn, words of its title, what its heading tells of the data
    "hessian": (draw_hessian, "largest eigenvalues of the Hessian", TRAIN_ONLY),
    "density": (draw_density, "Density of the eigenvalues", TRAIN_ONLY),
    "similarity": (draw_similarity, "their cosine, and the error", TOLD),
    "surface": (draw_surface, "on a plane through the weights", TRAIN_ONLY),
    "line": (draw_line, "along a line through the weights", TRAIN_ONLY),
    "connectivity": (draw_connectivity, "along the paths between trained classifiers", TOLD),
    "input": (draw_input, "slope, curvature and attacks", TOLD),
    "dead units": (draw_dead_units, "0 for every image", TRAIN_ONLY),
}


def texts_outside(figure):
    """Texts of a figure that do not lie within it."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    legends = [text for legend in figure.legends for text in legend.get_texts()]
    labels = [label for axes in figure.axes for label in (axes.xaxis.label, axes.yaxis.label, axes.title)]
    bounds = figure.bbox.padded(1.0)
    boxes = {text: text.get_window_extent(renderer) for text in (*figure.texts, *legends, *labels)}
    return [
        text.get_text()
        for text, box in boxes.items()
        if text.get_text().strip() and text.get_visible()
        and not (bounds.x0 <= box.x0 and box.x1 <= bounds.x1 and bounds.y0 <= box.y0 and box.y1 <= bounds.y1)
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("name", DRAWN)
def test_figures_tell_what_they_show_and_hold_long_names(tmp_path, monkeypatch, name, count):
    draw, title, about = DRAWN[name]
    names = [LONG.format(number) for number in range(count)]
    figure = drawn_figure(monkeypatch, lambda: draw(tmp_path, names, 1.0))
    told = heading(figure)
    assert title in told and about in told
    assert texts_outside(figure) == []
    visible = [axes for axes in figure.axes if axes.get_visible()]
    assert any(axes.get_xlabel() for axes in visible) or figure.get_supxlabel()
    if name not in ("surface", "input") and count > 1 and name != "connectivity":
        # One colour for one classifier, in every panel.
        assert {to_rgb(color) for color in RUN_COLORS[:count]} <= {
            to_rgb(line.get_color()) for axes in visible for line in axes.lines
        }


@pytest.mark.parametrize(
    "size", ["missing", "zero", *(pytest.param(size, marks=pytest.mark.slow) for size in ("tiny", "huge"))]
)
@pytest.mark.parametrize("name", ["hessian", "surface", "line", "connectivity", "input"])
def test_figures_of_extreme_values_and_of_older_files(tmp_path, monkeypatch, name, size):
    draw, title, _ = DRAWN[name]
    figure = drawn_figure(monkeypatch, lambda: draw(tmp_path, ["a", "b"], SIZES[size], None))
    assert title.split()[-1] in heading(figure) and "digits" not in heading(figure)
    assert texts_outside(figure) == []


def test_metadata_of_a_picture_is_its_heading(tmp_path):
    draw_density(tmp_path, ["a"], 1.0)
    stored = Image.open(tmp_path / "f.png").text
    assert stored["Title"].startswith("Density of the eigenvalues")
    assert stored["Description"] == f"{TRAIN_ONLY}; cf. Ghorbani et al. 2019"
    assert stored["Software"].startswith("advtf")


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_equal_data_give_equal_files(tmp_path, suffix):
    (tmp_path / "m").write_text('{"epoch": 1, "loss": 2}\n')
    files = [trained.learning_curves(tmp_path / "m", tmp_path / f"{k}.{suffix}") for k in "ab"]
    assert b"Loss and error in training" in files[0].read_bytes()
    first, second = (file.read_bytes() for file in files)
    assert suffix == "svg" or first == second  # the ids in an SVG are random
    assert b"CreationDate" not in first and b"<dc:date>" not in first


def test_compared_files_tell_what_they_have_in_common(tmp_path):
    one = arrays_file(tmp_path, "a.npz")
    two = arrays_file(tmp_path, "b.npz", ABOUT.replaced(epsilon=0.3))
    other = arrays_file(tmp_path, "c.npz", None, values=[1])
    assert str(conditions([one, one])) == TOLD
    assert str(conditions([one, two])) == TOLD.removesuffix(", ε = 8/255")
    assert str(conditions([one, two, other])) == "" == str(conditions([]))
    assert str(ABOUT.replaced(epsilon=0.0)) == "digits, 300 training and 200 test images, ε = 0"
    with pytest.raises(UsageError, match="readable result file"):
        (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
        conditions([tmp_path / "torn.npz"])


@pytest.mark.parametrize(
    "config", ["", "[]", '{"config": 1}', '{"config": {"eps": "x"}}', '{"image_counts": 5}']
)
def test_rubbish_beside_the_metrics_is_named(tmp_path, config):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "loss": 2}\n')
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UsageError, match=r"config\.json|metrics\.jsonl"):
        trained.learning_curves(tmp_path / "metrics.jsonl", tmp_path / "f.png")
    assert not (tmp_path / "f.png").exists()


@pytest.mark.parametrize("about", ["", "{", "[]", '{"unknown": 1}', "5", '{"images": 5}'])
def test_rubbish_in_about_is_refused(tmp_path, about):
    np.savez(tmp_path / "a.npz", about=np.array(about))
    with pytest.raises(UsageError, match=r"a\.npz"):
        conditions([tmp_path / "a.npz"])


def test_older_evaluation_is_of_test_images(tmp_path, monkeypatch):
    curve = [{"epsilon": e, "robust_accuracy": 90 - 100 * e} for e in (0.0, 0.1, 0.2)]
    record = {"dataset": "digits", "examples": 50, "worst_case": {}, "norm": "l2", "epsilon": 0.1}
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(record | {"robust_accuracy_by_epsilon": curve}))
    figure = drawn_figure(monkeypatch, lambda: evaluated.robust_accuracy(path, tmp_path / "f.png"))
    assert heading(figure) == "Accuracy under attack, by the radius ε digits, 50 test images, l2"
    assert figure.axes[0].get_xlabel() == "ε (l2, pixels in [0, 1])"


def test_extremes_have_norms_with_two_digits(tmp_path, monkeypatch):
    pixels = np.zeros((4, 3, 3, 1))
    classes = {"labels": [1, 2, 3, 4], "clean_predictions": [1, 2, 3, 4]}
    path = arrays_file(
        tmp_path, "examples.npz", clean=pixels, adversarial=pixels + 0.125, **classes,
        adversarial_predictions=[9, 8, 7, 6], l2_sizes=[0.1234, 0.1278, 12.34, 1234.5],
    )  # fmt: skip
    figure = drawn_figure(monkeypatch, lambda: evaluated.extremes(path, tmp_path / "f.png"))
    shown = [axes.get_xlabel() for axes in figure.axes]
    assert shown == ["", "", "0.12", "0.13", "", "", "12", "1,200"]
    assert figure.axes[0].get_title() == "1\n9" and figure.axes[2].get_ylabel() == "perturbation\n× 4.0"
    assert [text.get_text() for text in figure.axes[2].texts] == ["", "l2 norm"]
    assert "smallest and the largest perturbations" in heading(figure) and TOLD in heading(figure)


def test_experiments_spell_their_measures(tmp_path, monkeypatch):
    known = {key: {"mean": 1.0, "standard_error": 0.1} for key in ("ig", "hs", "fgsm", "pgd10")}
    records = {str(k): {"scale": k / 5} | known for k in range(3)}
    path = tmp_path / "w.json"
    path.write_text(json.dumps({"settings": {}, "records": records, "about": ABOUT.to_json()}))
    figure = drawn_figure(monkeypatch, lambda: input_experiments.weight_noise(path, tmp_path / "w.png"))
    slope, curvature = (axes.get_xlabel() for axes in figure.axes)
    assert "norm of the input gradient" in slope and "eigenvalues\nof the input Hessian" in curvature
    assert TRAIN_ONLY in heading(figure) and texts_outside(figure) == []
    assert legend_labels(figure) == ["FGSM", "PGD-10", "without noise (black rim)"]


def test_numbers_and_names_are_short():
    given = [0.0, 49.44, 1234.0, 99.6, 0.99951, 5, 0.0012345, -0.5, 1e-7, 3e9, np.nan, np.inf]
    shown = ["0", "49", "1,200", "100", "1.0", "5.0", "0.0012", "−0.50", "1e−07", "3e+09", "–", "–"]
    assert [two_digits(value) for value in given] == shown
    assert short_label("last") == "last"
    assert short_label(LONG.format(3)).startswith("saved_models/cifar10") and len(short_label(LONG)) == 44
    assert short_label(LONG.format(3)).endswith("seed3/last")


def test_heading_keeps_epsilon_on_one_line():
    about = "a data set, with a long name, 60,000 training images, PGD-50, ε = 8/255"
    lines = [line for line, _ in Heading("A title", about).lines()]
    assert len(lines) == 3 and not any(line.endswith(("ε", "=")) for line in lines)
