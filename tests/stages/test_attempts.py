import json
import random

import pytest

from s3pot_batch.stages.attempts import HOPELESS, Attempts


def dies_at(path, photo):
    """An attempt whose process dies at this photo."""
    Attempts(path).begin(photo)


def fails_at(path, photo, error):
    with Attempts(path) as attempts:
        attempts.begin(photo)
        raise error


def works(path, photos, deadly):
    """An attempt as a stage makes it, with others first; the photo that its process dies at, if it does."""
    attempts = Attempts(path)
    order = [*(one for one in photos if one not in attempts.suspects), *sorted(attempts.suspects)]
    for photo in (one for one in order if one not in attempts.left_alone):
        attempts.begin(photo)
        if deadly(photo):
            return photo
        attempts.came_through(photo)
    return None


def test_a_photo_that_never_comes_through_is_left_alone(tmp_path):
    path = tmp_path / "items" / "00000.trying"
    for _ in range(HOPELESS):
        assert Attempts(path).left_alone == set()
        assert works(path, range(9), {6}.__contains__) == 6
    assert Attempts(path).left_alone == {6}


@pytest.mark.parametrize("deadly", [{0, 1}, {3, 7}, {2, 5, 8}])
def test_several_of_them_in_a_shard_are_found_one_after_the_other(tmp_path, deadly):
    deaths = 0
    while works(tmp_path / "x.trying", range(9), deadly.__contains__) is not None:
        deaths += 1
    assert Attempts(tmp_path / "x.trying").left_alone == deadly
    assert deaths == HOPELESS * len(deadly)


def test_a_suspect_comes_last_and_is_one_no_more_once_it_came_through(tmp_path):
    works(tmp_path / "x.trying", range(4), {1}.__contains__)
    assert Attempts(tmp_path / "x.trying").suspects == {1}
    order: list[int] = []
    works(tmp_path / "x.trying", range(4), order.append)
    assert order == [0, 2, 3, 1]
    attempts = Attempts(tmp_path / "x.trying")
    attempts.came_through(1)
    attempts.begin(9)
    assert Attempts(tmp_path / "x.trying").suspects == {9}


def test_of_a_batch_each_photo_is_a_suspect(tmp_path):
    attempts = Attempts(tmp_path / "x.trying")
    attempts.begin(3, 4, 5)
    assert Attempts(tmp_path / "x.trying").suspects == {3, 4, 5}


def test_a_death_at_a_photo_that_came_through_before_is_chance_and_so_may_be_the_others(tmp_path):
    for _ in range(HOPELESS - 1):
        assert works(tmp_path / "x.trying", range(4), {1}.__contains__) == 1
    assert works(tmp_path / "x.trying", range(4), {2}.__contains__) == 2
    assert Attempts(tmp_path / "x.trying").suspects == set()
    for _ in range(3 * HOPELESS):
        assert works(tmp_path / "x.trying", range(4), {2}.__contains__) == 2
    assert Attempts(tmp_path / "x.trying").left_alone == set()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_deaths_by_chance_are_nobodys_fault_however_often_they_come(tmp_path, share):
    """Each of a shard's 16 photos is a death with that probability."""
    rng = random.Random(0)
    for _ in range(100):
        works(tmp_path / "x.trying", range(16), lambda _photo: rng.random() < share)
    assert Attempts(tmp_path / "x.trying").left_alone == set()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_is_no_death(tmp_path, error):
    path = tmp_path / "x.trying"
    for _ in range(2 * HOPELESS):
        with pytest.raises(error):
            fails_at(path, 1, error)  # such as a device out of memory, which is tried again
    assert Attempts(path).left_alone == set()
    for _ in range(HOPELESS):
        dies_at(path, 1)
    with pytest.raises(error):
        fails_at(path, 2, error)
    assert Attempts(path).left_alone == {1}


def test_nothing_is_left_of_a_shard_that_came_through(tmp_path):
    for _ in range(HOPELESS):
        dies_at(tmp_path / "x.trying", 1)
    with Attempts(tmp_path / "x.trying") as attempts:
        attempts.begin(2)
    assert not list(tmp_path.iterdir())


EMPTY: dict[str, object] = {"now": [], "left_alone": [], "harmless": [], "deaths": {}}
DAMAGED = ["", "{", "[]", "3", '{"now": null}', '{"now": [1]}', '{"now": 7, "deaths": 2, "left_alone": [7]}',
           json.dumps({**EMPTY, "now": ["x"]}), json.dumps({**EMPTY, "deaths": 9, "left_alone": [1]}),
           json.dumps({**EMPTY, "deaths": {"1": "x"}})]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_note_is_no_death(tmp_path, text):
    (tmp_path / "x.trying").write_text(text)
    attempts = Attempts(tmp_path / "x.trying")
    assert (attempts.left_alone, attempts.suspects) == (set(), set())
