"""The refiner's recipe: its samples are what the pipeline makes of a face, and nothing outside of M teaches it."""

import json

import numpy as np
import pytest
import torch

from recipes.refiner import RefinerRecipe, Samples, doubted, refiner_loss, train
from recipes.refiner_samples import Drawn, Pipeline, write_samples
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.refiners.unet import build
from tests.portraits import MARKS, occluded, portrait


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two samples to train on, a bar before a mouth and a bare face, and the same held out."""
    folder, pipeline, alpha = tmp_path_factory.mktemp("samples"), Pipeline(), np.zeros((256, 256), np.float32)
    alpha[(occluded() != portrait()).any(axis=2)] = 1
    drawn = [(occluded(), alpha), (portrait(), 0 * alpha)]
    samples = pipeline([Drawn(one, np.ones((256, 256), bool), MARKS, hidden) for one, hidden in drawn], 0)
    for name in ("train-1-00000", "held-1-00000"):
        write_samples(folder / f"{name}.npz", samples)
    return folder


def test_a_sample_is_what_the_pipeline_makes_of_a_face(folder):
    samples = Samples(folder)
    one, truth = samples.decision(0), samples.truth(0) > 0.5
    assert len(samples) == 2
    assert (one.photo == occluded()).all()
    hidden, there = one.occlusion > 0.5, truth & one.region
    assert (hidden & there).sum() / (hidden | there).sum() > 0.5  # the decoder found it
    assert not one.occlusion[~one.region].any()
    changed = np.abs(one.reference.astype(float) - one.photo).mean(axis=2)
    assert changed[there].mean() > 2 * changed[one.region & ~truth].mean()  # and the reference shows a face there


def test_it_is_trained_and_measured_beside_grabcut(folder, tmp_path):
    recipe = RefinerRecipe(
        data=tmp_path, work=tmp_path, out=tmp_path, samples=folder, steps=1, batch=2, measured=2, workers=0
    )
    train(recipe)
    build(tmp_path / "refiner", "cpu")
    metrics = json.loads((tmp_path / "refiner.json").read_text())["metrics"]
    assert set(metrics) == {
        f"{what}_{who}" for what in ("iou", "bare_marked") for who in ("refiner", "decoder", "grabcut")
    }
    assert metrics["iou_grabcut"] > 0.5


def test_nothing_outside_of_the_region_teaches_it():
    found = torch.zeros(1, 8, 8, requires_grad=True)
    truth, region = torch.ones(1, 8, 8), torch.zeros(1, 8, 8)
    region[:, 2:6, 2:6] = 1
    torch.stack(list(refiner_loss(found, truth, region).values())).sum().backward()
    assert ((found.grad != 0) == (region > 0)).all()
    assert (found.grad <= 0).all()  # towards the truth


def test_a_doubted_answer_stays_a_probability_inside_the_region(folder):
    one, rng = Samples(folder).decision(0), np.random.default_rng(0)
    drawn = [doubted(rng, one.occlusion, one.region) for _ in range(20)]
    assert all(p.min() >= 0 and p.max() <= 1 and not p[~one.region].any() for p in drawn)
    assert len({p.tobytes() for p in drawn}) > 10


def test_no_samples_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no samples; draw them with: python -m recipes\.refiner_samples"):
        Samples(tmp_path)
