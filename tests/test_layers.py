"""Imports run pipeline → stages → manifests and never back."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("manifests", "stages", "pipeline")
FORBIDDEN = {
    "manifests": {"torch", "dask", "distributed", "zarr", "typer", "stages", "pipeline"},
    "stages": {"dask", "distributed", "pipeline"},
}


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_no_import_runs_backwards(room):
    for path in (ROOT / room).rglob("*.py"):
        assert not imports(path) & FORBIDDEN[room], path


def test_only_one_module_imports_dask():
    users = {path.name for path in (ROOT / "pipeline").rglob("*.py") if imports(path) & {"dask", "distributed"}}
    assert users == {"scheduling.py"}


def test_manifests_load_without_heavy_packages():
    modules = [f"manifests.{path.stem}" for path in (ROOT / "manifests").glob("*.py") if path.stem != "__init__"]
    code = (
        f"import sys, importlib; [importlib.import_module(m) for m in {modules!r}];"
        "sys.exit(str(sorted({'torch', 'dask', 'zarr', 'typer', 'distributed'} & set(sys.modules))) "
        "if {'torch', 'dask', 'zarr', 'typer', 'distributed'} & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_stages_load_without_the_scheduler():
    code = (
        "import sys; import stages.references, stages.segmentation.inference, stages.segmentation.training;"
        "bad = {'dask.distributed', 'distributed', 'typer'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
