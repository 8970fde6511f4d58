import json

import pytest

from s3pot_batch.stages.attempts import HOPELESS, Attempts


def dies_at(path, *photos):
    """An attempt whose process dies at the last of these photos."""
    attempts = Attempts(path)
    for photo in photos:
        attempts.begin(photo)


def fails_at(path, photo, error):
    with Attempts(path) as attempts:
        attempts.begin(photo)
        raise error


def test_a_photo_is_left_alone_after_deaths_in_a_row(tmp_path):
    path = tmp_path / "items" / "00000.trying"
    for _ in range(HOPELESS):
        assert Attempts(path).left_alone == set()
        dies_at(path, 6, 7)
    assert Attempts(path).left_alone == {7}
    for _ in range(HOPELESS):
        dies_at(path, 6, 8)
    assert Attempts(path).left_alone == {7, 8}, "what was given up stays so"


def test_deaths_at_changing_photos_are_nobodys_fault(tmp_path):
    for _ in range(3 * HOPELESS):
        dies_at(tmp_path / "x.trying", 1)
        dies_at(tmp_path / "x.trying", 1, 2)
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


DAMAGED = ["", "{", "[]", "3", '{"now": null}', '{"now": 1}', json.dumps({"now": "x", "deaths": 9, "left_alone": []})]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_note_is_no_death(tmp_path, text):
    (tmp_path / "x.trying").write_text(text)
    attempts = Attempts(tmp_path / "x.trying")
    assert (attempts.left_alone, attempts.deaths) == (set(), 0)
