"""Weights are fetched from a mirror of the published files, or from the hub, and held to their hashes."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from s3pot_batch.stages.models.checkpoints import file_digest, weights_digest
from s3pot_batch.stages.models.downloads import LOCK, download, licences, pull, verify
from s3pot_batch.stages.models.profiles import PAPER, PROFILES, PartSpec, find_profile
from s3pot_batch.stages.models.segmenters.sam_vit import build_vit_sam
from s3pot_batch.stages.models.sources import CONTROLNETS, HALF, LORAS, PIPELINE, STABLE_DIFFUSION, sources
from tests.pipeline.mirror import FARL, SAM, pulled_profile, write_mirror
from tests.published import LORA, write_lora
from tests.stages.conftest import TINY


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_mirror(tmp_path_factory.mktemp("published") / "mirror")


@contextmanager
def served(folder, log, headers=None):
    """The folder over HTTP, with ranges and what the hub says of its files."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_words):
            log.append((self.command, self.path, self.headers.get("Range")))

        def send_head(self):
            found = self.headers.get("Range")
            path = Path(self.translate_path(self.path))
            if not path.is_file():
                self.send_error(404)
                return
            content = path.read_bytes()
            start = int(found.removeprefix("bytes=").split("-")[0]) if found else 0
            if start and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", f'"{file_digest(path)}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[start:])

        def translate_path(self, path):
            return super().translate_path(headers(path) if headers else path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_one_file_that_cannot_be_had_is_one_line_and_the_others_go_on(published, tmp_path):
    mirror = tmp_path / "mirror"
    shutil.copytree(published, mirror)
    (mirror / PIPELINE / "vae" / "config.json").unlink()
    (mirror / SAM).write_bytes(b"<html>login first</html>")
    mine = pulled_profile(tmp_path / "cache")
    pulled = pull(mine, offline=False, mirror=str(mirror))
    assert len(pulled.failed) == 2
    assert all("\n" not in line for line in pulled.failed)
    assert "vae/config.json" in pulled.failed[0]
    assert "not a whole checkpoint" in pulled.failed[1]
    assert (tmp_path / "cache" / PIPELINE / "unet" / "config.json").exists()
    problems = verify(mine)
    assert any("vae/config.json: missing" in line for line in problems)
    assert any(f"{SAM}: no weights there" in line for line in problems)
    assert pull(mine, offline=False, mirror=str(published)).failed == []
    assert verify(mine) == []


def test_garbage_and_other_files_than_were_fetched_are_found(published, tmp_path):
    mine = pulled_profile(tmp_path / "cache")
    pull(mine, offline=True, mirror=str(published))
    unet = tmp_path / "cache" / PIPELINE / "unet" / "diffusion_pytorch_model.safetensors"
    whole = unet.read_bytes()
    unet.write_bytes(whole[:-9])
    (tmp_path / "cache" / FARL).write_bytes(b"garbage")
    found = verify(mine)
    assert any("diffusion_pytorch_model.safetensors: not a whole safetensors file" in line for line in found)
    assert any(f"{FARL}: not a whole checkpoint of torch" in line for line in found)
    unet.write_bytes(whole[:-4] + b"\1\2\3\4")
    assert any("hashes to" in line and LOCK in line for line in verify(mine))


def test_what_was_fetched_once_is_held_to_its_hash_the_next_time(published, tmp_path):
    mine = pulled_profile(tmp_path / "cache")
    pull(mine, offline=True, mirror=str(published))
    (tmp_path / "cache" / SAM).unlink()
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    torch.save(build_vit_sam(**TINY).state_dict(), mirror / SAM)  # other random weights
    [failure] = pull(mine, offline=True, mirror=str(mirror)).failed
    assert "hashes to" in failure
    assert not list((tmp_path / "cache").glob(f"{SAM}*"))


def test_published_hashes_are_pinned_and_others_are_refused(tmp_path, published):
    pins = {name: PROFILES[name].segmenter.sha256[:8] for name in ("paper", "paper-l", "paper-b")}
    assert pins == {"paper": "a7bf3b02", "paper-l": "3adcc431", "paper-b": "ec2df627"}
    text = f"base = 'paper-b'\n[segmenter]\nweights = '{tmp_path / SAM}'\nsha256 = '{'0' * 64}'\n"
    (tmp_path / "pinned.toml").write_text(text)
    failed = pull(find_profile(str(tmp_path / "pinned.toml")), offline=True, mirror=str(published)).failed
    assert any(SAM in line and f"not to {'0' * 64}" in line for line in failed)
    assert not (tmp_path / SAM).exists()


def test_offline_asks_no_network(tmp_path):
    failed = pull(pulled_profile(tmp_path / "cache"), offline=True).failed
    assert len(failed) == len(sources(PAPER.inpainter)) + 2
    assert all("--offline forbids" in line for line in failed)


def test_an_interrupted_download_goes_on(tmp_path):
    content = np.random.default_rng(0).bytes(50_000)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_bytes(content)
    part, log = tmp_path / "file.part", list[Any]()
    part.write_bytes(content[:20_000])
    with served(tmp_path / "there", log) as url:
        download(f"{url}/file", part)
        assert part.read_bytes() == content
        download(f"{url}/file", part)  # nothing lacks
    assert part.read_bytes() == content
    assert next(entry[2] for entry in log if entry[1] == "/file") == "bytes=20000-"


def test_a_mirror_may_be_a_url(published, tmp_path):
    mine, log = pulled_profile(tmp_path / "cache"), list[Any]()
    with served(published, log) as url:
        assert pull(mine, offline=False, mirror=url).failed == []
    assert verify(mine) == []
    failed = pull(pulled_profile(tmp_path / "other"), offline=False, mirror=url).failed  # nobody serves it any more
    assert len(failed) == len(log)
    assert all("refused" in line for line in failed)


def test_a_lora_is_another_profiles_file_and_pinned(published, tmp_path):
    """What is pulled for one profile leaves the fingerprint of another over the same folder as it was."""
    mirror = shutil.copytree(published, tmp_path / "mirror")
    plain, few = (pulled_profile(tmp_path / "cache", more=more) for more in ("", f", lora = '{LORA}'"))
    pull(plain, offline=True, mirror=str(mirror))
    before = weights_digest(plain.inpainter)
    assert "OpenRAIL++-M" in licences(few)[0]
    write_lora(mirror / PIPELINE)
    [refused] = pull(few, offline=True, mirror=str(mirror)).failed
    assert f"not to {LORAS[LORA].sha256}" in refused  # it is random
    shutil.copytree(mirror / PIPELINE / "lora", tmp_path / "cache" / PIPELINE / "lora", dirs_exist_ok=True)
    assert [line.endswith("as published") for line in verify(few)] == [True]
    assert verify(plain) == []
    assert weights_digest(plain.inpainter) == before != weights_digest(few.inpainter)


def pulling(folder):
    """The command that pulls the profile of a folder, in a process of its own."""
    words = ("models", "pull", "--profile", str(folder / "mine.toml"), "--json")
    return [sys.executable, "-m", "s3pot_batch", *words]


def test_the_hubs_files_come_through_huggingface_hub_under_the_names_that_diffusers_looks_for(published, tmp_path):
    hub, log = tmp_path / "hub", list[Any]()
    for name, source in sources(PartSpec("controlnet", PIPELINE, options=(("condition", "inpaint"),))).items():
        place = hub / source.repo / source.file
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(published / name, place)
    assert {source.repo for source in sources(PAPER.inpainter).values()} == {STABLE_DIFFUSION, CONTROLNETS["inpaint"]}
    pulled_profile(tmp_path / "cache")
    with served(hub, log, lambda path: path.replace("/resolve/main/", "/")) as url:
        environment = os.environ | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1",
                                    "https_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}  # fmt: skip
        done = subprocess.run(pulling(tmp_path), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Licence: CreativeML OpenRAIL-M" in done.stderr
    facts = json.loads(done.stdout)
    assert [line.split(":")[0] for line in facts["failed"]] == ["parser", "segmenter"]  # no network but this one
    folder = tmp_path / "cache" / PIPELINE
    for half in HALF:
        assert (folder / half).read_bytes() == (published / PIPELINE / half).read_bytes()
    assert not list(folder.rglob(".hub"))
    assert verify(find_profile(str(tmp_path / "mine.toml")))[-1].startswith("segmenter")


def test_a_hub_that_cannot_be_reached_is_asked_once(tmp_path):
    pulled_profile(tmp_path / "cache")
    nowhere = "http://127.0.0.1:9"
    environment = os.environ | {"HF_ENDPOINT": nowhere, "HF_HOME": str(tmp_path / "home"), "https_proxy": nowhere,
                                "no_proxy": "127.0.0.1", "HF_HUB_OFFLINE": "1"}  # fmt: skip
    done = subprocess.run(pulling(tmp_path), env=environment, capture_output=True, text=True, check=False)
    failed = json.loads(done.stdout)["failed"]
    assert done.returncode == 1
    assert len(failed) == len(sources(PAPER.inpainter)) + 2
    assert sum("not asked for" in line for line in failed) == len(sources(PAPER.inpainter)) - 1
    assert [line for line in done.stderr.splitlines() if not line.startswith("Licence")] == []


def test_a_digest_covers_what_is_loaded_and_no_caches(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    spec = PartSpec("controlnet", str(folder))
    digests = [weights_digest(spec)]
    for name in (".cache/huggingface/x.json", "README.md", "model.bin", "unet/.hub/file", "model.safetensors.part"):
        copy = tmp_path / name.replace("/", "-")
        shutil.copytree(folder, copy)
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("something")
        digests.append(weights_digest(PartSpec("controlnet", str(copy))))
    assert len(set(digests)) == 1
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    (bare / "config.json").write_text('{"a": 1}')
    assert weights_digest(PartSpec("controlnet", str(bare))) != digests[0]
