"""Settings for all tests."""

from hypothesis import settings

settings.register_profile("s3pot", deadline=None)  # a busy machine makes no example wrong
settings.load_profile("s3pot")
