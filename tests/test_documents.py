"""What the documents say: links lead somewhere, the functions they name are there, and the notebook runs."""

import ast
import contextlib
import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FOLDERS = ("manifests", "stages", "pipeline", "s3pot_batch", "recipes", "examples", "benchmarks", "tests", "docs")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_lead_somewhere(document):
    text = document.read_text()
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    paths = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./*-]*)`", text)
    assert [link for link in links if not (document.parent / link).exists()] == []
    assert [path for path in paths if not list(ROOT.glob(path))] == []


def functions(file):
    """Names of a file's functions, and of its classes' methods as Class.method."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef))


def test_one_photos_way_names_functions_that_are_there():
    text = (ROOT / "docs" / "architecture.md").read_text()
    lines = re.findall(r"^\d+\. (.*)$", text, re.MULTILINE)
    assert len(lines) == 10
    for line in lines:
        named, file = 0, None
        for code in re.findall(r"`([^`]+)`", line):
            if code.endswith(".py"):
                file = ROOT / code
            elif file is not None:
                assert code in functions(file), f"{code} in {file}"
                named += 1
        assert named, line


def with_examples():
    """Modules of the package whose docstrings have examples."""
    for folder in ("manifests", "stages", "pipeline", "s3pot_batch"):
        for file in sorted((ROOT / folder).glob("*.py" if folder == "s3pot_batch" else "**/*.py")):
            if ">>> " in file.read_text():
                name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
                yield name if folder == "s3pot_batch" else f"s3pot_batch.{name}"


@pytest.mark.parametrize("module", list(with_examples()))
def test_examples_in_docstrings_give_what_they_say(module):
    found = doctest.testmod(import_module(module))
    assert found.attempted
    assert not found.failed


@pytest.fixture(scope="module")
def cells():
    import nbformat  # it loads much, and one process of the tests needs it

    return nbformat.read(ROOT / "examples" / "notebook.ipynb", 4).cells


def test_the_notebook_is_committed_without_outputs(cells):
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert code
    assert all(cell.execution_count is None and cell.outputs == [] for cell in code)


def test_the_notebook_finds_what_it_drew(cells):
    import matplotlib.pyplot as plt
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    shell = InteractiveShell.instance()  # in this process, which has loaded torch already
    with contextlib.chdir(ROOT), capture_output() as shown:
        for cell in cells:
            if cell.cell_type == "code":
                shell.run_cell(cell.source).raise_error()
    figure, printed = shell.user_ns["figure"], shown.stdout
    plt.close(figure)
    assert [len(axis.images) for axis in figure.axes] == [1, 1, 1, 1]
    [hidden], [iou] = re.findall(r"(\d+)% of the face is hidden", printed), re.findall(r"IoU ([\d.]+)", printed)
    assert 15 < int(hidden) < 45
    assert float(iou) > 0.9
