"""Other people's manifests: what their rows may name."""

import ipaddress
import socket
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from s3pot_batch.manifests.errors import one_line

NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that a gateway leads to IPv4 ones (RFC 6052)."""


def outside_of(location: str, folder: Path, schemes: Collection[str]) -> str | None:
    """Why a photo's location is out of bounds, or ``None``.

    A path has to lie in the folder once all links are followed. A URL has to be of one of the schemes, and its host, if
    it has one, no address of this machine or of its network.

    Args:
        location: a path or a URL.
        folder: the manifest's, resolved.
        schemes: such as ``https``.
    """
    if "://" not in location:
        try:
            inside = Path(location).resolve().is_relative_to(folder)
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
            return f"{location} cannot be followed ({one_line(error)})"
        return None if inside else f"{location} leaves the manifest's folder"
    scheme = location.split("://", 1)[0]
    if "::" in location or scheme not in schemes:
        return f"{location} is not of {', '.join(sorted(schemes)) or 'any scheme'}"
    if scheme not in {"http", "https", "ftp", "sftp"}:
        return None  # a bucket is no host
    try:
        host = urlsplit(location).hostname or ""
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except (OSError, ValueError) as error:
        return f"{location} has no host that can be found ({error})"
    local = [one for one in addresses if not is_public(str(one))]
    return f"{location} is an address of this network ({local[0]})" if local else None


def is_public(address: str) -> bool:
    """Whether an IP address is one of a machine somewhere else, and not of this machine or its network."""
    found = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    if isinstance(found, ipaddress.IPv6Address):
        behind = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF) if found in NAT64 else None
        if carried := found.ipv4_mapped or found.sixtofour or behind:
            return is_public(str(carried))
    return found.is_global and not found.is_multicast
