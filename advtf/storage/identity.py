"""Which run has made an export, so that a run removes and replaces only what is its own.

A run gets an id of 128 random bits when it starts, and its `config.json` keeps it. What the run makes outside
of its directory, its exports, records three things: this id, the relative path that leads from the export to
the directory of the run, and the inode of that directory. The id alone would not do: ``cp -r`` copies it with
`config.json`, and the copy would own the exports of the original. So an export belongs to a run if the ids
are equal **and** either the path leads to the run or the inode is that of the run:

===========================================  ===============  =======  ============================
What has happened                            The path leads   Inode    The export belongs to
===========================================  ===============  =======  ============================
nothing                                      to the run       equal    the run
the run was moved                            nowhere          equal    the run, at its new place
the run was copied                           to the original  other    the original, not the copy
run and exports were moved together          to the run       any      the run, at its new place
run and exports were copied together         to the copy      other    the copy; the original has
                                                                       its own
the run alone moved to another file system   nowhere          other    nobody
the run or the export is older than ids      nowhere          none     nobody
===========================================  ===============  =======  ============================

What belongs to nobody, or to another run, is never removed: in doubt a folder stays. A run that is moved or
copied keeps working without being told, because nothing that it needs is looked for by an absolute path.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


def new_id() -> str:
    """Returns 128 random bits as 32 hexadecimal digits."""
    return os.urandom(16).hex()


@dataclass(frozen=True)
class Identity:
    """A run, as the exports that it has made know it.

    Attributes:
        id: what `new_id` returned when the run started.
        directory: where the run is now.
    """

    id: str
    directory: Path

    def record(self, folder: Path) -> dict:
        """Returns what a folder that this run makes has to keep about its maker, as JSON values.

        Args:
            folder: its final path, which need not exist yet.
        """
        here = os.path.realpath(self.directory)
        return {
            "id": self.id,
            "directory": os.path.relpath(here, os.path.realpath(folder)),
            "inode": os.stat(here).st_ino,
        }

    def has_made(self, folder: Path, record: object) -> bool:
        """Tells whether this run, at its present place, is the one that made `folder`.

        Args:
            folder: where the record was found.
            record: what `record` returned then; anything else is the record of no run.
        """
        if not isinstance(record, Mapping) or record.get("id") != self.id:
            return False
        if record.get("inode") == os.stat(self.directory).st_ino:
            return True
        way = record.get("directory")
        if not isinstance(way, str):
            return False
        return os.path.realpath(Path(os.path.realpath(folder), way)) == os.path.realpath(self.directory)
