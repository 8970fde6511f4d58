"""facer's transforms. To import them takes seconds, as facer imports its viewer and all its models: only late."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # it still imports a module that timm has renamed
    from facer import transform

__all__ = ["transform"]
