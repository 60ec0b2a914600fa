"""The study ``theory`` from the digits to its figures, shortened; in full length with -m slow."""

import json
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from helpers.analysis import study_context
from helpers.figures import heading, legend_labels
from matplotlib.image import imread
from threadpoolctl import threadpool_limits

from advtf.errors import UsageError
from advtf.figures import theory as figures
from advtf.studies import theory
from advtf.theory import constant_classifier, multiclass, smoothness

FILES = ["theory.json", "theory.npz", "figure1.png", "proposition1.png", "theorem1.png", "theorem3.png"]
DRAWINGS = [figures.kink, figures.sets, figures.constant_classifier, figures.curvature_growth]
BEYOND = "the same where ‖w‖_q changes with w, in directions of any kind"  # outside the paper's theorem


def context(folder, seed=0):
    said = []
    made = study_context(folder.parent, "theory", say=said.append, seed=seed)
    return made, said


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A run with few models and iterations: its folder, files and lines, and the arrays of a second one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theory, "FRACTIONS", (0.3, 1.2))
        patch.setattr(theory, "ITERATIONS", 60)
        patch.setattr(theory, "SUBSET", 15)
        patch.setattr(theory, "WEIGHTS_PER_MODEL", 2)
        patch.setattr(theory, "RADII", np.linspace(0, 0.6, 5))
        made, said = context(tmp_path_factory.mktemp("short") / "theory")
        files = theory.run(made)
        return made.folder, files, said, theory._measured(*theory._digits(), seed=0)[1]


def arrays(folder):
    with np.load(folder / "theory.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_files_results_first_and_a_line_and_a_measurement_per_claim(short):
    folder, files, said, _ = short
    assert [file.name for file in files] == FILES
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
    record = json.loads((folder / "theory.json").read_text())
    assert record["study"] == "theory"
    assert record["settings"]["seed"] == 0
    assert len(said) == 1 + 2 * len(record["claims"])
    for claim, line, measured in zip(record["claims"], said[1::2], said[2::2], strict=True):
        assert line.split(maxsplit=1)[0] == claim["source"].split()[0]
        assert ("NO" in line) != claim["holds"]
        assert claim["statement"] in line
        assert claim["measured"] in measured
    sources = {claim["source"] for claim in record["claims"]}
    assert sources >= {"eq. 6", "Prop. 1", "Prop. 2", "Theorem 1", "Theorem 3"}


def test_claims_that_need_no_long_training_hold(short):
    record = json.loads((short[0] / "theory.json").read_text())
    for claim in record["claims"]:
        if claim["source"] in ("eq. 6", "Prop. 1", "Prop. 2", "Theorem 3"):
            assert claim["holds"], claim
    assert {claim["statement"]: claim["holds"] for claim in record["claims"]}[BEYOND] is False


def test_arrays_are_what_the_theory_gives(short):
    data = arrays(short[0])
    x, y = theory._digits()
    threshold = constant_classifier.threshold(x, y, 10, "linf").upper
    assert data["theorem1_threshold"] == threshold
    np.testing.assert_allclose(data["theorem1_epsilon"], [0.3 * threshold, 1.2 * threshold])
    for epsilon, weights, loss in zip(
        *(data[f"theorem1_{name}"] for name in ("epsilon", "weights", "loss")), strict=True
    ):
        with threadpool_limits(1, user_api="blas"):
            worst = multiclass.worst_case(weights, x, y, float(epsilon), "linf")
        assert multiclass.losses(weights, worst, y).mean() == pytest.approx(loss)
    np.testing.assert_allclose(data["theorem1_size"], np.linalg.norm(data["theorem1_weights"], axis=(1, 2)))
    np.testing.assert_allclose(
        data["sketch_highest"][1], smoothness.sketch_highest_loss(data["sketch_theta"], 1.0, 1.2)
    )
    assert np.all(np.diff(data["sets_robust"]) <= 0)
    assert np.all(np.diff(data["sets_origin"]) >= 0)
    assert data["sets_origin"][-1] == 1
    assert data["theorem3_curvatures"].shape == (2, 41, 100)


def test_same_seed_same_bits(short):
    first, second = arrays(short[0]), short[3]
    assert first.keys() == second.keys() | {"about"}
    for name, values in second.items():
        np.testing.assert_array_equal(first[name], values, err_msg=name)


@pytest.fixture
def drawn(monkeypatch):
    """The panels of every sheet a test draws."""
    seen, original = [], figures.sheet

    @contextmanager
    def recording(*args, **kwargs):
        with original(*args, **kwargs) as panels:
            seen.append(panels)
            yield panels

    monkeypatch.setattr(figures, "sheet", recording)
    return seen


def lines(axes):
    return [np.array([line.get_xdata(), line.get_ydata()], float) for line in axes.get_lines()]


def test_kink_shows_both_curves_and_the_band_of_each_epsilon(short, tmp_path, drawn):
    data = arrays(short[0])
    assert figures.kink(short[0] / "theory.npz", tmp_path / "new" / "a.png") == tmp_path / "new" / "a.png"
    assert imread(tmp_path / "new" / "a.png").shape[1] > 100
    for axes, highest, lowest in zip(drawn[0], data["sketch_highest"], data["sketch_lowest"], strict=True):
        clean, worst = lines(axes)[:2]
        np.testing.assert_array_equal(clean, [data["sketch_theta"], data["sketch_clean"]])
        np.testing.assert_array_equal(worst, [data["sketch_theta"], highest])
        edges = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert {edges.min(), edges.max()} == {lowest.min(), highest.max()}
    assert [axes.texts[0].get_text() for axes in drawn[0]] == ["ε = 0.6", "ε = 1.2"]
    assert legend_labels(drawn[0][0].figure)[0] == "clean loss g(x, θ)"


def test_constant_classifier_shows_loss_and_norm_with_the_threshold(short, tmp_path, drawn):
    data = arrays(short[0])
    figures.constant_classifier(short[0] / "theory.npz", tmp_path / "a.svg")
    loss, size = drawn[0]
    np.testing.assert_array_equal(lines(loss)[1], [data["theorem1_epsilon"], data["theorem1_loss"]])
    np.testing.assert_array_equal(lines(size)[0], [data["theorem1_epsilon"], data["theorem1_size"]])
    assert lines(loss)[0][1] == pytest.approx(np.log(10))
    np.testing.assert_allclose(lines(size)[1][0], data["theorem1_threshold"])
    assert size.get_yscale() == "log"
    assert size.get_xlabel() == "ε (l∞, pixels in [0, 1])"
    told = heading(size.figure)
    assert "linear models, digits, " in told and "training images cf. Liu et al. 2020, Theorem 1" in told


def test_sets_are_in_percent(short, tmp_path, drawn):
    data = arrays(short[0])
    figures.sets(short[0] / "theory.npz", tmp_path / "a.png")
    (axes,) = drawn[0]
    np.testing.assert_allclose(lines(axes)[0][1], 100 * data["sets_robust"])
    np.testing.assert_allclose(lines(axes)[1][1], 100 * data["sets_origin"])


def test_curvature_is_relative_to_its_start(short, tmp_path, drawn):
    data = arrays(short[0])
    figures.curvature_growth(short[0] / "theory.npz", tmp_path / "a.png")
    for axes, curvatures in zip(drawn[0], data["theorem3_curvatures"], strict=True):
        *each, median, mark = lines(axes)
        assert len(each) == 100
        np.testing.assert_allclose(each[3][1], curvatures[:, 3] / curvatures[0, 3])
        assert median[1][0] == 1
        np.testing.assert_allclose(mark[0], data["theorem3_separation"])


@pytest.mark.parametrize("draw", DRAWINGS)
def test_foreign_files_are_refused(draw, tmp_path):
    (tmp_path / "text.npz").write_text("text")
    np.savez(tmp_path / "other.npz", a=1)
    for name in ("none.npz", "text.npz", "other.npz"):
        with pytest.raises(UsageError, match=r"theory\.npz of advtf"):
            draw(tmp_path / name, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_figures_need_no_tensorflow(short, tmp_path):
    code = (
        "import sys; from advtf.figures import theory; "
        f"theory.kink({str(short[0] / 'theory.npz')!r}, {str(tmp_path / 'a.png')!r}); "
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_every_claim_of_the_paper_holds_on_digits(tmp_path, seed):
    made, _ = context(tmp_path / "theory", seed)
    theory.run(made)
    record = json.loads((made.folder / "theory.json").read_text())
    failed = [claim["statement"] for claim in record["claims"] if not claim["holds"]]
    assert failed == [BEYOND]
    sizes = {model["epsilon"]: model["size"] for model in record["theorem1"]["models"]}
    threshold = record["theorem1"]["threshold"]
    below = min(size for epsilon, size in sizes.items() if epsilon < threshold)
    beyond = max(size for epsilon, size in sizes.items() if epsilon > threshold)
    assert below > 10 * beyond
