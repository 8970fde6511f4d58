"""Fingerprints: has anything changed that changes a result?"""

import hashlib
import json
from collections.abc import Mapping


def fingerprint(settings: Mapping[str, object]) -> str:
    """SHA-256 (hex) of the canonical JSON of ``settings``; key order does not matter.

    Raises:
        TypeError: a value is no JSON type.
        ValueError: a number is not finite.
    """
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def difference(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """The dotted names of the settings whose values differ, with both values."""
    before, after = _flat(old), _flat(new)
    return [
        f"{name} ({before.get(name, 'absent')} → {after.get(name, 'absent')})"
        for name in sorted(before | after)
        if before.get(name) != after.get(name)
    ]


def _flat(tree: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.dumps(value, sort_keys=True)
    return flat
