"""The house's own rules: short files, short functions, few parameters, and every number and name in one place."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("manifests", "stages", "pipeline", "s3pot_batch", "recipes", "examples", "benchmarks", "docs")
MOST_LINES, MOST_OF_A_FUNCTION, MOST_PARAMETERS = 400, 60, 6
TAXONOMY = "stages/models/taxonomy.py"
NAMES_OF_CLASSES = {
    TAXONOMY,
    "stages/settings.py",  # which classes make M is a setting; a test holds its default to the taxonomy's
    "examples/extending/parser_lapa.py",  # a taxonomy of its own
    "recipes/faces.py",  # CelebAMask-HQ's names of annotated parts and ours
    "recipes/prompt_samples.py",  # which parts a sample asks the segmenter for
}
"""Files that may name classes of a parser."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def files(folder: str) -> list[Path]:
    """A folder's Python files; the links in the package's folder are the rooms, which have their own turn."""
    pattern = "*.py" if folder == "s3pot_batch" else "**/*.py"
    return sorted((ROOT / folder).glob(pattern))


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def functions(file: Path) -> Iterator[tuple[str, Function, bool]]:
    """Every function of a file with where it stands, and whether its first parameter is the object or the class."""
    for node in ast.walk(tree(file)):
        inside = isinstance(node, ast.ClassDef)
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, Function):
                static = any(ast.unparse(decorator) == "staticmethod" for decorator in inner.decorator_list)
                yield f"{file.relative_to(ROOT)}:{inner.lineno} {inner.name}", inner, inside and not static


def parameters(function: Function) -> int:
    arguments = function.args
    stars = [star for star in (arguments.vararg, arguments.kwarg) if star]
    return len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *stars])


def is_builder(file: Path, function: Function) -> bool:
    """Whether a function makes a model by its options, one parameter each, as a profile's file names them."""
    return file.is_relative_to(ROOT / "stages" / "models") and function.name.startswith("build")


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_are_short(folder: str) -> None:
    lines = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in files(folder)}
    assert lines
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_functions_are_short(folder: str) -> None:
    lines = {
        where: (function.end_lineno or function.lineno) - function.lineno + 1
        for file in files(folder) for where, function, _ in functions(file)
    }  # fmt: skip
    assert lines or folder == "s3pot_batch"
    assert {where: count for where, count in lines.items() if count > MOST_OF_A_FUNCTION} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_functions_take_few_parameters(folder: str) -> None:
    """Builders of models may take more; a dataclass or a section of settings has its fields and writes no function."""
    counts = {
        where: parameters(function) - method
        for file in files(folder) for where, function, method in functions(file) if not is_builder(file, function)
    }  # fmt: skip
    assert {where: count for where, count in counts.items() if count > MOST_PARAMETERS} == {}


def constants(file: Path) -> Iterator[tuple[str, str]]:
    """Name and value of a module's constants, as they are written: numbers, and tables of numbers and text."""
    for node in tree(file).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        try:
            value = ast.literal_eval(node.value)
        except ValueError:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple):
                pairs = list(zip(target.elts, value, strict=True))
            yield from ((name.id, repr(one)) for name, one in pairs if isinstance(name, ast.Name) and name.id.isupper())


def test_no_constant_is_written_twice() -> None:
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for folder in FOLDERS:
        for file in files(folder):
            for constant in constants(file):
                places[constant].append(str(file.relative_to(ROOT)))
    assert {" = ".join(constant): where for constant, where in places.items() if len(where) > 1} == {}


def test_classes_of_a_parser_are_named_in_its_taxonomy_and_nowhere_else() -> None:
    from s3pot_batch.stages.models.taxonomy import CELEBM

    telling = {name for name in CELEBM.classes if name in {"imouth", "llip", "ulip", "eyeg", "earr", "neck_l"}}
    assert len(telling) == 6  # the others mean something else, too: hair, "rb", …
    found: dict[str, set[str]] = {}
    for file in (file for folder in FOLDERS for file in files(folder)):
        texts = {node.value for node in ast.walk(tree(file)) if isinstance(node, ast.Constant)}
        found[str(file.relative_to(ROOT))] = {text for text in texts if text in telling}
    assert found[TAXONOMY] == telling
    assert {name: texts for name, texts in found.items() if texts and name not in NAMES_OF_CLASSES} == {}
