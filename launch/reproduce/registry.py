"""All entries of the ledger, and how a command chooses among them."""

from collections.abc import Sequence

from advtf.errors import UsageError, nearest
from launch.reproduce import li2023, liu2020
from launch.reproduce.entry import Entry

PAPERS = {
    "liu2020": "Liu et al. 2020, On the Loss Landscape of Adversarial Training",
    "li2023": "Li & Spratling 2023, Understanding and Combating Robust Overfitting",
}
ENTRIES: tuple[Entry, ...] = (*liu2020.ENTRIES, *li2023.ENTRIES)


def choose(paper: str | None = None, only: Sequence[str] = ()) -> list[Entry]:
    """Returns entries in the order in which they are asked for, or in that of the registry.

    Args:
        paper: a key of `PAPERS`; None for both.
        only: names of entries, or what stands before the first hyphens of some: "table1" for all tables 1,
            "liu2020-table1" for those of that paper. Defaults to all.

    Raises:
        UsageError: a name that no entry of the paper has.
    """
    known = [entry for entry in ENTRIES if paper in (None, entry.paper)]
    for name in only:
        if not any(_means(name, entry) for entry in known):
            names = list(dict.fromkeys(entry.name for entry in known))
            raise UsageError(
                f"only must be names of entries, of {', '.join(names)}, or what they begin with. "
                f"Received: only={name}.{nearest(name, names)}"
            )
    if not only:
        return known
    return list(dict.fromkeys(entry for name in only for entry in known if _means(name, entry)))


def _means(name: str, entry: Entry) -> bool:
    return any(
        full == name or (full.startswith(f"{name}-") and name != entry.paper)
        for full in (entry.name, entry.key)
    )
