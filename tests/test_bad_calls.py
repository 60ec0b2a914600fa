"""What a caller of the library can get wrong, in one table: each is a `UsageError`, which is a ValueError.

Its message is one line that names the argument and what was received, before anything is computed or written.
"""

import re

import numpy as np
import pytest

import advtf
from advtf.errors import UsageError

HUGE = 10**20
NAN = float("nan")


@pytest.fixture(scope="module")
def given():
    """Sound arguments: a classifier, images and labels, two more classifiers that do not fit it."""
    rng = np.random.default_rng(0)
    return {
        "model": advtf.build_model("linear", (4, 4, 1), 3),
        "wide": advtf.build_model("linear", (4, 4, 1), 4),
        "x": rng.random((6, 4, 4, 1), np.float32),
        "y": np.arange(6) % 3,
        "attack": advtf.pgd(steps=1),
        "logits": lambda x: x,
    }


def build(*arguments, **settings):
    return lambda given: advtf.build_model(*arguments, **settings)


def call(name, *arguments, **settings):
    """A call of a public function; texts that begin with @ stand for a sound argument of `given`."""

    def value(given, argument):
        return given[argument[1:]] if isinstance(argument, str) and argument.startswith("@") else argument

    return lambda given: getattr(advtf, name)(
        *(value(given, argument) for argument in arguments),
        **{key: value(given, argument) for key, argument in settings.items()},
    )


def evaluate(x="@x", y="@y", **settings):
    return call("evaluate", "@model", x, y, **{"attacks": "pgd", "epsilon": 0.1, **settings})


def analyze(x="@x", y="@y", **settings):
    return call("analyze", "@model", x, y, **{"study": "hessian", "epsilon": 0.1, **settings})


def arrays(shape=(6, 4, 4, 1), labels=(0, 1, 2, 0, 1, 2), **settings):
    x = np.zeros(shape, np.float32)
    return call("from_arrays", x, np.array(labels), x, np.array(labels), **settings)


TABLE = {
    # Models
    "model: name": (build("resnet8", (8, 8, 1), 10), r"model=resnet8\. Did you mean 'resnet18'"),
    "model: shape of two": (build("lenet", (28, 28), 10), r"input_shape=\(28, 28\)"),
    "model: shape of zero": (build("lenet", (0, 28, 1), 10), "input_shape="),
    "model: shape of floats": (build("lenet", (28.0, 28, 1), 10), "input_shape="),
    "model: one class": (build("lenet", (28, 28, 1), 1), "num_classes=1"),
    "model: classes as text": (build("lenet", (28, 28, 1), "10"), "num_classes=10"),
    "model: no classes": (build("lenet", (28, 28, 1), 0), "num_classes=0"),
    "model: width 0": (build("lenet", (28, 28, 1), 10, width=0), "width=0"),
    "model: width 1.5": (build("lenet", (28, 28, 1), 10, width=1.5), "width=1.5"),
    "model: width True": (build("lenet", (28, 28, 1), 10, width=True), "width=True"),
    "model: width of linear": (build("linear", (28, 28, 1), 10, width=2), "width=2"),
    "model: depth": (build("wide_resnet", (32, 32, 3), 10, depth=12), "depth=12"),
    "model: depth of lenet": (build("lenet", (28, 28, 1), 10, depth=10), "depth=10"),
    "model: activation": (build("lenet", (28, 28, 1), 10, activation="swish"), "activation=swish"),
    "model: seed": (build("lenet", (28, 28, 1), 10, seed=-1), "seed=-1"),
    "model: seed 0.5": (build("lenet", (28, 28, 1), 10, seed=0.5), "seed=0.5"),
    # Attacks
    "pgd: norm": (call("pgd", "L2"), "norm=L2"),
    "pgd: steps": (call("pgd", steps=0), "steps=0"),
    "pgd: steps 2.5": (call("pgd", steps=2.5), "steps=2.5"),
    "pgd: step": (call("pgd", relative_step=0), "relative_step=0"),
    "pgd: step nan": (call("pgd", relative_step=NAN), "relative_step=nan"),
    "pgd: start": (call("pgd", random_start="zero"), "random_start=zero"),
    "pgd: restarts": (call("pgd", restarts=0), "restarts=0"),
    "fgsm: norm": (call("fgsm", "l1"), "norm=l1"),
    "fgsm_n: norm": (call("fgsm_n", "l1"), "norm=l1"),
    "noisy: norm": (call("noisy", "linfty"), "norm=linfty"),
    "apgd: norm": (call("apgd", "l1"), "norm=l1"),
    "apgd: loss": (call("apgd", loss="dlrr"), "loss=dlrr"),
    "apgd: steps": (call("apgd", steps=0), "steps=0"),
    "apgd: restarts": (call("apgd", restarts=-1), "restarts=-1"),
    "apgd: rho": (call("apgd", rho=2), "rho=2"),
    "apgd_targeted: rank": (call("apgd_targeted", target_rank=0), "target_rank=0"),
    "fab: steps": (call("fab", steps=0), "steps=0"),
    "fab: norm": (call("fab", "l0"), "norm=l0"),
    "fab: eta": (call("fab", eta=-1), "eta=-1"),
    "fab: beta": (call("fab", beta=2), "beta=2"),
    "square: queries": (call("square", queries=0), "queries=0"),
    "square: share": (call("square", p_init=0), "p_init=0"),
    "square: loss": (call("square", loss="hinge"), "loss=hinge"),
    # Schedules
    "epsilon: kind": (call("epsilon_schedule", "cos", target=0.1, epochs=3), "cos"),
    "epsilon: target": (call("epsilon_schedule", "cosine", target=-1, epochs=3), "target=-1"),
    "epsilon: target nan": (call("epsilon_schedule", "cosine", target=NAN, epochs=3), "target=nan"),
    "epsilon: epochs": (call("epsilon_schedule", "cosine", target=0.1, epochs=0), "epochs=0"),
    "epsilon: minimum": (call("epsilon_schedule", "cosine", target=0.1, minimum=1, epochs=3), "minimum=1"),
    "epsilon: maximum": (
        call("epsilon_schedule", "linear", target=0.2, minimum=0.1, maximum=0.05, epochs=3),
        "maximum=0.05",
    ),
    "epsilon: boundaries": (
        call("epsilon_schedule", "cosine", target=0.1, epochs=3, boundaries=(4,)),
        "boundaries=4",
    ),
    "epsilon: ends": (call("epsilon_schedule", "constant", target=0.1, maximum=1, epochs=3), "maximum=1"),
    "rate: kind": (call("rate_schedule", "steps", 0.1, epochs=3), "steps"),
    "rate: zero": (call("rate_schedule", "constant", 0, epochs=3), "rate=0"),
    "rate: inf": (call("rate_schedule", "constant", float("inf"), epochs=3), "rate=inf"),
    "rate: milestones": (call("rate_schedule", "step", 0.1, milestones=(5,), epochs=9), "milestones=5"),
    "rate: no milestones": (call("rate_schedule", "step", 0.1, epochs=9), "milestones=none"),
    "rate: factor": (call("rate_schedule", "step", 0.1, milestones=(0.5,), factor=0, epochs=9), "factor=0"),
    "rate: warmup": (call("rate_schedule", "warmup", 0.1, warmup=10, epochs=9), "warmup=10"),
    # Objectives
    "advlc: strength": (call("advlc", -1), "strength=-1"),
    "advlc: fraction": (call("advlc", fraction=0), "fraction=0"),
    "advlc: distance": (call("advlc", distance="l3"), "distance=l3"),
    "igr: strength": (call("igr", NAN), "strength=nan"),
    "cure: strength": (call("cure", -1), "strength=-1"),
    "gradalign: strength": (call("gradalign", -1), "strength=-1"),
    "logitalign: strength": (call("logitalign", -1), "strength=-1"),
    "consistency: temperature": (call("consistency", temperature=0), "temperature=0"),
    "trades: beta": (call("trades", -1), "beta=-1"),
    "mart: beta": (call("mart", float("inf")), "beta=inf"),
    "minus standard: alpha": (call("adversarial_minus_standard", -1), "alpha=-1"),
    "kdsa: one teacher": (call("kdsa", [len]), "1 teacher"),
    "kdsa: temperature": (call("kdsa", ["@logits", "@logits"], temperature=0), "temperature=0"),
    # Optimizers
    "SGD: l2": (call("SGD", l2=-1), "l2=-1"),
    "Adam: l2": (call("Adam", l2=NAN), "l2=nan"),
    # The trainer
    "trainer: classifier": (call("AdversarialTrainer", "model.keras", "@attack", 0.1), "classifier"),
    "trainer: epsilon": (call("AdversarialTrainer", "@model", "@attack", -0.1), "epsilon=-0.1"),
    "trainer: epsilon as text": (call("AdversarialTrainer", "@model", "@attack", "8:255"), "epsilon=8:255"),
    "trainer: epsilon nan": (call("AdversarialTrainer", "@model", "@attack", NAN), "epsilon=nan"),
    "trainer: mode": (
        call("AdversarialTrainer", "@model", "@attack", 0.1, attack_mode="eval"),
        "attack_mode=eval",
    ),
    "trainer: awp": (call("AdversarialTrainer", "@model", "@attack", 0.1, awp=-1), "awp=-1"),
    "trainer: eval epsilon": (
        call("AdversarialTrainer", "@model", "@attack", 0.1, eval_epsilon=-1),
        "eval_epsilon=-1",
    ),
    # Data
    "arrays: shape": (arrays((6, 4, 4)), r"\(6, 4, 4\)"),
    "arrays: lengths": (arrays(labels=(0, 1)), "2"),
    "arrays: labels": (arrays(labels=(0, 1, -1, 0, 1, 2)), "-1"),
    "arrays: labels of floats": (arrays(labels=(0.5, 1, 2, 0, 1, 2)), "float64"),
    "arrays: classes": (arrays(num_classes=2), "num_classes=2|2"),
    "arrays: held out none": (arrays(val_fraction=-0.1), "val_fraction=-0.1"),
    "arrays: range": (
        lambda given: advtf.from_arrays(given["x"] * 255, given["y"], given["x"], given["y"]),
        r"\[0, 1\]",
    ),
    "arrays: nan": (
        lambda given: advtf.from_arrays(given["x"] * NAN, given["y"], given["x"], given["y"]),
        "nan|finite",
    ),
    "data: name": (call("load_data", "digist"), "Did you mean 'digits'"),
    "data: size": (call("load_data", "digits", image_size=0), "image_size=0"),
    "data: held out": (call("load_data", "digits", val_fraction=1), "val_fraction=1"),
    "data: order": (call("load_data", "digits", order="random"), "order=random"),
    # Evaluation
    "evaluate: attack": (evaluate(attacks="pgdd"), r"attacks=pgdd\. Did you mean 'pgd'"),
    "evaluate: no attack": (evaluate(attacks=[]), r"attacks=\[\]"),
    "evaluate: eps": (evaluate(eps=0.1), "eps=0.1"),
    "evaluate: epsilon": (evaluate(epsilon=8), "epsilon=8; 8 probably means 8/255"),
    "evaluate: epsilon nan": (evaluate(epsilon=NAN), "epsilon=nan"),
    "evaluate: epsilon as text": (evaluate(epsilon="8:255"), "epsilon=8:255"),
    "evaluate: norm": (evaluate(norm="l1"), "norm=l1"),
    "evaluate: unknown": (evaluate(restart=3), r"restart\. Did you mean 'restarts'"),
    "evaluate: steps": (evaluate(steps=0), "steps=0"),
    "evaluate: batch": (evaluate(batch_size=HUGE), f"batch_size={HUGE}"),
    "evaluate: grid": (evaluate(epsilon_grid=[8]), "epsilon_grid=8"),
    "evaluate: grid of texts": (evaluate(epsilon_grid=["a"]), "epsilon_grid="),
    "evaluate: images": (evaluate(x=np.zeros((6, 4, 4))), r"\(6, 4, 4\)"),
    "evaluate: labels": (evaluate(y=np.zeros(5, int)), "5"),
    "evaluate: labels above": (evaluate(y=np.full(6, 7)), "7|8"),
    "evaluate: range": (evaluate(x=np.full((6, 4, 4, 1), 255.0)), "255"),
    "evaluate: classifier": (call("evaluate", 3, "@x", "@y"), "int"),
    "evaluate: path": (call("evaluate", "missing/model", "@x", "@y"), "missing/model"),
    # Analysis
    "analyze: study": (analyze(study="hesian"), "Did you mean 'hessian'"),
    "analyze: epsilon": (analyze(epsilon=8), "epsilon=8; 8 probably means 8/255"),
    "analyze: epsilon negative": (analyze(epsilon=-1), "epsilon=-1"),
    "analyze: norm": (analyze(norm="l7"), "norm=l7"),
    "analyze: unknown": (analyze(eigenvalue=3), "Did you mean 'eigenvalues'"),
    "analyze: eigenvalues": (analyze(eigenvalues=0), "eigenvalues=0"),
    "analyze: without images": (call("analyze", "@model", study="hessian", epsilon=0.1), "x"),
    "analyze: labels": (analyze(y=np.zeros(5, int)), "5"),
    "analyze: classifier": (call("analyze", 3, "@x", "@y", study="hessian", epsilon=0.1), "int"),
    # Curvature
    "lanczos: k": (call("lanczos", np.copy, 10, 0), "k=0"),
    "lanczos: k above": (call("lanczos", np.copy, 10, 11), "k=11"),
    "lanczos: which": (call("lanczos", np.copy, 10, 2, which="all"), "which=all"),
    "lanczos: tolerance": (call("lanczos", np.copy, 10, 2, tolerance=-1), "tolerance=-1"),
    "lanczos: basis": (call("lanczos", np.copy, 10, 2, basis_size=2), "basis_size=2"),
    "power: k": (call("power_iteration", np.copy, 10, 0), "k=0"),
    "power: tolerance": (call("power_iteration", np.copy, 10, 1, tolerance=NAN), "tolerance=nan"),
    "density: probes": (call("spectral_density", np.copy, 10, probes=0), "probes=0"),
    "density: steps": (call("spectral_density", np.copy, 10, steps=0), "steps=0"),
    # Classifiers
    "load: missing": (call("load_classifier", "missing/model"), "missing/model"),
    "load: outputs": (call("load_classifier", "missing/model", outputs="softmax"), "outputs=softmax|missing"),
    "ensemble: none": (call("build_ensemble", []), "0|members"),
    "ensemble: classes": (
        lambda given: advtf.build_ensemble([given["model"], given["wide"]]),
        r"4|\(4,",
    ),
    "as_classifier: outputs": (call("as_classifier", "@model", outputs="softmax"), "outputs=softmax"),
    "as_classifier: nothing": (call("as_classifier", None), "None"),
    "torch: missing": (call("load_torch", "missing.pt"), "missing.pt"),
    "torch: no state": (call("convert_state_dict", {}), "state|entry"),
    "average: kind": (call("WeightAverage", "@model", "mean"), "kind=mean"),
    "average: decay": (call("WeightAverage", "@model", "ema", decay=2), "decay=2"),
    "curve: kind": (call("CurveSettings", kind="line"), "kind=line"),
    "curve: order": (call("CurveSettings", order=0), "order=0"),
    "schedule callback: unit": (call("EpsilonSchedule", abs, unit="batch"), "unit=batch"),
    "schedule callback: steps": (call("EpsilonSchedule", abs, unit="step"), "steps_per_epoch"),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_bad_argument_is_named(given, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad_call, message = TABLE[name]
    with pytest.raises(UsageError) as caught:
        bad_call(given)
    text = str(caught.value)
    assert "\n" not in text and "Received" in text and re.search(message, text), text
    assert list(tmp_path.iterdir()) == []
