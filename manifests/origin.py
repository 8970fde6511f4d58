"""An answer, or a part of one, as a manifest: its photos are those of the manifest that it was made of."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from s3pot_batch.manifests.embedded import holds_photos

KEY, PANDAS = b"made_of", b"PANDAS_ATTRS"
"""Metadata of a Parquet file: ours, and where pandas keeps what it hands on from a table to the parts of it."""
ASKED = 16
"""Photos that are looked for."""


def made_of(origin: "Origin", table: pa.Table) -> dict[str, str]:
    """What an answer says of the manifest that its photos are those of, for :func:`origin_of`.

    Args:
        origin: that manifest.
        table: the table of the one that the answer was made of.
    """
    said = {"manifest": str(origin.manifest), "photos_inside": origin.photos_inside}
    kept = _json((table.schema.metadata or {}).get(PANDAS))
    return {KEY.decode(): json.dumps(said), PANDAS.decode(): json.dumps({**kept, KEY.decode(): said})}


@dataclass(frozen=True)
class Origin:
    """The manifest that an answer was made of."""

    manifest: Path
    photos_inside: bool
    """Whether photos lie in that file."""


def origin_of(schema: pa.Schema) -> Origin | None:
    """Where a table comes from that is an answer, or a part of one."""
    facts = schema.metadata or {}
    said = _json(facts.get(KEY)) or _json(facts.get(PANDAS)).get(KEY.decode())
    if not isinstance(said, dict) or not isinstance(said.get("manifest"), str):
        return None
    return Origin(Path(said["manifest"]), bool(said.get("photos_inside")))


def origin_here(manifest: Path, schema: pa.Schema, names: Iterable[object]) -> Origin:
    """The manifest that a manifest's photos are those of: itself, unless they are in or beside its origin alone."""
    own, origin = Origin(manifest.parent.resolve() / manifest.name, photos_inside=False), origin_of(schema)
    if origin is None:
        return own
    if origin.photos_inside:
        return origin if holds_photos(origin.manifest) else own
    return own if folder_of(manifest, schema, names) == own.manifest.parent else origin


def folder_of(manifest: Path, schema: pa.Schema, names: Iterable[object]) -> Path:
    """The folder that a manifest's relative paths start from: its own, unless they are there in its origin's alone."""
    own, origin = manifest.parent.resolve(), origin_of(schema)
    if origin is None or origin.manifest.parent == own:
        return own
    paths = (name for name in names if isinstance(name, str) and "://" not in name and not Path(name).is_absolute())
    asked = [name for name in islice(paths, ASKED) if name]
    # Path's own exists() raises at odd names
    here, there = (any(os.path.exists(top / name) for name in asked) for top in (own, origin.manifest.parent))  # noqa: PTH110
    return origin.manifest.parent if there and not here else own


def _json(text: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
