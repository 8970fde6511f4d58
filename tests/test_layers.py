"""Imports run pipeline → stages → manifests and never back; only one module knows Dask."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("manifests", "stages", "pipeline")
DASK = {"dask", "distributed"}
FORBIDDEN = {
    "manifests": {"stages", "pipeline", "torch", "zarr", "typer", *DASK},
    "stages": {"pipeline", "typer", *DASK},
}
"""What must not be loaded once every module of a room is, whoever asked for it."""


def modules(room: str) -> dict[str, Path]:
    """Dotted name → file of every module of a room; namespace folders count, as setuptools packs them."""
    files = sorted((ROOT / room).rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imported(file: Path) -> Iterator[str]:
    """Top-level names of every package that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text(), filename=str(file))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_runs_backwards(room: str) -> None:
    above = set(ROOMS[ROOMS.index(room) + 1 :])
    found = modules(room)
    assert room in found
    assert {name: bad for name, file in found.items() if (bad := above & set(imported(file)))} == {}


def test_manifests_need_nothing_but_pyarrow() -> None:
    allowed = {"manifests", "pyarrow", "fsspec", *sys.stdlib_module_names}
    files = modules("manifests").items()
    assert {name: more for name, file in files if (more := set(imported(file)) - allowed)} == {}


def test_only_the_scheduling_module_imports_dask() -> None:
    files = {name: file for room in ROOMS for name, file in modules(room).items()}
    assert [name for name, file in files.items() if DASK & set(imported(file))] == ["pipeline.scheduling"]


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_fresh_interpreter_loads_no_more_than_the_room_may(room: str) -> None:
    names = list(modules(room))
    code = (
        "import importlib, json, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        f"print(json.dumps(sorted({FORBIDDEN[room]!r} & set(sys.modules))))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    direct = sorted(name for name, file in modules(room).items() if loaded & set(imported(file)))
    assert not loaded, f"{sorted(loaded)} loaded; imported by {direct or 'a dependency'}"
