"""What is seen of a command while it runs: lines and bars, what is worked on, and the log."""

import io
import logging
import re
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console
from rich.progress import Progress, TextColumn

from s3pot_batch.manifests.outcomes import Outcome, write_outcomes
from s3pot_batch.pipeline import progress
from s3pot_batch.pipeline.at_work import at_work
from s3pot_batch.pipeline.logbook import logbook
from s3pot_batch.pipeline.progress import Display, Meter, display
from s3pot_batch.pipeline.status import run_status
from s3pot_batch.stages.base import ShardReport
from s3pot_batch.stages.headway import Headway
from tests.pipeline.conftest import run as command
from tests.pipeline.conftest import working
from tests.pipeline.drawn_run import draw_run, found


@pytest.fixture
def lock(tmp_path):
    """Of the fourth shard of a stage, not held."""
    (tmp_path / "items" / "segments").mkdir(parents=True)
    return FileLock(tmp_path / "items" / "segments" / "00003.lock")


def test_what_is_worked_on_is_seen_by_its_lock(tmp_path, lock):
    assert at_work(tmp_path) == []
    with lock:
        [one] = at_work(tmp_path)
        assert (one.stage, one.shard) == ("segments", 3)
        assert 0 <= one.seconds < 5
        assert at_work(tmp_path, "references") == []
    assert at_work(tmp_path) == []  # the file is still there, as one that a dead process has left


def test_a_stage_in_which_nothing_ends_still_speaks(tmp_path, lock, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.05)
    with lock, display(tmp_path) as show, show.stage("segments", {3: 4, 4: 2}):
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "segments: 6 photos in 2 shards"
    assert len(lines) >= 3
    assert set(lines[1:]) == {"segments: 0/6 photos, 0.0 photos/s, – left; now shard 3 (0 s)"}


def test_what_is_waited_for_is_told_as_long_as_it_lasts(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.05)
    with display(tmp_path) as show:
        with show.waiting("the workers start"):
            time.sleep(0.2)
        said = capsys.readouterr().err
        time.sleep(0.1)
    assert said.startswith("the workers start: 0 s so far\n")
    assert capsys.readouterr().err == ""


def test_lines_tell_counts_failures_and_errors(tmp_path, capsys):
    with display(tmp_path) as show:
        with show.stage("segments", {0: 4, 1: 2}) as on_report:
            on_report(ShardReport("segments", 0, 4, ok=3, failed=1))
            on_report(ShardReport("segments", 1, error="ShardError: no space"))
        show.say("Note: that was it")
    first, error, last, note = capsys.readouterr().err.splitlines()
    assert first == "segments: 6 photos in 2 shards"
    assert error == "segments, shard 1: ShardError: no space"
    assert last.startswith("segments: 6/6 photos")
    assert "3 failed, 0:00:00 left" in last
    assert note == "Note: that was it"


def test_of_many_shards_some_are_named(tmp_path, lock):
    with ExitStack() as held:
        for shard in range(7):
            held.enter_context(FileLock(Path(lock.lock_file).with_name(f"{shard:05d}.lock")))
        text = Meter("segments", dict.fromkeys(range(7), 4), run=tmp_path).text()
    assert re.search(r"; now (shard [0-6] \(. s\), ){3}shard [0-6] \(. s\) and 3 more$", text)


def test_what_is_done_within_shards_counts_once(tmp_path, lock):
    meter = Meter("segments", {3: 10, 4: 30}, run=tmp_path, started=time.monotonic() - 20)
    with lock:
        told = Headway(Path(lock.lock_file))
        assert "0/40 photos, 0.0 photos/s, – left; now shard 3 (0 s)" in meter.text()
        told.done = 5.04
        told._write()
        assert "5/40 photos, 0.3 photos/s, 0:02:19 left; now shard 3 (0 s, 5 done)" in meter.text()
        meter.add(ShardReport("segments", 3))  # a storage may show the lock a little longer than it is held
        assert "10/40 photos, 0.5 photos/s, 0:01:00 left" in meter.text()
    assert "10/40 photos" in meter.text()


def test_what_was_seen_is_not_taken_back(tmp_path, lock):
    """Between the end of a shard and its report there is neither a lock nor a count."""
    meter = Meter("segments", {3: 10, 4: 30}, run=tmp_path)
    with lock:
        told = Headway(Path(lock.lock_file))
        told.done = 99  # of another plan
        told._write()
        meter.look()
    Path(lock.lock_file).unlink()
    meter.look()
    assert meter.seen == 10
    meter.add(ShardReport("segments", 4))
    meter.look()
    assert (meter.seen, meter.done) == (30, 30)


def test_time_left_goes_by_what_is_done():
    meter = Meter("segments", {0: 10, 1: 30}, started=time.monotonic() - 20)
    assert meter.left() == "–"
    meter.add(ShardReport("segments", 0))
    assert meter.left() == "0:01:00"
    assert meter.rate() == "0.5 photos/s"


def test_a_terminal_has_a_bar_for_each_stage(tmp_path):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    columns = [TextColumn(f"{{task.{name}}}") for name in ("description", "completed", "fields[failed]")]
    with Progress(*columns, console=console) as bars:
        show = Display(tmp_path, quiet=False, bars=bars)
        for stage in ("references", "segments"):
            with show.stage(stage, {0: 4}) as on_report:
                on_report(ShardReport(stage, 0, 4, ok=3, failed=1))
        show.say("Note: [bold]")
    assert "references 4 1 failed" in screen.getvalue()
    assert "segments   4 1 failed" in screen.getvalue()
    assert "Note: [bold]" in screen.getvalue()


@pytest.mark.parametrize(("level", "levels"), [("info", ["INFO", "WARNING"]), ("warning", ["WARNING"])])
def test_the_log_has_the_ids_of_what_went_wrong_each_once(tmp_path, capsys, level, levels):
    for stage in ("references", "segments"):
        outcomes = [Outcome(0, "good", "ok"), Outcome(1, "bad", "failed", "NotAnImage", "no photo; convert it")]
        write_outcomes(tmp_path, stage, 0, outcomes, "f")
    with logbook(tmp_path, level), display(tmp_path, quiet=True) as show:
        for stage in ("references", "segments"):
            with show.stage(stage, {0: 2}) as on_report:
                on_report(ShardReport(stage, 0, 2, ok=1, failed=1))
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split("WARNING ")[1] for line in lines if "WARNING" in line] == [
        "references, photo bad: NotAnImage: no photo; convert it"
    ]
    assert sorted({line.split()[2] for line in lines}) == levels
    assert capsys.readouterr().err == ""


def test_the_log_says_what_a_command_ended_with(tmp_path):
    with pytest.raises(OSError, match="no space"), logbook(tmp_path, "info"):
        raise OSError("no space")
    assert "ERROR   ends: OSError: no space" in (tmp_path / "log.txt").read_text()


def test_a_quiet_command_says_nothing_but_its_outcome(photos, tmp_path):
    done = working("segment", photos, tmp_path / "run", "--quiet", "--log-level", "debug")
    assert done.exit_code == 1
    assert done.stderr == ""
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "references, photo gone: MissingFile: " in log
    assert "segments, shard 0: 1 ok, 0 without a face, 0 failed" in log
    assert "Traceback" not in log


def test_status_tells_what_is_worked_on_and_watches_to_the_end(tmp_path):
    run = draw_run(tmp_path / "run", [found(0, "a", 0.5)])
    with FileLock(run / "items" / "segments" / "00000.lock"):
        assert "now          segments, shard 0 (0 s)" in run_status(run).text()
        assert not run_status(run).finished
    done = command("status", "--run", run, "--watch")
    assert done.exit_code == 0
    assert "segments     1/1 shards done: 1 ok" in done.stdout
    assert command("status", "--run", tmp_path, "--watch").exit_code == 2


def test_a_log_that_cannot_be_written_costs_its_lines_and_one_note(tmp_path, capsys):
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with logbook(tmp_path, "info"):
        logging.getLogger("s3pot_batch").warning("a photo")
    errors = capsys.readouterr().err
    assert errors.count("log.txt cannot be written ([Errno 28] No space left on device); the work goes on") == 1
    assert "Traceback" not in errors
