"""Which photos a process died at: one that kills every process that works on it must not take its neighbours along.

Processes also die by chance: somebody kills them, a machine is taken away. What tells the one from the other are the
photo's neighbours, which are worked on before it and come through, time after time, while it never does.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Self

from s3pot_batch.manifests.files import replacing

HOPELESS = 5
"""Deaths at a photo that has never come through, from which it is left alone."""


class Attempts:
    """What became of earlier attempts at a shard, and what is worked on now; kept in a file that outlives the process.

    A death at a photo that came through before is chance, and so may be all others: they are forgotten.

    A context: whoever leaves it is alive, with an error or without, and so nothing that was worked on is to blame.

    Args:
        path: of that file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_alone = set[int]()
        self.harmless = set[int]()
        """Photos that came through in some attempt."""
        self.deaths = Counter[int]()
        """At each photo that has not come through since."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            now, left_alone, harmless = ({int(index) for index in found[name]} for name in _SETS)
            deaths = Counter({int(index): int(count) for index, count in found["deaths"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return  # there was no attempt, nobody died in it, or it died while it wrote this down
        self.left_alone, self.harmless = left_alone, harmless
        if not now & harmless:
            self.deaths = deaths + Counter(now)
        self.left_alone |= {index for index, count in self.deaths.items() if count >= HOPELESS}

    @property
    def suspects(self) -> set[int]:
        """Photos to be worked on after all others, each by itself."""
        return set(self.deaths) - self.left_alone

    def __enter__(self) -> Self:
        """Begin with what is known."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Forget everything once the shard came through; after an error, all but what was given up."""
        if kind is None or not self.left_alone:
            self.path.unlink(missing_ok=True)
        else:
            self.harmless, self.deaths = set(), Counter()
            self.begin()

    def begin(self, *indices: int) -> None:
        """Note which photos are worked on from now on."""
        sets = dict(zip(_SETS, (set(indices), self.left_alone, self.harmless), strict=True))
        facts = {**{name: sorted(photos) for name, photos in sets.items()}, "deaths": self.deaths}
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps(facts), encoding="utf-8")

    def came_through(self, *indices: int) -> None:
        """Photos that are done with; it is written down when the next ones begin."""
        self.harmless |= set(indices)
        for index in indices:
            self.deaths.pop(index, None)


_SETS = ("now", "left_alone", "harmless")
"""Sets of photos in the file."""
