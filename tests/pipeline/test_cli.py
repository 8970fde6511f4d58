import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from s3pot_batch.pipeline.cli import app
from s3pot_batch.pipeline.cli.common import takes
from s3pot_batch.pipeline.options import CompositionOptions, EvaluationOptions, Options

ROOT = Path(__file__).parents[2]
COMMANDS = [
    ["index"], ["references"], ["train"], ["segment"], ["evaluate"], ["compose"], ["report"], ["status"], ["export"],
    ["import"],
    ["models"], ["models", "list"], ["models", "pull"], ["models", "verify"],
]  # fmt: skip
HEAVY = {"torch", "pyarrow", "dask", "distributed", "zarr", "numpy", "rich", "pydantic", "jinja2", "tomli_w"}


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def cpu_seconds(*command: object) -> float:
    """User and system time of a child process: what others do on the machine counts little."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture
def manifest(tmp_path) -> Path:
    path = tmp_path / "photos.parquet"
    pq.write_table(pa.table({"image": ["a.jpg", "b.jpg"]}), path)
    return path


@pytest.mark.parametrize("command", [[], *COMMANDS], ids=" ".join)
def test_every_help_has_an_example(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert f"Example: s3pot-batch {' '.join(command)}" in result.output


def test_no_command_lacks_a_test_of_its_help():
    group: Any = typer.main.get_command(app)
    assert {command[0] for command in COMMANDS} == set(group.commands)
    assert {command[1] for command in COMMANDS if len(command) > 1} == set(group.commands["models"].commands)


def test_help_answers_in_a_fifth_of_a_second():
    """Of CPU time; on a machine that others slow down, in twice as long as typer alone takes there."""
    script, python = Path(sys.executable).with_name("s3pot-batch"), sys.executable
    both = [(cpu_seconds(script, "--help"), cpu_seconds(python, "-c", "import typer")) for _ in range(5)]
    ours, typers = (min(seconds) for seconds in zip(*both, strict=True))
    assert ours <= max(0.2, 2 * typers)


@pytest.mark.parametrize("module", ["s3pot_batch.pipeline.cli", "s3pot_batch"])
def test_the_command_line_imports_nothing_heavy(module):
    code = f"import sys, {module}; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert module in modules.stdout.split()
    assert not HEAVY & set(modules.stdout.split())


def test_python_m_is_the_command_line(tmp_path):
    command = [sys.executable, "-m", "s3pot_batch"]
    listed = subprocess.run([*command, "models", "list", "--json"], cwd=tmp_path, capture_output=True, check=True)
    assert "embedded" in json.loads(listed.stdout)
    refused = subprocess.run([*command, "status"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr == "Error: which run? give --run DIR or --manifest FILE\n"
    (tmp_path / "a.jpg").touch()
    closed = (
        f"umask 000; {shlex.join(command)} index . --out lists/in.parquet 2>&- && {shlex.join(command)} status 2>&-"
    )
    assert subprocess.run(["/bin/sh", "-c", closed], cwd=tmp_path, check=False).returncode == 2
    made = [tmp_path / "lists", tmp_path / "lists" / "in.parquet"]
    assert [path.stat().st_mode & 0o002 for path in made] == [0, 0], "others may not write there"


def test_what_a_command_with_closed_streams_starts_has_open_ones(tmp_path):
    child = "import sys; sys.exit(sys.stdout is None)"
    code = (
        "import subprocess, sys; from s3pot_batch.pipeline.cli.common import open_streams; open_streams(); "
        f"sys.exit(subprocess.run([sys.executable, '-c', {child!r}]).returncode)"
    )
    command = f"{shlex.join([sys.executable, '-c', code])} >&-"
    assert subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, check=False).returncode == 0


def test_index_builds_a_manifest(tmp_path):
    for name in ("b.png", "a.png", "a_mask.png"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    result = run("index", tmp_path, "--masks", "--out", tmp_path / "in.parquet", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["photos"] == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("segment", "--manifest", "nowhere.parquet"), "no such manifest"),
        (("references", "--manifest", "{manifest}", "--profile", "nobody"), "no profile nobody"),
        (("train", "--manifest", "{manifest}", "--config", "nowhere.toml"), "nowhere.toml: no such file"),
        (("segment", "--manifest", "{manifest}", "--checkpoint", "nowhere"), "no checkpoint there"),
        (("status", "--run", "nowhere"), "no plan there"),
        (("status",), "which run?"),
        (("report", "--run", "nowhere"), "no plan there"),
        (("export", "--run", "nowhere"), "no answer there"),
        (("export", "--run", "nowhere", "--format", "gif"), "there is no format gif; known are "),
        (("export",), "which run?"),
        (("evaluate", "--manifest", "{manifest}", "--run", "nowhere"), "no answer there"),
        (("index", "nowhere", "--out", "in.parquet"), "no such file"),
        (("segment", "--manifest", "{manifest}", "--run", "{manifest}"), "File exists: '{manifest}'"),
        (("segment", "--manifest", "{manifest}", "--run", "{manifest}/run"), "Not a directory: '{manifest}/run'"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(manifest, arguments, reason):
    result = run(*(str(argument).format(manifest=manifest) for argument in arguments))
    assert result.exit_code == 2
    assert reason.format(manifest=manifest) in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("option", [("--workers", "-1"), ("--limit", "0"), ("--device", "tpu")])
def test_options_out_of_range_are_refused(manifest, option):
    assert run("segment", "--manifest", manifest, *option).exit_code == 2


@pytest.mark.parametrize("command", ["references", "train", "segment"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[training]\nobjectives = ['typo']\n", "training.objectives: there is no typo; choose from face_recall, "),
        ("[references]\nface_classes = ['typo']\n", "references.face_classes: there is no typo; choose from "),
        ("[segments]\nthreshold = 2\n", "segments.threshold = 2: should be less than or equal to 1"),
    ],
    ids=["objective", "class", "range"],
)
def test_a_wrong_setting_is_refused_before_any_work(manifest, tmp_path, command, text, reason):
    config, folder = tmp_path / "mine.toml", tmp_path / "run"
    config.write_text(text)
    result = run(command, "--manifest", manifest, "--run", folder, "--config", config)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {config}: {reason}")
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "stages"),
    [
        (["references"], ["references"]),
        (["train"], ["references", "tokens", "train"]),
        (["train", "--per-image"], ["references", "tokens", "fits"]),
        (["segment"], ["references", "decoded", "segments"]),
        (["segment", "--per-image"], ["references", "tokens", "fits", "decoded", "segments"]),
        (["segment", "--config", "{config}"], ["references", "tokens", "fits", "decoded", "segments"]),
    ],
    ids=" ".join,
)
def test_a_dry_run_says_once_what_would_be_done_and_writes_nothing(manifest, tmp_path, arguments, stages):
    (tmp_path / "mine.toml").write_text("[segments]\nper_image = true\n")
    command = [*(text.format(config=tmp_path / "mine.toml") for text in arguments), "--manifest", manifest]
    command += ["--run", tmp_path / "run", "--shard-size", 1, "--device", "cpu", "--dry-run"]
    result = run(*command, "--json")
    assert result.exit_code == 0, result.stderr
    preview = json.loads(result.stdout)  # two of them would be no JSON
    assert preview["photos"] == preview["shards"] == 2
    assert preview["shards to do"] == {stage: 1 if stage == "train" else 2 for stage in stages}
    assert list(preview["fingerprints"]) == stages
    lines = run(*command).stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == list(preview)
    assert not (tmp_path / "run").exists()


def test_models_list_names_the_six_parts():
    parts = json.loads(run("models", "list", "--json").stdout)
    assert {"embedded", "paper"} <= set(parts)
    assert list(parts["embedded"]) == ["detector", "parser", "inpainter", "segmenter", "adapter", "refiner"]


def test_models_verify_fails_with_a_line_per_missing_file(tmp_path):
    profile = tmp_path / "mine.toml"
    profile.write_text('[segmenter]\nweights = "/nowhere/sam.safetensors"\n')
    assert run("models", "verify").exit_code == 0
    result = run("models", "verify", "--profile", profile, "--json")
    assert result.exit_code == 2
    (problem,) = json.loads(result.stdout)
    assert problem.startswith("segmenter: /nowhere/sam.safetensors: no weights there")


OPTIONS_OF = {
    "references": (Options, {"checkpoint", "references", "per_image"}),
    "train": (Options, {"checkpoint"}),
    "segment": (Options, set()),
    "evaluate": (EvaluationOptions, set()),
    "compose": (CompositionOptions, set()),
}


@pytest.mark.parametrize("command", OPTIONS_OF)
def test_the_options_of_a_dataclass_are_in_the_help_once_with_their_defaults(command):
    options, without = OPTIONS_OF[command]
    text = " ".join(run(command, "--help").output.split("Example:")[0].split())
    for field in fields(options):
        flag = f"--{field.name.replace('_', '-')}"
        described = re.findall(rf" {flag} (?!\S*--)(.*?)(?= --[a-z]|$)", text)
        assert len(described) == (field.name not in without), flag
        if described and field.default not in (None, False) and isinstance(field.default, int | float | str):
            assert f"[default: {field.default}" in described[0], flag


def test_a_dataclass_becomes_options_and_comes_back_filled():
    @dataclass(frozen=True)
    class Given:
        name: Annotated[str, typer.Option("--name", help="Whose.")]
        size: Annotated[int, typer.Option("--size", min=1)] = 3
        hidden: Annotated[bool, typer.Option("--hidden")] = True

    seen = []
    commands = typer.Typer(rich_markup_mode=None)

    @commands.command()
    @takes(Given, without=("hidden",))
    def measure(given: Given, *, own: Annotated[bool, typer.Option("--own")] = False) -> None:
        """What it does."""
        seen.append((given, own))

    def call(*arguments):
        return CliRunner().invoke(commands, arguments)

    assert call("--name", "a").exit_code == call("--name", "b", "--size", "5", "--own").exit_code == 0
    assert seen == [(Given("a"), False), (Given("b", 5), True)]
    for wrong in ((), ("--name", "a", "--size", "0"), ("--name", "a", "--hidden")):
        assert call(*wrong).exit_code == 2
    assert len(seen) == 2
    help_text = call("--help").output
    assert "What it does." in help_text
    assert [help_text.count(flag) for flag in ("--name", "--size", "--own", "--hidden")] == [1, 1, 1, 0]
    assert "[required]" in help_text
    assert "[default: 3" in help_text


@pytest.mark.parametrize("how", ["serial", "dask"])
def test_ctrl_c_says_how_to_go_on_and_leaves_no_process(tmp_path, how):
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.pipeline.interrupted", str(tmp_path), how],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("started-*")):
        assert program.poll() is None, program.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if how == "dask":  # its workers leave Ctrl-C to the program, from the first on
        assert all("SIGINT" in path.read_text() for path in tmp_path.glob("started-*"))
    os.killpg(program.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches the whole process group
    _, errors = program.communicate(timeout=30)
    assert program.returncode == 130
    assert errors.strip().splitlines()[-1] == "Interrupted; run the same command again to go on."
    assert "Traceback" not in errors
    assert _group_is_gone(program.pid)


def _group_is_gone(group: int, seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False
