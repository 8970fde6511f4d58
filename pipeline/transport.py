"""How this command and its own workers talk: Dask's TCP on this machine, for those who know the command's secret.

Whoever can reach a Dask process can make it run any code, and on a shared machine everybody can reach a port of it.
A connection to a process of ours begins with the secret, or is closed before anything of it is read. TLS would do the
same; Dask makes its certificates with a package that is not among our dependencies, and nobody but the superuser
listens to what stays within the machine.
"""

# mypy: allow-untyped-calls, allow-untyped-defs, allow-subclassing-any
# (distributed annotates itself in part only)

import asyncio
import hmac
import secrets
from typing import Any

import dask
from distributed.comm.registry import backends
from distributed.comm.tcp import TCPBackend, TCPConnector, TCPListener
from tornado.iostream import IOStream, StreamClosedError

SCHEME = "secret"
"""Of the addresses: ``secret://127.0.0.1:40123``."""
SETTING = "s3pot-batch.secret"
"""In Dask's configuration, which a worker is given through a pipe when its process starts."""
BYTES = 32
SECONDS = 10
"""How long somebody who connects may take to say it."""


def settle_secret() -> None:
    """Make this process's secret, unless it has one."""
    if not dask.config.get(SETTING, None):
        dask.config.set({SETTING: secrets.token_hex(BYTES)})


def _secret() -> bytes:
    return bytes.fromhex(dask.config.get(SETTING))


class SecretConnector(TCPConnector):
    """Says the secret first."""

    prefix = f"{SCHEME}://"

    async def connect(self, address: str, deserialize: bool = True, **options: Any) -> Any:  # noqa: ANN401
        """A connection that the other side will take."""
        comm = await super().connect(address, deserialize=deserialize, **options)
        comm.stream.write(_secret())  # what follows waits for it
        return comm


class SecretListener(TCPListener):
    """Takes no connection that does not begin with the secret."""

    prefix = f"{SCHEME}://"

    async def _prepare_stream(self, stream: IOStream, address: str) -> IOStream | None:
        del address
        try:
            said = await asyncio.wait_for(stream.read_bytes(BYTES), SECONDS)
        except (StreamClosedError, TimeoutError):
            said = b""
        if hmac.compare_digest(said, _secret()):
            return stream
        stream.close()
        return None


class SecretBackend(TCPBackend):
    """Both, as Dask looks them up by their scheme."""

    _connector_class = SecretConnector
    _listener_class = SecretListener


backends[SCHEME] = SecretBackend()
