"""How many small wrongs in the code the tests notice: mutants, drawn at random, and the tests that should kill them.

    python -m benchmarks.mutants manifests --count 30 --seed 0

A mutant is a copy of the repository in which one comparison, sum, condition, constant, argument or call is another.
Its tests run in a fork of this process, which has imported torch and the like once, in the copy: first those of the
module's own name, then those that name the module. Names of types, decorators and texts are left as they are.
"""

import ast
import contextlib
import importlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer

ROOT = Path(__file__).parent.parent
SECONDS = 300
"""What the tests of a mutant may take; one that makes them hang is killed."""
HEAVY = ("torch", "diffusers", "facer", "distributed", "PIL.Image", "scipy.ndimage",
         "pyarrow.parquet", "pyarrow.compute", "cv2", "pydantic", "pycocotools.mask", "safetensors.torch")  # fmt: skip
"""Imported once, before the forks."""
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
UNTOUCHED = ("annotation", "returns", "decorator_list", "bases")
"""Fields of which nothing is changed."""


@dataclass(frozen=True)
class Mutant:
    """A module with one change."""

    module: Path
    """From the repository's root."""
    line: int
    before: str
    after: str
    source: str

    def text(self) -> str:
        """Where it is and what it does, in one line."""
        before, after = (" ".join(part.split())[:110] for part in (self.before, self.after))
        return f"{self.module}:{self.line}: {before} → {after}"


def mutants(module: Path, root: Path = ROOT) -> Iterator[Mutant]:
    """All mutants of a module."""
    tree = ast.parse((root / module).read_text(encoding="utf-8"))
    for holder, name, number in _places(tree):
        value = getattr(holder, name)
        node = value if number is None else value[number]
        for other in _others(node):
            _put(holder, name, number, other)
            after, source = ast.unparse(other), ast.unparse(tree)
            _put(holder, name, number, node)
            yield Mutant(module, node.lineno, ast.unparse(node), after, source)


def _put(holder: ast.AST, name: str, number: int | None, node: ast.AST) -> None:
    if number is None:
        setattr(holder, name, node)
    else:
        getattr(holder, name)[number] = node


def _places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Where statements and expressions stand: the node that has them, its field, the number in there."""
    for name, value in ast.iter_fields(tree):
        if name in UNTOUCHED or isinstance(tree, ast.JoinedStr):
            continue
        for number, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(node, ast.AST) and not _says_nothing(node):
                if isinstance(node, ast.expr | ast.stmt):
                    yield tree, name, number
                yield from _places(node)


def _says_nothing(node: ast.AST) -> bool:
    """Documentation, imports, what is for type checkers, and errors' texts."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    documentation = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return documentation or isinstance(node, ast.Import | ast.ImportFrom | ast.Raise)


def _others(node: ast.AST) -> Iterator[ast.AST]:
    """What a node could wrongly be."""
    match node:
        case ast.Compare(left, [operator], right) if type(operator) in SWAPS:
            yield ast.Compare(left, [SWAPS[type(operator)]()], right)  # type: ignore[list-item]
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(SWAPS[type(operator)](), values)  # type: ignore[arg-type]
        case ast.BinOp(left, operator, right) if type(operator) in SWAPS and not _is_text(left):
            yield ast.BinOp(left, SWAPS[type(operator)](), right)  # type: ignore[arg-type]
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield ast.Constant(value + 1)
        case _:
            yield from _less(node)


def _less(node: ast.AST) -> Iterator[ast.AST]:
    """What is left of a node if something is forgotten."""
    match node:
        case ast.UnaryOp(_, operand):
            yield operand
        case ast.IfExp(_, body, orelse):
            yield from (body, orelse)
        case ast.Call(called, arguments, keywords):
            yield from (ast.Call(called, arguments, [one for one in keywords if one is not left]) for left in keywords)
            if arguments and not isinstance(arguments[0], ast.Starred):
                yield arguments[0]
        case ast.Expr(ast.Call()) | ast.AugAssign():
            yield ast.Pass()
        case ast.If(_, body, orelse):
            yield ast.If(ast.Constant(value=False), body, orelse)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def files_for(module: Path, root: Path = ROOT) -> list[str]:
    """The test files that should notice a wrong in a module: of its name, those that name it, else those beside."""
    package, folder = ".".join(module.parent.parts), root / "tests" / module.parent
    named = re.compile(rf"{re.escape(package)}(\.| import .*\b){module.stem}\b")
    every = {path: path.read_text(encoding="utf-8") for path in sorted((root / "tests").rglob("test_*.py"))}
    own = folder / f"test_{module.stem}.py"
    naming = [path for path, text in every.items() if named.search(text)]
    beside = [path for path in every if path.parent == folder and path.name not in SLOW]
    found = [path for path in (own, *naming) if path in every and path.name not in SLOW]
    return [path.relative_to(root).as_posix() for path in dict.fromkeys(found if own in every else [*found, *beside])]


SLOW = {"test_page_in_browser.py", "test_parity.py", "test_end_to_end.py", "test_sam2.py", "test_site.py",
        "test_trainings.py", "test_published_formats.py", "test_controlnet_sd.py"}  # fmt: skip
"""Test files that are left out."""


def survives(mutant: Mutant, copy: Path, log: Path, tests: Sequence[str]) -> str:
    """Run a mutant's tests in the copy: ``killed``, ``hung`` or ``survived``."""
    module = copy / mutant.module
    original = module.read_text(encoding="utf-8")
    module.write_text(mutant.source, encoding="utf-8")
    child = os.fork()
    if not child:
        _tested(copy, log, tests)
    try:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return "killed" if os.waitstatus_to_exitcode(status) else "survived"
            time.sleep(0.05)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "hung"
    finally:
        module.write_text(original, encoding="utf-8")


def _tested(copy: Path, log: Path, tests: Sequence[str]) -> NoReturn:
    """In the fork: run the tests and end."""
    code = 1
    try:
        os.setsid()
        os.chdir(copy)
        os.environ["PYTHONPATH"] = str(copy)
        sys.path[:] = [str(copy), *(path for path in sys.path if path not in {"", str(ROOT)})]
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        for name in [name for name in sys.modules if name.split(".")[0] in {"s3pot_batch", "tests", "benchmarks"}]:
            del sys.modules[name]
        import pytest

        known = "ignore::pytest.PytestAssertRewriteWarning"  # plugins that what was imported had imported
        code = int(pytest.main(["-x", "-q", "-W", known, "-p", "no:cacheprovider", "-p", "no:xdist", *tests]))
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)  # nothing of this process, which goes on elsewhere, is to be cleaned up here


def main(
    folders: Annotated[list[str], typer.Argument(help="Such as manifests or stages/method; not what is below it.")],
    count: Annotated[int, typer.Option(help="Mutants of each.")] = 30,
    seed: int = 0,
) -> None:
    """Draw mutants and print which of them survive."""
    sys.dont_write_bytecode = True
    # of two sources written within a second, the old one's code may be taken
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    for name in HEAVY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy"
        shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".git", "__pycache__", "runs", "site"))
        for folder in folders:
            every = [one for path in sorted((ROOT / folder).glob("*.py")) for one in mutants(path.relative_to(ROOT))]
            tally = Counter[str]()
            for mutant in random.Random(seed).sample(every, min(count, len(every))):
                how = survives(mutant, copy, Path(place) / "log", files_for(mutant.module))
                tally[how] += 1
                print(f"{how}: {mutant.text()}", flush=True)
            killed = tally.total() - tally["survived"]
            print(
                f"mutants, {folder}: {killed} of {tally.total()} killed, of {len(every)} there are; {dict(tally)}",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
