import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.segmentation import matching
from stages.segmentation.matching import greedy_match


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
def problems(draw):
    b, r, n = draw(st.integers(1, 3)), draw(st.integers(0, 9)), draw(st.integers(0, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["random", "tied", "constant", "rank one", "zeros"]))
    scores = {
        "random": rng.normal(size=(b, r, n)),
        "tied": rng.integers(0, 3, (b, r, n)) / 2 - 0.5,
        "constant": np.full((b, r, n), 0.5),
        "rank one": rng.normal(size=(b, r, 1)) * rng.normal(size=(b, 1, n)),
        "zeros": rng.choice([0.0, -0.0], (b, r, n)),
    }[kind]
    return scores.astype(np.float32), rng.random((b, r)) < draw(st.sampled_from([1.0, 0.6]))


@settings(max_examples=300, deadline=None)
@given(problems())
def test_equals_the_plain_loop(problem):
    scores, mask = problem
    found = greedy_match(torch.from_numpy(scores), mask=torch.from_numpy(mask)).numpy()
    for b in range(len(scores)):
        expected = plain_loop(scores[b] + 0.0, mask[b])
        np.testing.assert_array_equal(found[b], expected)


def test_nan_and_other_dtypes_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        greedy_match(torch.full((1, 2, 2), torch.nan))
    with pytest.raises(ValueError, match="float32"):
        greedy_match(torch.zeros(1, 2, 2, dtype=torch.bfloat16))


@settings(max_examples=100, deadline=None)
@given(problems(), st.sampled_from([1, 2, 3]))
def test_rows_that_used_up_their_list_come_back_for_more_columns(problem, listed):
    scores, mask = problem
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "_LISTED", listed)
        found = greedy_match(torch.from_numpy(scores), mask=torch.from_numpy(mask)).numpy()
    for b in range(len(scores)):
        np.testing.assert_array_equal(found[b], plain_loop(scores[b] + 0.0, mask[b]))


@pytest.mark.parametrize(("rows", "columns"), [(40, 600), (600, 40), (590, 600)])
@pytest.mark.parametrize("kind", ["random", "constant", "rank one", "bfloat16"])
def test_equals_the_plain_loop_beyond_one_list(kind, rows, columns):
    rng = np.random.default_rng(rows)
    scores = {
        "random": lambda: rng.normal(size=(rows, columns)),
        "constant": lambda: np.ones((rows, columns)),
        "rank one": lambda: rng.random((rows, 1)) * rng.random((1, columns)),
        "bfloat16": lambda: torch.from_numpy(rng.normal(size=(rows, columns))).bfloat16().double().numpy(),
    }[kind]().astype(np.float32)
    found = greedy_match(torch.from_numpy(scores)[None])[0].numpy()
    np.testing.assert_array_equal(found, plain_loop(scores, np.ones(rows, bool)))


def test_infinite_scores_are_ordered_too():
    scores = np.array([[-np.inf, np.inf, 0], [np.inf, np.inf, -np.inf], [-np.inf, 1, -1]], np.float32)
    found = greedy_match(torch.from_numpy(scores)[None])[0].numpy()
    np.testing.assert_array_equal(found, plain_loop(scores, np.ones(3, bool)))


def test_input_is_left_alone():
    scores, mask = torch.arange(20.0).view(1, 5, 4), torch.ones(1, 5, dtype=torch.bool)
    greedy_match(scores, mask=mask)
    assert torch.equal(scores, torch.arange(20.0).view(1, 5, 4))
    assert mask.all()


@pytest.mark.parametrize("mask", [torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 2)])
def test_a_mask_of_another_shape_or_dtype_is_refused(mask):
    with pytest.raises(ValueError, match="mask must be bool"):
        greedy_match(torch.zeros(1, 2, 2), mask=mask)
