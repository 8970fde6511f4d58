"""How many small wrongs in the code the tests notice: mutants of cosmic-ray's, drawn at random.

    pip install --constraint constraints.txt --editable ".[mutants]"
    python -m benchmarks.mutants manifests --count 30 --seed 0

A mutant is a copy of the repository with one change: another operator, another number, a condition turned round, a loop
that does nothing. A place in the code is drawn first, then one of its mutants: a comparison has more of them than a
number. Tests run in the copy: first those of the module's own name, then those that name the module.
"""

import ast
import os
import random
import re
import shlex
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import chdir, suppress
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test, mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome

ROOT = Path(__file__).parent.parent
SECONDS = 300
"""What the tests of a mutant may take; one that makes them hang is killed."""
SAME = re.compile(r"core/(RemoveDecorator|ReplaceComparisonOperator_(Eq_Is|Is_Eq|NotEq_IsNot|IsNot_NotEq))")
"""Operators whose mutants mostly do what the code did: without a cache, or with ``==`` for ``is``."""
SLOW = {"test_page_in_browser.py", "test_parity.py", "test_end_to_end.py", "test_sam2.py", "test_site.py",
        "test_trainings.py", "test_published_formats.py", "test_controlnet_sd.py"}  # fmt: skip
"""Test files that are left out."""
SILENT = ("annotation", "returns", "decorator_list")
"""Fields of the syntax tree in which nothing is changed."""
Place = tuple[Path, int, int]
"""A module, a line, a column."""


def mutants(modules: Sequence[Path]) -> dict[Place, list[MutationSpec]]:
    """All mutants of some modules that change what is done, by their place."""
    found = defaultdict[Place, list[MutationSpec]](list)
    with use_db(":memory:", WorkDB.Mode.create) as session:
        init(modules, session, {})
        for item in session.work_items:
            (mutation,) = item.mutations
            found[Path(mutation.module_path), *mutation.start_pos].append(mutation)
    silent = {module: list(_silent(module)) for module in modules}
    return {
        place: kept
        for place, every in sorted(found.items())
        if not any(start <= place[1:] < end for start, end in silent[place[0]])
        and (kept := [one for one in every if not SAME.fullmatch(one.operator_name)])
    }


def _silent(module: Path) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """From where to where annotations, decorators and errors' texts go: lines from 1, columns."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        for name, value in ast.iter_fields(node):
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.Raise) or (name in SILENT and isinstance(part, ast.expr)):
                    yield (part.lineno, part.col_offset), (part.end_lineno or 0, part.end_col_offset or 0)


def drawn(folder: Path, rng: random.Random) -> Iterator[MutationSpec]:
    """A mutant of every place in a folder's modules, in any order."""
    every = mutants(sorted(folder.glob("*.py")))
    for place in rng.sample(sorted(every), len(every)):
        mutation = rng.choice(every[place])
        operator = get_operator(mutation.operator_name)(**mutation.operator_args)
        with suppress(SyntaxError, AttributeError):  # it takes ** of a dictionary for a power; dotted exceptions fail
            ast.parse(mutate_code(place[0].read_text(encoding="utf-8"), operator, mutation.occurrence))
            yield mutation


def files_for(module: Path) -> list[str]:
    """The test files that should notice a wrong in a module: of its name, those that name it, else those beside."""
    package, folder = ".".join(module.parent.parts), Path("tests") / module.parent
    named = re.compile(rf"{re.escape(package)}(\.| import .*\b){module.stem}\b")
    every = {path: path.read_text(encoding="utf-8") for path in sorted(Path("tests").rglob("test_*.py"))}
    own = folder / f"test_{module.stem}.py"
    naming = [path for path, text in every.items() if named.search(text)]
    beside = [path for path in every if path.parent == folder and path.name not in SLOW]
    found = [path for path in (own, *naming) if path in every and path.name not in SLOW]
    return [path.as_posix() for path in dict.fromkeys(found if own in every else [*found, *beside])]


def tested(mutation: MutationSpec) -> str:
    """Run a mutant's tests: ``killed``, ``hung`` or ``survived``, and the change in one line."""
    tests = files_for(Path(mutation.module_path))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", *tests]
    result = mutate_and_test([mutation], shlex.join(command), SECONDS)
    if result.worker_outcome != WorkerOutcome.NORMAL:
        raise RuntimeError(f"{mutation}: {result.output}")
    how = "hung" if result.output == "timeout" else "survived"
    if result.test_outcome == TestOutcome.KILLED and how != "hung":
        how = "killed"
    lines = [line for line in (result.diff or "").split("\n") if re.match(r"[-+](?![-+])", line)]
    changed = " → ".join(" ".join(line[1:].split()) for line in lines)
    return f"{how}: {mutation.module_path}:{mutation.start_pos[0]}: {changed}"


def main(
    folders: Annotated[list[str], typer.Argument(help="Such as manifests or stages/method; not what is below it.")],
    count: Annotated[int, typer.Option(help="Mutants of each.")] = 30,
    seed: int = 0,
) -> None:
    """Draw mutants and print which of them survive."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy"
        shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".*", "__pycache__", "runs", "site"))
        os.environ["PYTHONPATH"] = str(copy)
        with chdir(copy):
            for folder in folders:
                tally = Counter[str]()
                for mutation in islice(drawn(Path(folder), random.Random(seed)), count):
                    line = tested(mutation)
                    tally[line.split(":")[0]] += 1
                    print(line, flush=True)
                killed = tally.total() - tally["survived"]
                print(f"mutants, {folder}: {killed} of {tally.total()} killed; {dict(tally)}", flush=True)


if __name__ == "__main__":
    typer.run(main)
