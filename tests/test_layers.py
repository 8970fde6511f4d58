"""What may import what: pipeline → stages → manifests and never back, the method without runs, one module with Dask."""

import ast
import json
import subprocess
import sys
from collections.abc import Collection
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "s3pot_batch"
ROOMS = ("manifests", "stages", "pipeline")
OUTSIDE = ("recipes", "examples", "benchmarks", "tests")
"""Folders that may import the package, and that it never imports."""
DASK = {"dask", "distributed"}
RUNS = {
    f"{PACKAGE}.manifests", f"{PACKAGE}.pipeline", "pyarrow", "zarr",
    *(f"{PACKAGE}.stages.{name}" for name in
      ("base", "choices", "fits", "images", "references", "segments", "store", "tokens", "training")),
}  # fmt: skip
"""What knows a run, a plan, Parquet or Zarr."""
FORBIDDEN = {
    "manifests": {f"{PACKAGE}.stages", f"{PACKAGE}.pipeline", "torch", "zarr", "typer", "pydantic", *DASK},
    "stages": {f"{PACKAGE}.pipeline", "typer", *DASK},
    "stages/method": {*RUNS, f"{PACKAGE}.stages.models.registry", "typer", *DASK},
}
"""What must not be loaded once every module of a room is, whoever asked for it."""
BELOW_THE_METHOD = {
    f"{PACKAGE}.stages.{name}"
    for name in ("errors", "plugins", "settings", "models.protocols", "models.taxonomy", "models.windows")
}
"""All of the package that the method loads."""


def modules(room: str) -> dict[str, Path]:
    """Import name → file of every module of a room; namespace folders count, as setuptools packs them."""
    files = sorted((ROOT / room).rglob("*.py"))
    return {".".join((PACKAGE, *_parts(file))).removesuffix(".__init__"): file for file in files}


def door() -> dict[str, Path]:
    """The modules of the package's own folder; the rooms are links in there."""
    files = sorted((ROOT / PACKAGE).glob("*.py"))
    return {".".join(_parts(file)).removesuffix(".__init__"): file for file in files}


def outside() -> dict[str, Path]:
    """The modules of the folders that are not installed."""
    files = [file for folder in OUTSIDE for file in sorted((ROOT / folder).rglob("*.py"))]
    return {".".join(_parts(file)): file for file in files}


def _parts(file: Path) -> tuple[str, ...]:
    return file.relative_to(ROOT).with_suffix("").parts


@cache
def imported(file: Path, *, typing: bool = True) -> tuple[str, ...]:
    """Dotted names of everything that a file imports, inside functions too.

    Args:
        file: a Python file.
        typing: imports that only a type checker sees are meant, too.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    nodes = tuple(ast.walk(tree))
    unseen = {
        id(inner) for node in nodes
        if not typing and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }  # fmt: skip
    names: list[str] = []
    for node in nodes:
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            names += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(names)


def within(name: str, packages: Collection[str]) -> bool:
    """Whether a dotted name is one of some packages or lies in it."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offenders(files: dict[str, Path], packages: Collection[str]) -> dict[str, list[str]]:
    """What of some packages which module imports."""
    found = {name: [one for one in imported(file) if within(one, packages)] for name, file in files.items()}
    return {name: bad for name, bad in found.items() if bad}


def test_there_is_something_to_look_at() -> None:
    for room in ROOMS:
        assert f"{PACKAGE}.{room}" in modules(room)
    assert PACKAGE in door()
    assert {name.split(".")[0] for name in outside()} == set(OUTSIDE)


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_runs_backwards(room: str) -> None:
    above = {f"{PACKAGE}.{other}" for other in ROOMS[ROOMS.index(room) + 1 :]}
    assert offenders(modules(room), above) == {}


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_goes_in_by_the_door(room: str) -> None:
    inside = {f"{PACKAGE}.{other}" for other in ROOMS}
    found = {
        name: [one for one in imported(file) if within(one, {PACKAGE}) and not within(one, inside)]
        for name, file in modules(room).items()
    }
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_the_package_imports_nothing_that_is_not_installed_with_it() -> None:
    files = {name: file for room in ROOMS for name, file in modules(room).items()} | door()
    assert offenders(files, OUTSIDE) == {}


def test_everybody_imports_the_rooms_by_the_packages_name() -> None:
    files = {name: file for room in ROOMS for name, file in modules(room).items()} | door() | outside()
    assert offenders(files, ROOMS) == {}


def test_manifests_need_nothing_but_arrays_and_tables() -> None:
    allowed = {f"{PACKAGE}.manifests", "pyarrow", "numpy", *sys.stdlib_module_names}
    found = {
        name: [one for one in imported(file) if not within(one, allowed)]
        for name, file in modules("manifests").items()
    }  # fmt: skip
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_the_method_imports_nothing_of_runs() -> None:
    files = modules("stages/method")
    assert f"{PACKAGE}.stages.method.network" in files
    assert offenders(files, RUNS) == {}
    allowed = {f"{PACKAGE}.stages.method", *BELOW_THE_METHOD}
    found = {
        name: [one for one in imported(file, typing=False) if within(one, {PACKAGE}) and not within(one, allowed)]
        for name, file in files.items()
    }
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_models_know_no_runs_but_how_to_replace_a_file_and_say_what_failed() -> None:
    found = offenders(modules("stages/models"), RUNS)
    replacing, saying = f"{PACKAGE}.manifests.files.replacing", f"{PACKAGE}.manifests.errors.one_line"
    assert found == {
        f"{PACKAGE}.stages.models.adapters.attention": [replacing],
        f"{PACKAGE}.stages.models.downloads": [saying, replacing],
    }


def test_only_segmenters_know_their_package() -> None:
    files = {name: file for room in ROOMS for name, file in modules(room).items()} | door()
    own = f"{PACKAGE}.stages.models.segmenters"
    assert {name for name in offenders(files, {"segment_anything"}) if not within(name, {own})} == set()
    hidden = {f"{own}._sam", f"{own}._decoding"}
    assert {name for name in offenders(files, hidden) if not within(name, {own})} == set()


def test_only_scheduling_imports_dask() -> None:
    files = {name: file for room in ROOMS for name, file in modules(room).items()} | door()
    assert list(offenders(files, DASK)) == [f"{PACKAGE}.pipeline.scheduling"]


def loaded_by(*groups: Collection[str]) -> list[set[str]]:
    """Every module that a fresh interpreter has loaded after importing a group of them, and after each further one.

    A warning of any of them fails.
    """
    code = (
        "import gc, importlib, json, os, sys\n"
        "gc.disable()\n"  # what is imported stays, and to look through it again and again takes a second
        f"for names in {[sorted(names) for names in groups]!r}:\n"
        "    for name in names: importlib.import_module(name)\n"
        "    print(json.dumps(sorted(sys.modules)), flush=True)\n"
        "os._exit(0)"  # to take it apart takes seconds more
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [set(json.loads(line)) for line in done.stdout.splitlines()[-len(groups) :]]


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """What a fresh interpreter has loaded after importing all of a room.

    The door and the method come before the other stages: torch is loaded once for all, as that takes seconds.
    """
    [manifests] = loaded_by(modules("manifests"))
    groups = [PACKAGE], modules("stages/method"), modules("stages"), [f"{PACKAGE}.segmenter"]
    package, method, stages, asked = loaded_by(*groups)
    return {"manifests": manifests, "door": package, "stages/method": method, "stages": stages, "asked": asked}


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_fresh_interpreter_loads_no_more_than_the_room_may(loaded: dict[str, set[str]], room: str) -> None:
    too_much = {name for name in loaded[room] if within(name, FORBIDDEN[room])}
    files = modules(room).items()
    direct = sorted(name for name, file in files if any(within(one, too_much) for one in imported(file)))
    assert not too_much, f"{sorted(too_much)} loaded; imported by {direct or 'a dependency'}"


def test_of_the_package_the_method_loads_what_lies_below_it(loaded: dict[str, set[str]]) -> None:
    own = {name for name in loaded["stages/method"] if within(name, {PACKAGE})}
    folders = {PACKAGE, f"{PACKAGE}.stages", f"{PACKAGE}.stages.models"}
    assert own - {*modules("stages/method"), *folders} == BELOW_THE_METHOD


def test_the_package_loads_nothing_before_it_is_asked(loaded: dict[str, set[str]]) -> None:
    assert not {"torch", "numpy", "pyarrow", "pydantic", *DASK} & loaded["door"]
    assert {"torch", f"{PACKAGE}.segmenter"} <= loaded["asked"]
