"""Which photos a worker died at: one that kills every process that works on it must not take its neighbours along."""

import json
from collections import Counter
from pathlib import Path

from s3pot_batch.manifests.files import replacing

HOPELESS = 2
"""Deaths from which a photo is left alone; a single one may have had any reason."""


class Attempts:
    """What became of earlier attempts at a shard, and what is worked on now; kept in a file that survives the process.

    Args:
        path: of that file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.deaths = Counter[int]()
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            self.deaths.update({int(index): int(count) for index, count in found["deaths"].items()})
            self.deaths[int(found["now"])] += 1
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self.deaths.clear()  # there was no attempt, or it died while it wrote this down

    def hopeless(self, index: int) -> bool:
        """Whether a photo is to be left alone."""
        return self.deaths[index] >= HOPELESS

    def begin(self, index: int) -> None:
        """Note which photo is worked on from now on."""
        with replacing(self.path) as temporary:
            facts = {"now": index, "deaths": {str(one): count for one, count in self.deaths.items()}}
            temporary.write_text(json.dumps(facts), encoding="utf-8")

    def end(self) -> None:
        """The shard came through."""
        self.path.unlink(missing_ok=True)
