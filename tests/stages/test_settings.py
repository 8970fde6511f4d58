"""Settings: ranges, and errors of one line that name file, key and what is allowed."""

import pickle
from typing import get_args

import pytest
from pydantic import ValidationError

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.profiles import PROFILES
from s3pot_batch.stages.settings import SECTIONS, SegmentSettings, Settings, changed, values_of


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sed": 1}, "unknown key sed; known are faces, references, segments, training, seed"),
        ({"references": {"step": 1}}, "unknown key references.step; known are face_classes, .*steps"),
        ({"references": {"steps": 0}}, "references.steps = 0: should be greater than or equal to 1"),
        ({"references": {"steps": 2.5}}, "references.steps = 2.5: should be a valid integer"),
        ({"references": {"steps": True}}, "references.steps = True: should be a valid integer"),
        ({"references": {"steps": "4"}}, "references.steps = '4': should be a valid integer"),
        ({"references": {"strength": 1.5}}, "references.strength = 1.5: should be less than or equal to 1"),
        ({"references": {"strength": -0.1}}, "references.strength = -0.1: should be greater than or equal to 0"),
        ({"references": {"strength": float("nan")}}, "references.strength = nan: should be a finite number"),
        (
            {"references": {"guidance_scale": float("inf")}},
            "references.guidance_scale = inf: should be a finite number",
        ),
        ({"references": {"strength": True}}, "references.strength = True: should be a valid number"),
        ({"references": {"passes": 3}}, "references.passes = 3: should be less than or equal to 2"),
        ({"references": {"passes": True}}, "references.passes = True: should be a valid integer"),
        ({"references": {"face_classes": "face"}}, "references.face_classes = 'face': should be a valid tuple"),
        ({"references": {"face_classes": []}}, r"references.face_classes = \[\]: .*at least 1 item"),
        ({"references": {"face_classes": ["face", 3]}}, "references.face_classes.1 = 3: should be a valid string"),
        ({"segments": {"target": "hand"}}, "segments.target = 'hand': should be 'face', 'occlusion' or 'both'"),
        ({"segments": {"edges": None}}, "segments.edges = None: should be 'decoder' or 'grabcut'"),
        ({"segments": {"per_image": "yes"}}, "segments.per_image = 'yes': should be a valid boolean"),
        ({"segments": {"per_image": 1}}, "segments.per_image = 1: should be a valid boolean"),
        ({"training": {"min_delta": -1.0}}, "training.min_delta = -1.0: should be greater than or equal to 0"),
        ({"faces": 3}, r"faces is a section: write \[faces\] with its settings below"),
        ({"seed": -1}, "seed = -1: should be greater than or equal to 0"),
        ({"seed": 1.0}, "seed = 1.0: should be a valid integer"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(changes, words):
    with pytest.raises(ConfigError, match=f"^run.toml: {words}") as caught:
        changed(Settings(), changes, "run.toml")
    assert "\n" not in str(caught.value)


def test_what_is_not_named_stays():
    found = changed(Settings(), {"segments": {"threshold": 0.6}, "seed": 3})
    assert (found.segments.threshold, found.seed) == (0.6, 3)
    assert found.segments == SegmentSettings(threshold=0.6)
    assert (found.faces, found.references, found.training) == (
        Settings().faces, Settings().references, Settings().training,
    )  # fmt: skip
    assert Settings().segments.threshold == 0.5
    assert changed(found, {}) == found


def test_what_toml_writes_is_taken():
    found = changed(Settings(), {"segments": {"threshold": 1}, "references": {"face_classes": ["face", "nose"]}})
    assert found.references.face_classes == ("face", "nose")
    assert (found.segments.threshold, type(found.segments.threshold)) == (1.0, float)  # one value, one fingerprint


def test_settings_are_frozen_and_cross_a_wire():
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.seed = 2  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        settings.faces.frame = 128  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301
    assert hash(settings) == hash(Settings())


def test_a_bound_changes_no_result_and_no_fingerprint():
    wider = changed(Settings(), {"faces": {"max_pixels": 7, "max_bytes": 8, "max_seconds": 9.0}})
    assert values_of(wider, ("faces",)) == values_of(Settings(), ("faces",))
    assert values_of(wider, ("faces.max_pixels",)) == {"faces": {"max_pixels": 7}}
    assert values_of(changed(Settings(), {"faces": {"frame": 64}}), ("faces",)) != values_of(Settings(), ("faces",))


def test_values_are_asked_for_by_section_or_by_name():
    settings = changed(Settings(), {"seed": 7})
    found = values_of(settings, ("seed", "segments.target", "segments.reach", "training.tokens"))
    assert found == {
        "seed": 7, "segments": {"target": "face", "reach": 1.0}, "training": {"tokens": "float16"},
    }  # fmt: skip
    whole = values_of(settings, ("references",))
    assert whole["references"]["face_classes"][:2] == ["face", "rb"]  # JSON's types
    assert set(whole["references"]) == set(type(settings.references).model_fields)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_says_what_it_does(section):
    for name, field in type(getattr(Settings(), section)).model_fields.items():
        assert field.description, f"{section}.{name}"


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profiles_settings_are_allowed(profile):
    settings = PROFILES[profile].settings
    assert changed(settings, {}) == settings


def test_choices_are_in_one_place():
    assert get_args(SegmentSettings.model_fields["edges"].annotation) == ("decoder", "grabcut")
