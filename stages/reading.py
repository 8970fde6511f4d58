"""The bytes of a photo, from a path or a URL, within bounds: regular files only, and neither too many nor too late."""

import errno
import socket
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from pyarrow import ArrowException

from s3pot_batch.manifests.confine import is_public
from s3pot_batch.manifests.embedded import SCHEME as EMBEDDED
from s3pot_batch.manifests.embedded import read_embedded
from s3pot_batch.manifests.errors import ManifestError, one_line
from s3pot_batch.stages.errors import ItemError
from s3pot_batch.stages.settings import FaceSettings

if TYPE_CHECKING:
    import aiohttp

CHUNK = 2**20
MEND = "mend its permissions or its storage, and run again"
"""What to do where there is something that does not let itself be read."""
GONE = (404, 410)
"""What a website says when there is no such file."""


class MissingFile(ItemError):
    """There is no file at the photo's path or URL."""


class UnreadableFile(ItemError):
    """There is something, but it cannot be read: no regular file, no permission, a storage that fails."""


class FileTooLarge(ItemError):
    """The file has more bytes than the limit allows."""


class FileTooSlow(ItemError):
    """The file did not arrive in time."""


def read_bytes(location: str, bounds: FaceSettings) -> bytes:
    """Read a whole file.

    Args:
        location: a path, or an fsspec URL; only what has ``://`` in it is one, so that ``a::b.jpg`` is a file.
        bounds: ``max_bytes``, ``max_seconds`` and ``local_addresses`` hold.

    Raises:
        ItemError: one of this module's kinds; the text says what to do.
    """
    if location.startswith(EMBEDDED):
        return _embedded(location, bounds.max_bytes)
    path = _local(location)
    if path is not None:
        _check_file(path, location, bounds.max_bytes)
    reader = _Reader(location, path, bounds)
    reader.start()
    reader.join(bounds.max_seconds)
    if reader.is_alive():
        reader.given_up = True
        raise FileTooSlow(f"{location}: not read within {bounds.max_seconds:g} s; raise faces.max_seconds or copy it")
    if reader.error is not None:
        raise _named(reader.error, location) from reader.error
    return bytes(reader.content)


class _Reader(threading.Thread):
    """Reads in the background, so that a storage that hangs can be given up; the process may end without it."""

    def __init__(self, location: str, path: Path | None, bounds: FaceSettings) -> None:
        super().__init__(daemon=True)
        self.location, self.path, self.bounds = location, path, bounds
        self.content = bytearray()
        self.error: Exception | None = None
        self.given_up = False

    def run(self) -> None:
        try:
            with self._opened() as stream:
                while not self.given_up and self.error is None and (chunk := stream.read(CHUNK)):
                    self.content += chunk
                    if len(self.content) > self.bounds.max_bytes:
                        self.error = _too_large(self.location, self.bounds.max_bytes)
        except Exception as error:  # noqa: BLE001 — each storage of fsspec has errors of its own; the caller names them
            self.error = error

    def _opened(self) -> BinaryIO:
        if self.path is not None:
            return self.path.open("rb")
        import fsspec

        is_web = self.location.startswith(("http://", "https://"))
        options = {"get_client": _public_client} if is_web and not self.bounds.local_addresses else {}
        return cast("BinaryIO", fsspec.open(self.location, "rb", **options).open())


async def _public_client(**options: Any) -> "aiohttp.ClientSession":  # noqa: ANN401  (fsspec's)
    """What fetches from websites and connects to no address of this network, whatever names and redirects say."""
    import aiohttp

    def connect(address: "aiohttp.AddrInfoType") -> socket.socket:
        family, kind, protocol, _, place = address
        if not is_public(str(place[0])):
            raise PermissionError(errno.EACCES, f"{place[0]} is an address of this network, and --confine forbids that")
        return socket.socket(family, kind, protocol)

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=connect), **options)


def _embedded(location: str, max_bytes: int) -> bytes:
    """A photo that lies in the manifest."""
    try:
        content = read_embedded(location)
    except (ManifestError, OSError, ArrowException) as error:
        raise _named(error, location) from error
    if len(content) > max_bytes:
        raise _too_large(location, max_bytes)
    return content


def _local(location: str) -> Path | None:
    if location.startswith("file://"):
        return Path(unquote(urlsplit(location).path))
    return None if "://" in location else Path(location)


def _check_file(path: Path, location: str, max_bytes: int) -> None:
    """Before it is opened: a named pipe would be waited for, and a device never ends."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise _named(error, location) from error
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableFile(f"{location}: no regular file, but a folder, pipe or device; correct the manifest")
    if found.st_size > max_bytes:
        raise _too_large(location, max_bytes)


def _too_large(location: str, max_bytes: int) -> FileTooLarge:
    return FileTooLarge(f"{location}: more than {max_bytes} bytes; raise faces.max_bytes, and --retry-failed")


def _named(error: Exception, location: str) -> ItemError:
    """What went wrong while reading, as an error of the photo."""
    if isinstance(error, ItemError):
        return error
    said = error.__cause__
    web = location.startswith(("http://", "https://"))
    if web and said is not None and getattr(said, "status", None) not in GONE:
        # To fsspec every address that does not answer is a missing file.
        return UnreadableFile(f"{location}: cannot be read ({one_line(said)}); {MEND}")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MissingFile(f"{location}: no such file; correct its path")
    return UnreadableFile(f"{location}: cannot be read ({one_line(error)}); {MEND}")
