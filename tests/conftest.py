"""Settings for all tests."""

import gc

from hypothesis import settings

settings.register_profile("s3pot", deadline=None)  # a busy machine makes no example wrong
settings.load_profile("s3pot")

gc.disable()  # what the tests import is a million objects that stay; looking through them again and again takes seconds


def pytest_collection_finish() -> None:
    """From here on garbage is collected, among what the tests themselves make."""
    gc.freeze()
    gc.set_threshold(20_000, *gc.get_threshold()[1:])  # tensors and tables are few objects
    gc.enable()


def pytest_unconfigure() -> None:
    """At the end libraries count what nobody has put away."""
    gc.unfreeze()
