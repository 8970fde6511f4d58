import json

from s3pot_batch.stages.attempts import Attempts


def test_a_photo_is_left_alone_after_two_deaths(tmp_path):
    path = tmp_path / "items" / "00000.trying"
    for _ in range(2):
        attempts = Attempts(path)
        assert not attempts.hopeless(7)
        attempts.begin(6)
        attempts.begin(7)  # and here the process dies
    attempts = Attempts(path)
    assert attempts.hopeless(7)
    assert not attempts.hopeless(6)
    attempts.begin(8)
    again = Attempts(path)
    assert again.hopeless(7), "what is known of one photo is kept while others are worked on"
    assert again.deaths[8] == 1


def test_nothing_is_left_of_a_shard_that_came_through(tmp_path):
    attempts = Attempts(tmp_path / "x.trying")
    attempts.begin(1)
    attempts.end()
    attempts.end()
    assert not list(tmp_path.iterdir())
    assert Attempts(tmp_path / "x.trying").deaths == {}


def test_a_damaged_note_is_no_death(tmp_path):
    for text in (
        "",
        "{",
        "[]",
        '{"now": null, "deaths": {}}',
        json.dumps({"deaths": {"1": 1}}),
        '{"deaths": 3, "now": 1}',
    ):
        (tmp_path / "x.trying").write_text(text)
        assert Attempts(tmp_path / "x.trying").deaths == {}
