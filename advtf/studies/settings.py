"""The settings of an analysis: those of every study, and those that the entries of `STUDIES` declare.

No TensorFlow here, so that a wrong flag is answered at once.
"""

import dataclasses
import functools
from collections.abc import Iterable

from advtf.data.registry import order_setting
from advtf.errors import UsageError, one_of
from advtf.settings import compute
from advtf.settings.commands import CommandOptions
from advtf.settings.fields import Settings, choice, real, setting, step_size, switch, text, texts, whole
from advtf.settings.threat import NORMS, RANDOM_STARTS, relative_step, require_radius, require_step
from advtf.studies.registry import STUDIES
from advtf.training.settings import DATASET_NAME

SHARED = ("target", "attack", "compute")  # the sections of settings that concern every study
_AS_TRAINED = "default as in training"
# The registry is read when names are needed, so that a study registered later is known, too.
_STUDY_NAMES = dataclasses.replace(
    texts("studies"),
    requirement=lambda: f"names with commas between, each once, of {', '.join(STUDIES)}",
    names=STUDIES,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommonSettings(Settings):
    """The settings that concern every study.

    `advtf.studies.run` fills what is None here and has a default in the training of the classifier.

    Raises:
        UsageError: a bad value, an unknown study, a radius out of range, or a step too long for it.
    """

    study: tuple[str, ...] = setting("target", _STUDY_NAMES, "studies to make, with commas between", ())
    model: tuple[str, ...] = setting(
        "target", texts("paths"), "SavedModels to study, with commas between", ()
    )
    dataset: str | None = setting("target", DATASET_NAME, f"data set of the images; {_AS_TRAINED}", None)
    order: str | None = order_setting("target", None, "as in training")
    split: str = setting("target", choice(("train", "test")), "images the loss is the mean over", "train")
    num_examples: int = setting(
        "target", whole(1), "number of these images, and of test images; the first ones are taken", 2000
    )

    norm: str | None = setting("attack", choice(NORMS), f"norm of the perturbation; {_AS_TRAINED}", None)
    eps: float | None = setting("attack", real(), f"radius of the perturbation; {_AS_TRAINED}", None)
    attack_steps: int | None = setting("attack", whole(1), f"gradient steps of PGD; {_AS_TRAINED}", None)
    attack_step_size: str | None = setting(
        "attack", step_size(), f"step of PGD, such as 2/255 or eps/4; {_AS_TRAINED}", None
    )
    random_start: str | None = setting("attack", choice(RANDOM_STARTS), f"start of PGD; {_AS_TRAINED}", None)

    seed: int = compute.seed("attacks, directions and start vectors")
    batch_size: int = setting("compute", whole(1), "number of images computed at a time", 250)
    jit: str = compute.jit()
    deterministic: bool = compute.deterministic()

    def check(self) -> None:
        """Checks the names of the studies, the radius, the step and how to compute."""
        for name in self.study:
            one_of("study", name, STUDIES)
        if self.eps is not None:
            require_radius("eps", self.eps, self.norm or max(NORMS, key=NORMS.get))
            if self.attack_step_size is not None:
                require_step("attack_step_size", self.attack_step_size, self.eps)
        compute.check(self)

    @property
    def relative_step(self) -> float:
        """The step size of the attack divided by ε; 1 at ε = 0, where it has no effect."""
        return relative_step(self.attack_step_size, self.eps)


_BUILT_IN = tuple(STUDIES)  # a script may add studies with settings of their own


def settings_class(studies: Iterable[str] = ()) -> type[CommonSettings]:
    """Returns the class of the settings of an analysis: the common ones and those that studies declare.

    Args:
        studies: names of `STUDIES`; those of this package are always among them. Defaults to none.

    Raises:
        UsageError: an unknown study, or two that declare settings of one name.
    """
    names = dict.fromkeys([*_BUILT_IN, *studies])
    entries = [STUDIES[one_of("study", name, STUDIES)] for name in names]
    return _composed(tuple(dict.fromkeys(entry.settings for entry in entries if entry.settings)))


@functools.cache
def _composed(parts):
    """Makes a dataclass with the fields of the common settings and then of `parts`, in this order."""
    owners = {}
    for part in (CommonSettings, *parts):
        for field in dataclasses.fields(part):
            if owners.setdefault(field.name, part) is not part:
                raise UsageError(
                    f"settings of studies must have different names. Received: {field.name} of "
                    f"{owners[field.name].__name__} and of {part.__name__}."
                )
    # A dataclass takes its fields from the last base first.
    bases = (*reversed(parts), CommonSettings)
    made = dataclasses.make_dataclass("AnalyzeSettings", [], bases=bases, frozen=True, kw_only=True)
    made.__module__ = __name__
    made.__doc__ = (
        "Everything but the classifiers' weights and the images that determines the numbers of an analysis.\n"
        "\n    A section named after a study concerns that study only."
    )
    return made


AnalyzeSettings = settings_class()


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnalyzeOptions(CommandOptions):
    """Where the command reads and writes and what it shows; none of it changes the numbers."""

    out_dir: str | None = setting("files", text(), "results; default runs/analyze-<run>-<export>", None)
    resume: bool = setting("files", switch(), "continue the analysis in out_dir, or add to it", False)
