"""Serial and Dask runners have one contract: every test of the class below holds for both."""

import errno
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import replace

import dask
import pyarrow as pa
import pytest
import torch
from distributed import Client

from benchmarks.elsewhere import elsewhere
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.manifest import read_manifest
from s3pot_batch.manifests.plan import Plan, make_plan
from s3pot_batch.pipeline.devices import Place
from s3pot_batch.pipeline.job import Tasks
from s3pot_batch.pipeline.runner import Runner, run_serial
from s3pot_batch.pipeline.scheduling import _local_cluster, dask_runner
from s3pot_batch.stages.attempts import HOPELESS
from s3pot_batch.stages.base import ShardReport, stage_named
from s3pot_batch.stages.errors import ConfigError, DeviceLost
from tests.pipeline import toy_stage
from tests.pipeline.toy_stage import CONTEXT, PLACES, tasks

ON_A_CARD = replace(CONTEXT, device="cuda:0")
"""A device named in full is taken as it is; toys do not use it, and only for a CPU's threads would torch be loaded."""


@pytest.fixture
def plan(tmp_path) -> Plan:
    """Fifteen photos in shards of two."""
    write_parquet(pa.table({"image": [f"{n}.jpg" for n in range(15)]}), tmp_path / "in.parquet")
    return make_plan(read_manifest(tmp_path / "in.parquet"), shard_size=2, max_faces=1)


class RunnerContract:
    run: Runner

    def test_reports_come_back_in_order_and_each_is_streamed(self, tmp_path):
        seen: list[ShardReport] = []
        reports = self.run(toy_stage.works, tasks(tmp_path, 5), CONTEXT, seen.append)
        assert [report.shard for report in reports] == [0, 1, 2, 3, 4]
        assert all(report.ok == 2 and report.error is None for report in reports)
        assert sorted(seen, key=lambda report: report.shard) == reports

    def test_nothing_to_do(self):
        assert self.run(toy_stage.works, [], CONTEXT, print) == []

    @pytest.mark.parametrize(
        ("stage", "reason"),
        [
            (toy_stage.second_fails, "ShardError: the array is gone"),
            (toy_stage.second_breaks, "ZeroDivisionError: first line"),
        ],
    )
    def test_a_failed_shard_is_reported_and_the_others_go_on(self, tmp_path, stage, reason):
        reports = self.run(stage, tasks(tmp_path), CONTEXT, lambda _: None)
        assert [report.error for report in reports] == [None, reason, None]
        assert [report.ok for report in reports] == [2, 0, 2]

    def test_batch_is_halved_until_it_fits_and_stays_so_for_the_process(self, tmp_path):
        reports = self.run(toy_stage.only_small_batches, tasks(tmp_path, 6, "small"), CONTEXT, lambda _: None)
        assert [report.items for report in reports] == [2] * 6
        tried = [line.split() for line in (tmp_path / "tries").read_text().splitlines()]
        for process in {process for process, _ in tried}:
            assert [batch for one, batch in tried if one == process] in (["8", "4", *["2"] * n] for n in range(1, 7))

    def test_what_one_stage_has_no_room_for_another_may_have(self, tmp_path):
        self.run(toy_stage.only_small_batches, tasks(tmp_path, 2, "full"), CONTEXT, lambda _: None)
        reports = self.run(toy_stage.tells_batch, tasks(tmp_path, 4, "empty"), CONTEXT, lambda _: None)
        assert [report.items for report in reports] == [8] * 4

    @pytest.mark.parametrize(("batch", "tries"), [(8, [8, 4, 2, 1]), (32, [32, 16, 8, 4, 2, 1]), (2, [2, 1, 1, 1])])
    def test_retries_go_down_to_one_face_and_are_bounded(self, tmp_path, batch, tries):
        context = replace(CONTEXT, batch_size=batch)
        (report,) = self.run(toy_stage.never_fits, tasks(tmp_path, 1, f"never {batch}"), context, lambda _: None)
        assert report.error == "RetryableError: out of memory"
        assert list(map(int, (tmp_path / "tries-0").read_text().split())) == tries

    @pytest.fixture
    def _two_threads(self):
        """Of this process, for a while: two would keep tests that come after waiting for each other."""
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        yield
        torch.set_num_threads(before)

    @pytest.mark.usefixtures("_two_threads")
    def test_models_on_a_cpu_have_one_thread_so_that_results_agree(self, tmp_path):
        reports = self.run(toy_stage.tells_torch_threads, tasks(tmp_path), CONTEXT, lambda _: None)
        assert [report.items for report in reports] == [1, 1, 1]

    def test_a_task_brings_its_photos_and_is_made_when_there_is_room_for_it(self, tmp_path, plan, monkeypatch):
        asked, done, whole = [], [], Plan.shard
        monkeypatch.setattr(Plan, "shard", lambda self, number: (asked.append(number), whole(self, number))[1])
        planned = Tasks(stage_named("references"), tmp_path, plan, range(8))
        assert len(planned) == 8

        def on_report(report):
            done.append(report)
            assert len(asked) < len(done) + 2 * len(PLACES)  # those that ended at once, and those given out instead

        assert asked == []
        reports = self.run(toy_stage.tells_photos, planned, CONTEXT, on_report)
        assert asked == list(range(8))
        assert len(done) == 8
        assert [report.error for report in reports] == [*(f"{n} {n + 1}" for n in range(0, 14, 2)), "14"]

    def test_a_wrong_configuration_stops_everything(self, tmp_path):
        with pytest.raises(ConfigError, match="the weights are missing"):
            self.run(toy_stage.misconfigured, tasks(tmp_path), CONTEXT, lambda _: None)


class TestSerial(RunnerContract):
    run = staticmethod(run_serial)

    def test_a_lost_device_ends_the_command(self, tmp_path):
        with pytest.raises(DeviceLost, match="illegal memory access was encountered\\); run the same command again"):
            self.run(toy_stage.loses_its_device_once, tasks(tmp_path), CONTEXT, lambda _: None)

    @pytest.mark.parametrize("shard", [0, 1])
    def test_ctrl_c_is_no_failed_shard_even_if_a_library_swallows_it(self, tmp_path, shard):
        before, reports = signal.getsignal(signal.SIGINT), list[ShardReport]()
        with pytest.raises(KeyboardInterrupt):
            self.run(toy_stage.swallows_ctrl_c, tasks(tmp_path)[shard:], CONTEXT, reports.append)
        assert reports == []
        assert signal.getsignal(signal.SIGINT) is before

    @pytest.mark.parametrize(
        ("stage", "traced"),
        [(toy_stage.second_fails, False), (toy_stage.second_lacks_a_file, False), (toy_stage.second_breaks, True)],
    )
    def test_only_what_nobody_expected_is_logged_with_a_traceback(self, tmp_path, logged, stage, traced):
        self.run(stage, tasks(tmp_path), CONTEXT, lambda _: None)
        (record,) = logged  # of one shard: the others went on in silence
        assert record.getMessage().startswith("toy, shard 1: ")
        assert bool(record.exc_info) == traced


class TestDask(RunnerContract):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _workers(cls):
        """The same two workers for all these tests, as for all stages of a command."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("s3pot_batch.pipeline.scheduling.FAILURES", HOPELESS)
            with dask_runner(PLACES) as run:
                cls.run = staticmethod(run)
                yield

    def test_workers_have_their_own_cards_and_keep_what_they_have_loaded(self, tmp_path):
        told = []
        places = [Place("cuda:0", (("CUDA_VISIBLE_DEVICES", card), ("OMP_NUM_THREADS", "3"))) for card in ("4", "7")]
        with dask_runner(places) as run:
            reports = run(toy_stage.tells_environment, tasks(tmp_path, 12), ON_A_CARD, lambda _: None)
            assert {report.error for report in reports} == {"4 3 ?", "7 3 ?"}  # and nothing of Dask's own
            for _stage in range(3):
                told += run(toy_stage.tells_process, tasks(tmp_path, 4), ON_A_CARD, lambda _: None)
        workers = {report.error for report in told}
        assert len(workers) == 2
        assert str(os.getpid()) not in workers
        for worker in workers:  # what a process has loaded stays, for all stages of a command: it counts on
            counted = [report.items for report in told if report.error == worker]
            assert sorted(counted) == list(range(1, len(counted) + 1))

    def test_a_forked_worker_looks_for_garbage_among_what_is_its_own(self, tmp_path):
        reports = self.run(toy_stage.tells_garbage, tasks(tmp_path), CONTEXT, lambda _: None)
        assert {report.error for report in reports} == {"True"}
        assert min(report.items for report in reports) > 100  # torch and Dask alone are more

    def test_a_worker_whose_device_is_lost_ends_and_another_goes_on(self, tmp_path):
        reports = self.run(toy_stage.loses_its_device_once, tasks(tmp_path, 4), CONTEXT, lambda _: None)
        assert [(report.ok, report.error) for report in reports] == [(2, None)] * 4

    def test_a_photo_that_kills_its_worker_costs_its_neighbours_nothing(self, tmp_path):
        [report] = self.run(toy_stage.dies_at_the_second_photo, tasks(tmp_path, 1), CONTEXT, lambda _: None)
        assert (report.error, report.items) == (None, 3)

    def test_a_shard_that_kills_its_worker_ends_as_a_report(self, tmp_path):
        reports = self.run(toy_stage.second_kills_its_worker, tasks(tmp_path, 4), CONTEXT, lambda _: None)
        assert [report.ok for report in reports] == [2, 0, 2, 2]
        assert reports[1].error.startswith("KilledWorker: ")

    def test_an_absent_scheduler_is_a_configuration_error(self, monkeypatch):
        monkeypatch.setattr("s3pot_batch.pipeline.scheduling.CONNECT_SECONDS", 1)
        started = time.monotonic()
        with pytest.raises(ConfigError, match="no Dask scheduler answers"), dask_runner(address="tcp://127.0.0.1:9"):
            raise AssertionError("there is no scheduler")
        assert time.monotonic() - started < 20

    def test_a_worker_that_dies_while_it_starts_is_started_again(self, tmp_path):
        place = Place("cpu", (*PLACES[0].environment, ("TOY_DIES", str(tmp_path / "died"))))
        with (
            dask.config.set({"distributed.worker.preload": ["tests.pipeline.dies_twice"]}),
            dask_runner([place]) as run,
        ):
            reports = run(toy_stage.works, tasks(tmp_path), CONTEXT, lambda _: None)
        assert [report.ok for report in reports] == [2, 2, 2]
        assert (tmp_path / "died").read_text() == "xx"

    def test_a_worker_that_never_starts_is_an_error(self, tmp_path, monkeypatch):
        monkeypatch.setattr("s3pot_batch.pipeline.scheduling.FAILURES", 2)
        place = Place("cpu", (("TOY_DIES", str(tmp_path / "died")),))
        preload = dask.config.set({"distributed.worker.preload": ["tests.pipeline.dies_twice"]})
        end = pytest.raises(ConfigError, match="the worker processes end as soon as they start")
        with preload, end, dask_runner([place]):
            raise AssertionError("there is no worker")

    @pytest.mark.parametrize(
        ("program", "reason"),
        [(1, "nobody has been there to work for 1 s"), (0, "their scheduler has gone")],
    )
    def test_a_command_ends_when_its_scheduler_or_all_its_workers_have_gone(
        self, tmp_path, monkeypatch, capfd, program, reason
    ):
        for name in ("ALONE_SECONDS", "WATCH_SECONDS"):
            monkeypatch.setattr(f"s3pot_batch.pipeline.scheduling.{name}", 1)
        with elsewhere(tmp_path, os.environ, nannies=False) as cluster:
            with pytest.raises(ConfigError) as raised, dask_runner(address=cluster.address) as run:
                run(toy_stage.works_once, tasks(tmp_path), ON_A_CARD, lambda _: cluster.programs[program].kill())
            assert str(raised.value).startswith(f"--scheduler {cluster.address}: {reason}; what is done stays")
        assert "Traceback" not in capfd.readouterr().err

    def test_nobody_without_the_commands_certificate_is_listened_to(self):
        with _local_cluster(PLACES[:1]) as cluster:
            address = cluster.scheduler_address
            host, port = address.removeprefix("tls://").split(":")
            for said in (b"", bytes(32), bytes(4096)):
                with socket.create_connection((host, int(port)), timeout=10) as stranger:
                    try:
                        stranger.sendall(said)
                        stranger.shutdown(socket.SHUT_WR)
                        assert stranger.recv(2**16)[:1] in {b"", b"\x15"}, "it is told nothing but TLS's alert"
                    except OSError as hung_up:  # it may be before all is said, at whichever call that shows
                        if hung_up.errno not in {errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE}:
                            raise
            trusting = ssl.create_default_context()
            trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
            refused = pytest.raises(OSError, match=r"CERT|reset")  # with TLS 1.3 it is said when something is read
            with refused, trusting.wrap_socket(socket.create_connection((host, int(port)), timeout=10)) as stranger:
                stranger.recv(1)
            with pytest.raises(OSError, match=r"Timed out|in <"):
                Client(f"tcp://{host}:{port}", timeout=1, set_as_default=False)
            with Client(address, security=cluster.security, timeout=10, set_as_default=False):
                pass

    def test_a_scheduler_that_gives_up_sooner_costs_no_photo_its_neighbours(self, tmp_path):
        """Dask's own bound is three deaths of a shard."""
        way = {"DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "forkserver"}  # no death costs an import of Dask
        theirs = elsewhere(tmp_path / "cluster", os.environ | way, 1)
        with theirs as cluster, dask_runner(address=cluster.address) as run:
            [report] = run(toy_stage.dies_at_the_second_photo, tasks(tmp_path, 1), ON_A_CARD, lambda _: None)
        assert (report.error, report.items) == (None, 3)


ORPHANED = """
import os, sys, time
command, (told, tell) = os.getpid(), os.pipe()
if child := os.fork():
    os.read(told, 1)
    if sys.argv[1] == "waits":
        os.wait()
    os._exit(0)
import s3pot_batch.pipeline.forking
os.write(tell, b"1")
while sys.argv[1] == "ends" and os.getppid() == command:
    time.sleep(0.01)
raise FileNotFoundError("a lock that was shared")
"""


@pytest.mark.parametrize(("command", "said"), [("waits", "FileNotFoundError: a lock that was shared\n"), ("ends", "")])
def test_a_worker_that_starts_while_its_command_is_killed_says_nothing(command, said):
    ended = subprocess.run([sys.executable, "-c", ORPHANED, command], stderr=subprocess.PIPE, text=True, check=True)
    assert ended.stderr.endswith(said)
    assert bool(ended.stderr) == bool(said)
