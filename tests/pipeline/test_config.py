import tomllib
from dataclasses import replace

import pytest

from pipeline.config import Config, check_run, resolve, write_run
from stages.errors import ConfigError
from stages.models.profiles import PartSpec, Profile
from stages.settings import Settings


@pytest.fixture
def config(tmp_path) -> Config:
    """Five parts with weights of a few bytes: a fingerprint looks at bytes only."""
    specs = []
    for part in ("detector", "parser", "inpainter", "segmenter", "adapter"):
        (tmp_path / part).write_text(part)
        specs.append(PartSpec(part, str(tmp_path / part), options=(("size", 128), ("deep", True))))
    return Config("tiny", Profile("tiny", *specs), Settings())


def with_settings(config: Config, section: str, **changes: object) -> Config:
    changed = replace(getattr(config.settings, section), **changes)
    return replace(config, settings=replace(config.settings, **{section: changed}))


def written(tmp_path, text: str):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return path


def test_file_over_defaults_and_command_line_over_both(tmp_path):
    path = written(tmp_path, "profile = 'paper'\nseed = 7\n[references]\nsteps = 4\nface_classes = ['face', 'nose']\n")
    config = resolve(file=path, seed=9)
    assert (config.profile.name, config.settings.seed, config.settings.references.steps) == ("paper", 9, 4)
    assert config.settings.references.face_classes == ("face", "nose")
    assert resolve(file=path, profile="embedded").profile.name == "embedded"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed = 1", "unknown key sed; known are profile, seed, faces"),
        ("[references]\nstep = 1", r"unknown key references.step; known are .*steps"),
        ("[references]\nsteps = 0", r"references.steps = 0: must be 1 or more"),
        ("[references]\nsteps = 2.5", r"references.steps = 2.5 is not of type int"),
        ("[references]\nstrength = 1.5", "must be from 0 to 1"),
        ("[references]\nstrength = nan", "must be from 0 to 1"),
        ("[references]\npasses = 3", "choose one of 1, 2"),
        ("[references]\npasses = true", "choose one of 1, 2"),
        ("[segments]\ntarget = 'hand'", "choose one of 'face', 'occlusion'"),
        ("[references]\nface_classes = 'face'", "is not a list of text"),
        ("faces = 3", r"write \[faces\]"),
        ("seed = -1", "not a whole number"),
        ("seed = ", "cannot be read as TOML"),
        ("profile = 'nobody'", "no profile nobody"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        resolve(file=written(tmp_path, text))


def test_each_stage_has_its_own_fingerprint(config):
    other = with_settings(config, "segments", threshold=0.7)
    assert other.fingerprint("references") == config.fingerprint("references")
    assert other.fingerprint("train") == config.fingerprint("train")
    assert other.fingerprint("segments") != config.fingerprint("segments")
    seeded = replace(config, settings=replace(config.settings, seed=1))
    assert all(seeded.fingerprint(stage) != config.fingerprint(stage) for stage in ("references", "train", "segments"))


def test_a_checkpoint_is_known_by_its_bytes_not_its_place(config, tmp_path):
    prints = []
    for name, content in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(content)
        prints.append(config.with_checkpoint(tmp_path / name).fingerprint("segments"))
    assert prints[0] == prints[1] != prints[2]
    with pytest.raises(ConfigError, match="no checkpoint there"):
        config.with_checkpoint(tmp_path / "nowhere")


def test_a_run_folder_keeps_to_its_settings(config, tmp_path):
    run = tmp_path / "run"
    write_run(config, run, ("references", "segments"))
    check_run(config, run, ("references", "segments"))
    other = with_settings(config, "references", steps=3)
    with pytest.raises(ConfigError, match=r"references.steps \(1 → 3\); use another --run"):
        check_run(other, run, ("references",))
    check_run(with_settings(config, "training", epochs=3), run, ("references", "train"))


def test_the_written_config_repeats_the_run(config, tmp_path):
    run = tmp_path / "run"
    trained = with_settings(config, "training", epochs=3)
    write_run(trained, run, ("references", "train"))
    write_run(config, run, ("references", "segments"))
    content = tomllib.loads((run / "config.toml").read_text())
    assert content["training"]["epochs"] == 3
    assert content["fingerprints"] == {
        "references": config.fingerprint("references"),
        "train": trained.fingerprint("train"),
        "segments": config.fingerprint("segments"),
    }
    assert resolve(file=run / "config.toml", profile="embedded").settings == trained.settings
