from typing import Any

import pytest

from s3pot_batch.pipeline.devices import Place, placement, resolve, visible_gpus
from s3pot_batch.stages.errors import ConfigError

NO_GPU: dict[str, Any] = {"gpus": (), "cores": 8}
FOUR_GPUS: dict[str, Any] = {"gpus": ("0", "1", "5", "GPU-7"), "cores": 8}


def environments(places: tuple[Place, ...], name: str) -> list[str]:
    return [dict(place.environment)[name] for place in places]


def test_one_process_per_gpu_each_seeing_its_card_as_the_first():
    places = placement("auto", workers=None, shards=100, **FOUR_GPUS)
    assert [place.device for place in places] == ["cuda:0"] * 4
    assert environments(places, "CUDA_VISIBLE_DEVICES") == ["0", "1", "5", "GPU-7"]
    assert environments(places, "OMP_NUM_THREADS") == ["2"] * 4


def test_more_workers_than_gpus_share_them_in_turn():
    places = placement("cuda", workers=6, shards=100, **FOUR_GPUS)
    assert environments(places, "CUDA_VISIBLE_DEVICES") == ["0", "1", "5", "GPU-7", "0", "1"]


def test_cpu_workers_have_one_thread_and_see_no_card():
    places = placement("cpu", workers=2, shards=100, **FOUR_GPUS)
    assert places == (Place("cpu", (("CUDA_VISIBLE_DEVICES", ""), ("OMP_NUM_THREADS", "1"))),) * 2


def test_one_cpu_worker_per_core_by_default():
    places = placement("auto", workers=None, shards=100, **NO_GPU)
    assert len(places) == 8
    assert environments(places, "OMP_NUM_THREADS") == ["1"] * 8


@pytest.mark.parametrize("workers", [None, 7])
def test_never_more_workers_than_shards(workers):
    assert len(placement("auto", workers=workers, shards=3, **NO_GPU)) == 3


@pytest.mark.parametrize(("workers", "shards"), [(0, 9), (None, 1), (3, 0)])
def test_this_process_does_it(workers, shards):
    assert placement("auto", workers=workers, shards=shards, **FOUR_GPUS) == ()


def test_cuda_without_a_card_is_a_configuration_error():
    with pytest.raises(ConfigError, match="--device cpu"):
        placement("cuda", workers=None, shards=3, **NO_GPU)


@pytest.mark.parametrize(("choice", "device"), [("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")])
def test_resolve(choice, device):
    assert resolve(choice) == device


def test_the_cards_that_are_seen_are_named_as_the_environment_names_them(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, 5")
    assert visible_gpus() == ("GPU-a", "5")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert visible_gpus() == ()
