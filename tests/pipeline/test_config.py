import tomllib

import pytest

from s3pot_batch.pipeline.config import Config, outdated_stages, resolve, write_run
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.profiles import PartSpec, Profile, find_profile
from s3pot_batch.stages.settings import Settings


@pytest.fixture
def config(tmp_path) -> Config:
    """Five parts with weights of a few bytes: a fingerprint looks at bytes only."""
    specs = []
    for part in ("detector", "parser", "inpainter", "segmenter", "adapter"):
        (tmp_path / part).write_text(part)
        specs.append(PartSpec(part, str(tmp_path / part), options=(("size", 128), ("deep", True))))
    return Config("tiny", Profile("tiny", specs[0], specs[1], specs[2], specs[3], specs[4]), Settings())


def with_settings(config: Config, section: str, **changes: object) -> Config:
    return config.with_settings({section: changes})


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
        ("[references]\nsteps = 0", "references.steps = 0: should be greater than or equal to 1"),
        ("[references]\nsteps = 2.5", "references.steps = 2.5: should be a valid integer"),
        ("[references]\nstrength = 1.5", "references.strength = 1.5: should be less than or equal to 1"),
        ("[references]\nstrength = -0.5", "references.strength = -0.5: should be greater than or equal to 0"),
        ("[references]\nstrength = nan", "references.strength = nan: should be a finite number"),
        ("[references]\nguidance_scale = inf", "references.guidance_scale = inf: should be a finite number"),
        ("[references]\nstrength = true", "references.strength = True: should be a valid number"),
        ("[references]\npasses = 3", "references.passes = 3: should be less than or equal to 2"),
        ("[references]\npasses = true", "references.passes = True: should be a valid integer"),
        ("[segments]\nenhance = 1", "segments.enhance = 1: should be a valid boolean"),
        ("[segments]\ntarget = 'hand'", "segments.target = 'hand': should be 'face', 'occlusion' or 'both'"),
        ("[references]\nface_classes = 'face'", "references.face_classes = 'face': should be a valid tuple"),
        ("[references]\nface_classes = [1]", "references.face_classes.0 = 1: should be a valid string"),
        ("[references]\nface_classes = []", r"references.face_classes = \[\]: .*at least 1 item"),
        ("[references]\nface_classes = ['typo']", "references.face_classes: there is no typo; choose from .*nose"),
        ("[training]\nobjectives = ['typo']", "training.objectives: there is no typo; choose from .*face_hinge"),
        ("faces = 3", r"faces is a section: write \[faces\]"),
        ("seed = -1", "seed = -1: should be greater than or equal to 0"),
        ("seed = 1.5", "seed = 1.5: should be a valid integer"),
        ("seed = true", "seed = True: should be a valid integer"),
        ("seed = ", "cannot be read as TOML"),
        ("profile = 'nobody'", "no profile nobody"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as refused:
        resolve(file=path)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith((f"{path}: ", "no profile"))


@pytest.mark.parametrize("name", ["face", "nose", "llip"])
def test_whole_numbers_are_numbers_and_lists_are_names(tmp_path, name):
    config = resolve(file=written(tmp_path, f"[references]\nstrength = 1\nface_classes = ['{name}']\n"))
    assert repr(config.settings.references.strength) == "1.0"
    assert config.settings.references.face_classes == (name,)


def test_a_setting_that_nobody_gave_is_the_profiles_own(tmp_path):
    config = resolve(file=written(tmp_path, "[faces]\nmax_faces = 2\n"))
    profile = find_profile("embedded")
    assert config.settings == profile.settings.model_copy(
        update={"faces": profile.settings.faces.model_copy(update={"max_faces": 2})}
    )


def test_each_stage_has_its_own_fingerprint(config):
    other = with_settings(config, "segments", threshold=0.7)
    assert other.fingerprint("references") == config.fingerprint("references")
    assert other.fingerprint("train") == config.fingerprint("train")
    assert other.fingerprint("segments") != config.fingerprint("segments")
    seeded = config.with_settings({"seed": 1})
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
    assert outdated_stages(config, run, config.stages("segments")) == {}
    other = with_settings(config, "references", steps=3)
    with pytest.raises(ConfigError, match=r"references.steps \(1 → 3\); use another --run"):
        outdated_stages(other, run, other.stages("references"))
    longer = with_settings(config, "training", epochs=3)
    assert outdated_stages(longer, run, longer.stages("train")) == {}
    stricter = with_settings(config, "segments", threshold=0.75)
    assert outdated_stages(stricter, run, stricter.stages("segments")) == {
        "segments": "segments.threshold (0.5 → 0.75)"
    }


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
