import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s3pot_batch.stages.method import matching
from s3pot_batch.stages.method.matching import greedy_match


def plain_loop(scores, mask):
    """The authors' way: walk all scores in descending order, ties by the lower flat index."""
    rows, columns = scores.shape
    matched, taken = np.full(rows, -1), np.zeros(columns, bool)
    for flat in np.argsort(-scores.ravel(), kind="stable"):
        row, column = divmod(int(flat), columns)
        if mask[row] and matched[row] < 0 and not taken[column]:
            matched[row], taken[column] = column, True
    return matched


@st.composite
def problems(draw, least=0):
    b, r, n = draw(st.integers(1, 3)), draw(st.integers(least, 9)), draw(st.integers(least, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["random", "tied", "constant", "rank one", "same rows", "zeros", "infinite"]))
    scores = {
        "random": rng.normal(size=(b, r, n)),
        "tied": rng.integers(0, 3, (b, r, n)) / 2 - 0.5,
        "constant": np.full((b, r, n), 0.5),
        "rank one": rng.normal(size=(b, r, 1)) * rng.normal(size=(b, 1, n)),
        "same rows": np.repeat(rng.normal(size=(b, 1, n)), r, 1),
        "zeros": rng.choice([0.0, -0.0], (b, r, n)),
        "infinite": rng.choice([-np.inf, 0.0, np.inf], (b, r, n)),
    }[kind]
    return scores.astype(np.float32), rng.random((b, r)) < draw(st.sampled_from([1.0, 0.6]))


def in_rounds(scores, mask):
    """The way of other devices, on this one."""
    return matching._in_rounds(scores, mask)


def by_proposals(scores, mask):
    """Without the heap."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "_PATIENCE", 0)
        return greedy_match(scores, mask=mask)


def handed_over(scores, mask):
    """A heap that soon leaves the rest to proposals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "_PATIENCE", 1)
        return greedy_match(scores, mask=mask)


WAYS = [lambda scores, mask: greedy_match(scores, mask=mask), handed_over, by_proposals]


@pytest.mark.parametrize("way", WAYS, ids=["as called", "handed over", "by proposals"])
@settings(max_examples=200, deadline=None)
@given(problems())
def test_equals_the_plain_loop(way, problem):
    scores, mask = problem
    found = way(torch.from_numpy(scores), torch.from_numpy(mask)).numpy()
    assert found.dtype == np.int64
    for b in range(len(scores)):
        np.testing.assert_array_equal(found[b], plain_loop(scores[b] + 0.0, mask[b]))


@settings(max_examples=200, deadline=None)
@given(problems(least=1), st.sampled_from([(1, 1), (2, 1), (3, 8), (64, 8)]))
def test_rounds_equal_the_plain_loop(problem, pace):
    scores, mask = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "_AHEAD", pace[0])
        patch.setattr(matching, "_UNCHECKED", pace[1])
        found = in_rounds(torch.from_numpy(scores), torch.from_numpy(mask)).numpy()
    for b in range(len(scores)):
        np.testing.assert_array_equal(found[b], plain_loop(scores[b] + 0.0, mask[b]))


def test_nan_and_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        greedy_match(torch.full((1, 2, 2), torch.nan))
    with pytest.raises(ValueError, match="float32"):
        greedy_match(torch.zeros(1, 2, 2, dtype=torch.bfloat16))


@pytest.mark.parametrize(("rows", "columns"), [(40, 600), (600, 40), (290, 300)])
@pytest.mark.parametrize("kind", ["random", "constant", "rank one", "same rows", "opposed", "bfloat16"])
@pytest.mark.parametrize("way", [*WAYS, in_rounds], ids=["as called", "handed over", "by proposals", "in rounds"])
def test_equals_the_plain_loop_on_larger_scores(way, kind, rows, columns):
    rng = np.random.default_rng(rows)
    scores = {
        "random": lambda: rng.normal(size=(rows, columns)),
        "constant": lambda: np.ones((rows, columns)),
        "rank one": lambda: rng.random((rows, 1)) * rng.random((1, columns)),
        "same rows": lambda: np.repeat(rng.random((1, columns)), rows, 0),
        # The best row of the first column is the last choice of every other one.
        "opposed": lambda: (
            np.where(np.arange(columns), 1, -1) * np.linspace(0, 0.5, rows)[:, None] - np.arange(columns)
        ),
        "bfloat16": lambda: torch.from_numpy(rng.normal(size=(rows, columns))).bfloat16().double().numpy(),
    }[kind]().astype(np.float32)
    found = way(torch.from_numpy(scores)[None], torch.ones(1, rows, dtype=torch.bool))[0].numpy()
    np.testing.assert_array_equal(found, plain_loop(scores, np.ones(rows, bool)))


@pytest.mark.parametrize("way", [*WAYS, in_rounds], ids=["as called", "handed over", "by proposals", "in rounds"])
def test_infinite_scores_are_ordered_too(way):
    scores = np.array([[-np.inf, np.inf, 0], [np.inf, np.inf, -np.inf], [-np.inf, 1, -1]], np.float32)
    found = way(torch.from_numpy(scores)[None], torch.ones(1, 3, dtype=torch.bool))[0].numpy()
    np.testing.assert_array_equal(found, plain_loop(scores, np.ones(3, bool)))


def test_scores_may_be_a_view_and_carry_gradients():
    scores = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0), requires_grad=True).transpose(1, 2)
    assert torch.equal(greedy_match(scores), greedy_match(scores.detach().clone()))


def test_input_is_left_alone():
    scores, mask = torch.arange(20.0).view(1, 5, 4), torch.ones(1, 5, dtype=torch.bool)
    greedy_match(scores, mask=mask)
    assert torch.equal(scores, torch.arange(20.0).view(1, 5, 4))
    assert mask.all()


@pytest.mark.parametrize("mask", [torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 2)])
def test_a_mask_of_another_shape_or_dtype_is_refused(mask):
    with pytest.raises(ValueError, match="mask must be bool"):
        greedy_match(torch.zeros(1, 2, 2), mask=mask)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_answer():
    scores = torch.randn(2, 300, 500, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    assert torch.equal(greedy_match(scores.cuda()).cpu(), greedy_match(scores))
