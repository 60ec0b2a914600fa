"""The studies of ``python -m advtf.analyze``: their names, what each requires, where its code is.

Imports nothing heavy: the module of a study, ``run(context) -> list[Path]``, is imported when it is run.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from advtf.errors import UsageError
from advtf.studies import requirements

if TYPE_CHECKING:
    from advtf.studies.context import StudyContext
    from advtf.studies.settings import AnalyzeSettings


@dataclass(frozen=True)
class Study:
    """An entry of the registry.

    Attributes:
        module: imported when the study is run; has ``run(context) -> list[Path]``, results first.
        check: raises UsageError for settings that cannot be, or too few models, before any compute.
        models: the fewest models it needs.
        test_images: whether it measures the test error, too.
        sections: the sections of settings it reads besides those that concern every study.
    """

    module: str
    check: Callable[["AnalyzeSettings", int], None] = lambda settings, models: None
    models: int = 1
    test_images: bool = False
    sections: tuple[str, ...] = ()

    def run(self, context: "StudyContext") -> list[Path]:
        """Runs the study and returns the files it wrote."""
        return importlib.import_module(self.module).run(context)


STUDIES = {
    "hessian": Study("advtf.studies.hessian", requirements.hessian, sections=("hessian",)),
    "density": Study("advtf.studies.density", sections=("density",)),
    "similarity": Study(
        "advtf.studies.similarity",
        requirements.similarity,
        test_images=True,
        sections=("similarity", "hessian"),  # moves along eigenvectors
    ),
    "surface": Study("advtf.studies.surface", requirements.surface, sections=("surface", "hessian")),
    "dynamics": Study("advtf.studies.dynamics", requirements.dynamics, models=0, sections=("dynamics",)),
    "connectivity": Study(
        "advtf.studies.connectivity",
        requirements.connectivity,
        models=2,
        test_images=True,
        sections=("connectivity",),
    ),
    "input": Study(
        "advtf.studies.input", requirements.input_landscape, test_images=True, sections=("input",)
    ),
    "theory": Study("advtf.studies.theory", models=0),
}


def check(settings: "AnalyzeSettings", models: int) -> None:
    """Checks what the chosen studies require of the settings and of the number of models.

    Raises:
        UsageError: a study cannot be done with them.
    """
    for name in settings.study:
        study = STUDIES[name]
        if models < study.models:
            kind = "one model" if study.models == 1 else f"{study.models} models, with commas between"
            raise UsageError(
                f"study={name} needs at least {kind}. Received: {models or 'no --model'}. "
                "Name SavedModels of classifiers with --model."
            )
        study.check(settings, models)
