"""What a profile in TOML takes over from its base, and what belonged to the base's own weights."""

import pytest
import torch

from s3pot_batch.stages.choices import check_adapter
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.adapters.attention import AttentionAdapter, save, untrained
from s3pot_batch.stages.models.profiles import EMBEDDED, PAPER, PartSpec, find_profile
from s3pot_batch.stages.models.registry import ADAPTERS, Models
from s3pot_batch.stages.settings import FaceSettings, SegmentSettings, TrainingSettings

EMBEDDED_WIDTH = 128


@pytest.fixture
def profile(tmp_path):
    def read(text):
        (tmp_path / "mine.toml").write_text(text)
        return find_profile(str(tmp_path / "mine.toml"))

    return read


@pytest.mark.parametrize("part", ["weights = 'farl.pt'", "kind = 'facer'\nweights = 'farl.pt'"])
def test_published_weights_do_not_get_the_options_of_the_embedded_ones(profile, part):
    assert profile(f"[parser]\n{part}\n").parser == PartSpec("facer", "farl.pt")
    assert profile("[parser]\nkind = 'facer'\n").parser == EMBEDDED.parser
    both = profile("[inpainter]\nweights = 'mine'\noptions = {condition = ['inpaint', 'ade']}\n")
    assert both.inpainter.options == (("condition", ("inpaint", "ade")),)


def test_a_published_file_at_another_path_is_loaded_as_the_base_says(profile):
    mine = profile("base = 'paper'\n[segmenter]\nweights = '/data/sam_vit_h_4b8939.pth'\n")
    assert mine.segmenter.options == PAPER.segmenter.options
    assert mine.settings == PAPER.settings


def test_another_segmenter_does_not_get_what_was_tuned_to_ours(profile):
    mine = profile("[segmenter]\nkind = 'sam_vit'\nweights = 'sam.pth'\noptions = {size = 'vit_b'}\n")
    assert mine.settings.segments == SegmentSettings() != EMBEDDED.settings.segments
    assert mine.settings.training == TrainingSettings() != EMBEDDED.settings.training
    assert mine.settings.faces == EMBEDDED.settings.faces
    assert mine.adapter == PartSpec("attention")
    named = profile("[segmenter]\nweights = 'sam.pth'\n[adapter]\nweights = 'mine'\n")
    assert named.adapter.weights == "mine"
    assert profile("[segmenter]\ndtype = 'float32'\n").settings == EMBEDDED.settings


def test_another_parser_is_not_held_to_the_embedded_ones_sureness_and_not_taken_for_amodal(profile):
    mine = profile("[parser]\nweights = 'farl.pt'\n").settings
    assert mine.faces.min_parse_confidence == FaceSettings().min_parse_confidence
    assert mine.references.complete
    assert not EMBEDDED.settings.references.complete
    assert mine.segments == EMBEDDED.settings.segments


def test_another_inpainter_draws_as_a_published_one_does(profile):
    mine = profile("[inpainter]\nweights = 'sd'\n").settings
    assert (mine.references.steps, mine.references.guidance_scale) == (20, 7.5)
    assert mine.references.complete == EMBEDDED.settings.references.complete
    assert mine.segments == EMBEDDED.settings.segments
    assert profile("[inpainter]\ndtype = 'float32'\n").settings == EMBEDDED.settings


class TestAdapters:
    def test_without_weights_it_is_untrained_and_the_same_every_time(self, profile):
        mine = profile(f"[adapter]\nweights = ''\n[segmenter]\nkind = '{EMBEDDED.segmenter.kind}'\n")
        adapter = Models(mine).adapter
        prompts = torch.randn(1, 5, EMBEDDED_WIDTH)
        expected = untrained(Models(EMBEDDED).segmenter).eval()(prompts)
        torch.testing.assert_close(adapter(prompts), expected)
        assert Models(mine).adapter is adapter
        check_adapter(mine)

    def test_one_that_is_missing_has_to_be_trained_not_pulled(self):
        with pytest.raises(ConfigError, match=r"/nowhere: no adapter there; make one with: s3pot-batch train"):
            ADAPTERS.load(PartSpec("attention", "/nowhere"), "cpu")

    def test_one_of_another_width_is_refused_without_reading_weights(self, profile, tmp_path):
        save(tmp_path / "narrow", AttentionAdapter(32), {}, "card")
        (tmp_path / "narrow" / "model.safetensors").unlink()
        with pytest.raises(ConfigError, match=f"has 32 channels and the segmenter {EMBEDDED_WIDTH}; train one"):
            check_adapter(profile(f"[adapter]\nweights = '{tmp_path / 'narrow'}'\n"))
        (tmp_path / "narrow" / "config.json").write_text("{}")
        with pytest.raises(ConfigError, match="not an adapter"):
            check_adapter(profile(f"[adapter]\nweights = '{tmp_path / 'narrow'}'\n"))
        check_adapter(EMBEDDED)
