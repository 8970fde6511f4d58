"""Settings for all tests."""

import atexit
import gc
import logging
import os
from collections.abc import Iterator
from logging.handlers import BufferingHandler

import pytest
from hypothesis import settings

settings.register_profile("s3pot", deadline=None)  # a busy machine makes no example wrong
settings.load_profile("s3pot")

logging.getLogger().addHandler(logging.NullHandler())  # else what nobody listens to is printed among what is told

gc.disable()  # what the tests import is a million objects that stay; looking through them again and again takes seconds


def pytest_collection_finish() -> None:
    """From here on garbage is collected, among what the tests themselves make."""
    gc.freeze()
    gc.set_threshold(20_000, *gc.get_threshold()[1:])  # tensors and tables are few objects
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    """One of several processes has told all that it found when it ends; to put its objects away takes seconds."""
    if hasattr(config, "workerinput"):  # pytest-xdist's; what a process by itself returns says whether all tests passed
        atexit.register(os._exit, 0)


def pytest_unconfigure(config: pytest.Config) -> None:
    """At the end libraries count what nobody has put away."""
    if not hasattr(config, "workerinput"):
        gc.unfreeze()


@pytest.fixture
def logged() -> Iterator[list[logging.LogRecord]]:
    """What the package logs meanwhile; pytest's own way walks through thousands of loggers six times a test."""
    package, handler = logging.getLogger("s3pot_batch"), BufferingHandler(1000)
    package.addHandler(handler)
    yield handler.buffer
    package.removeHandler(handler)
