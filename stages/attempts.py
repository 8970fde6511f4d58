"""Which photos a process died at: one that kills every process that works on it must not take its neighbours along."""

import json
from pathlib import Path
from typing import Self

from s3pot_batch.manifests.files import replacing

HOPELESS = 3
"""Deaths in a row at one photo from which it is left alone; fewer may be chance, where processes are killed often."""


class Attempts:
    """What became of earlier attempts at a shard, and what is worked on now; kept in a file that outlives the process.

    A context: whoever leaves it is alive, with an error or without, and so nothing that was worked on is to blame.

    Args:
        path: of that file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_alone = set[int]()
        self.last: int | None = None
        self.deaths = 0
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            self.left_alone = {int(index) for index in found["left_alone"]}
            self.last, self.deaths = int(found["now"]), int(found["deaths"]) + 1
        except (OSError, ValueError, KeyError, TypeError):
            return  # there was no attempt, nobody died in it, or it died while it wrote this down
        if self.deaths >= HOPELESS:
            self.left_alone.add(self.last)

    def __enter__(self) -> Self:
        """Begin with what is known."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Forget everything once the shard came through; after an error, all but what was given up."""
        if kind is None or not self.left_alone:
            self.path.unlink(missing_ok=True)
        else:
            self._write(None, 0)

    def begin(self, index: int) -> None:
        """Note which photo is worked on from now on."""
        self._write(index, self.deaths if index == self.last else 0)

    def _write(self, now: int | None, deaths: int) -> None:
        facts = {"now": now, "deaths": deaths, "left_alone": sorted(self.left_alone)}
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps(facts), encoding="utf-8")
