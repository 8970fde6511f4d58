import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli import app

ROOT = Path(__file__).parents[2]
COMMANDS = [
    ["index"], ["references"], ["train"], ["segment"], ["evaluate"], ["report"], ["status"],
    ["models", "list"], ["models", "pull"], ["models", "verify"],
]  # fmt: skip


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


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


def test_help_answers_in_half_a_second():
    def seconds() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "pipeline.cli", "--help"], cwd=ROOT, check=True, capture_output=True)
        return time.perf_counter() - started

    assert min(seconds() for _ in range(3)) < 0.5


def test_the_command_line_imports_nothing_heavy():
    code = "import sys, pipeline.cli; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert not {"torch", "pyarrow", "dask", "distributed", "zarr", "numpy", "rich"} & set(modules.stdout.split())


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
        (("train", "--manifest", "{manifest}", "--config", "nowhere.toml"), "cannot be read as TOML"),
        (("segment", "--manifest", "{manifest}", "--checkpoint", "nowhere"), "no checkpoint there"),
        (("status", "--run", "nowhere"), "no plan there"),
        (("status",), "which run?"),
        (("report", "--run", "nowhere"), "no plan there"),
        (("evaluate", "--manifest", "{manifest}", "--run", "nowhere"), "no answer there"),
        (("index", "nowhere", "--out", "in.parquet"), "no such file"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(manifest, arguments, reason):
    result = run(*(str(argument).format(manifest=manifest) for argument in arguments))
    assert result.exit_code == 2
    assert reason in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("option", [("--workers", "-1"), ("--limit", "0"), ("--device", "tpu")])
def test_options_out_of_range_are_refused(manifest, option):
    assert run("segment", "--manifest", manifest, *option).exit_code == 2


def test_models_list_names_the_five_parts():
    parts = json.loads(run("models", "list", "--json").stdout)
    assert {"embedded", "paper"} <= set(parts)
    assert list(parts["embedded"]) == ["detector", "parser", "inpainter", "segmenter", "adapter"]


@pytest.mark.parametrize("how", ["serial", "dask"])
def test_ctrl_c_says_how_to_go_on_and_leaves_no_process(tmp_path, how):
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.pipeline.interrupted", str(tmp_path), how],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("started-*")):
        assert program.poll() is None, program.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
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
