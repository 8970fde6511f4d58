"""One command at a time on a run folder in a storage: an object there that says who holds it, and one that it lives.

No storage tells when a process has died. So who holds a folder writes its sign of life again and again, and where none
has come for a while the folder belongs to nobody any more. The sign is an object of its own: a process that has slept
must not write over the name of the one that holds the folder now.
"""

import json
import logging
import sys
import threading
import time
import uuid
from contextlib import suppress
from typing import Any

from s3pot_batch.manifests.errors import one_line
from s3pot_batch.pipeline.lock import facts_of_this_command, told
from s3pot_batch.stages.errors import ConfigError

log = logging.getLogger(__name__)
NAME = ".lock.json"
BEAT_SECONDS = 10.0
"""Between two signs of life."""
SILENT_SECONDS = 45.0
"""Without any, whoever held the folder is taken for dead."""


class Lease:
    """A run folder that this command holds.

    Args:
        files: the storage, one of fsspec's.
        folder: the run folder in there.
        copy: what this command's working copy is called; nobody else uses the same one at the same time.
    """

    def __init__(self, files: Any, folder: str, copy: str) -> None:  # noqa: ANN401 — fsspec is not typed
        self.files, self.folder, self.path, self.lost = files, folder, f"{folder}/{NAME}", False
        self.facts = {**facts_of_this_command(), "copy": copy, "token": uuid.uuid4().hex}
        self.sign = self._sign_of(self.facts)
        self.seen = time.time()
        """When the folder was last seen to be held by this command; a computer's sleep counts."""
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)

    def acquire(self) -> None:
        """Wait until it is clear whether anybody holds the folder, which takes ``SILENT_SECONDS`` at most, and hold it.

        Raises:
            ConfigError: somebody does; the text says who.
        """
        if not self._create():
            self._take_over()
        self.seen = time.time()
        self._beats.start()

    def release(self) -> None:
        """Give it back, unless somebody else has taken it."""
        self._ended.set()
        self._beats.join()
        if self._is_ours():
            self._remove(self.path)
        self._remove(self.sign)

    def check(self) -> None:
        """Make sure that it is held still; after a while without a sign, such as a computer's sleep, in the storage.

        Raises:
            ConfigError: another command took this one for dead.
        """
        if self.lost or (time.time() - self.seen > SILENT_SECONDS / 2 and not self._is_ours()):
            raise ConfigError(f"{self.path}: another command has taken the run folder over; wait for it, and run again")

    def _create(self) -> bool:
        try:
            self.files.pipe_file(self.path, json.dumps(self.facts).encode(), mode="create")
        except FileExistsError:
            return False
        return True

    def _read(self, path: str) -> bytes | None:
        try:
            return bytes(self.files.cat_file(path))
        except FileNotFoundError:
            return None

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self.files.rm_file(path)

    def _is_ours(self) -> bool:
        return bool(_facts(self._read(self.path)).get("token") == self.facts["token"])

    def _sign_of(self, facts: dict[str, Any]) -> str:
        return f"{self.folder}/.lock.{facts.get('token', '')}"

    def _take_over(self) -> None:
        """Put this command in a dead holder's place, and see that it lasts: others may be doing the same."""
        while not self._is_ours():
            self._remove_dead()
            self._create()
            time.sleep(BEAT_SECONDS / 5)

    def _remove_dead(self) -> None:
        held = self._read(self.path)
        if held is None:
            return
        facts = _facts(held)
        sign = self._sign_of(facts)
        is_on_our_copy = all(facts.get(name) == self.facts[name] for name in ("host", "copy"))
        if not is_on_our_copy:  # who works on this command's copy would hold it, so it is dead
            self._check_silent(held, facts, sign)
        if self._read(self.path) == held:
            self._remove(self.path)
            self._remove(sign)

    def _check_silent(self, held: bytes, facts: dict[str, Any], sign: str) -> None:
        first, began = self._read(sign), time.monotonic()
        sys.stderr.write(
            f"Note: {told(facts)} has held the run; without a sign for {SILENT_SECONDS:g} s it is taken over\n"
        )
        silent = 0.0
        while silent < SILENT_SECONDS:
            time.sleep(BEAT_SECONDS / 5)
            silent = time.monotonic() - began  # before it is looked: this command may be stopped in between
            if (self._read(self.path), self._read(sign)) != (held, first):
                raise ConfigError(f"{self.path}: the run is in use by {told(facts)}; wait for it, or use another --run")

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            try:
                if not self._is_ours():
                    self.lost = True
                    return
                self.seen = time.time()
                self.files.pipe_file(self.sign, str(time.time()).encode())
            except Exception as error:  # noqa: BLE001 — each storage has errors of its own; it may be back for the next sign
                log.info("%s: no sign of life could be written: %s", self.path, one_line(error))


def _facts(content: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(content or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
