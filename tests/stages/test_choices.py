"""Names that settings may list are checked against the models that they are meant for, before any work."""

from dataclasses import replace
from typing import Any

import pytest

from s3pot_batch.stages.choices import check_choices
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.profiles import EMBEDDED, PAPER, PARTS, PartSpec
from s3pot_batch.stages.settings import changed


@pytest.mark.parametrize(
    ("section", "name", "known"),
    [
        ("references", "face_classes", "background, neck, face, .*eyeg"),
        ("references", "hidden_classes", "background, neck, face, .*eyeg"),
        ("training", "objectives", "face_recall, occlusion_rejection, face_hinge"),
    ],
)
def test_a_typo_is_refused_with_what_is_known(section, name, known):
    good = getattr(getattr(EMBEDDED.settings, section), name)
    settings = changed(EMBEDDED.settings, {section: {name: [*good, "typo"]}})
    with pytest.raises(ConfigError, match=f"^{section}.{name}: there is no typo; choose from {known}") as caught:
        check_choices(EMBEDDED, settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", PARTS)
def test_an_unknown_kind_of_model_is_refused(part):
    parts: dict[str, Any] = {part: PartSpec("typo")}
    profile = replace(EMBEDDED, **parts)
    with pytest.raises(ConfigError, match=f"there is no {part} typo; known are"):
        check_choices(profile, EMBEDDED.settings)


def test_nothing_is_loaded_for_that():
    check_choices(EMBEDDED, EMBEDDED.settings)
    check_choices(PAPER, PAPER.settings)  # its weights are not there


@pytest.mark.usefixtures("toy_parts")
def test_names_are_those_of_the_profiles_own_parser_and_of_all_packages():
    profile = replace(EMBEDDED, parser=PartSpec("two_classes"))
    with pytest.raises(ConfigError, match=r"references.face_classes: there is no face; choose from around, skin$"):
        check_choices(profile, EMBEDDED.settings)
    own = {
        "references": {"face_classes": ["skin"], "hidden_classes": []},
        "training": {"objectives": ["softer_rejection"]},
    }
    check_choices(profile, changed(EMBEDDED.settings, own))
