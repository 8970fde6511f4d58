import hashlib

import pytest

from s3pot_batch.manifests.fingerprint import difference, fingerprint


def test_order_does_not_matter_and_values_do() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2.5}}) == fingerprint({"b": {"c": 2.5}, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint({"a": "1"}) != fingerprint({"a": 1})


def test_it_is_the_sha256_of_canonical_json() -> None:
    expected = hashlib.sha256(b'{"a":[1,2],"b":0.1}').hexdigest()
    assert fingerprint({"b": 0.1, "a": (1, 2)}) == expected


@pytest.mark.parametrize(("value", "error"), [(float("nan"), ValueError), ({1}, TypeError)])
def test_values_without_one_canonical_form_are_refused(value: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        fingerprint({"a": value})


def test_differences_are_named_with_both_values() -> None:
    old = {"a": {"b": 1, "same": 0}, "gone": 0}
    assert difference(old, {"a": {"b": 2, "same": 0}, "new": "x"}) == [
        "a.b (1 → 2)", "gone (0 → absent)", 'new (absent → "x")',
    ]  # fmt: skip
    assert difference(old, old) == []
