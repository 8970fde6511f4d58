"""The shipped models, and a public-domain portrait."""

import pytest

from examples.demo_photos import load_portrait
from s3pot_batch.stages.models.profiles import EMBEDDED
from s3pot_batch.stages.models.registry import Models


@pytest.fixture(scope="session")
def shipped():
    return Models(EMBEDDED)


@pytest.fixture(scope="session")
def astronaut():
    return load_portrait("astronaut")
