"""Whether settings and models agree: names that a setting may list are known by the model that they are meant for."""

from collections.abc import Collection, Sequence

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.checkpoints import weights_path
from s3pot_batch.stages.models.profiles import PARTS, Profile
from s3pot_batch.stages.models.registry import REGISTRIES, taxonomy_of, token_shape
from s3pot_batch.stages.settings import Settings, TrainingSettings


def check_choices(profile: Profile, settings: Settings) -> None:
    """Check all that can be checked without loading weights.

    Raises:
        ConfigError: a kind of model, a class of the parser or an objective is unknown; the line says what is known.
    """
    for part in PARTS:
        REGISTRIES[part].check(profile.part(part).kind)
    taxonomy = taxonomy_of(profile.parser)
    _known("references.face_classes", settings.references.face_classes, taxonomy.classes)
    _known("references.hidden_classes", settings.references.hidden_classes, taxonomy.classes)
    if not set(settings.training.objectives) <= set(TrainingSettings().objectives):
        from s3pot_batch.stages.method.objectives import known_objectives  # with torch, which takes seconds

        _known("training.objectives", settings.training.objectives, known_objectives())


def check_adapter(profile: Profile) -> None:
    """Make sure that adapter and segmenter fit, before hours of stage one; no weights are read.

    Raises:
        ConfigError: they have different widths, or there is no adapter where the profile names one.
    """
    module, spec = REGISTRIES["adapter"].module(profile.adapter.kind), profile.adapter
    if not spec.weights or not hasattr(module, "width"):
        return
    width, channels = module.width(weights_path(spec)), token_shape(profile.segmenter).channels
    if width != channels:
        raise ConfigError(f"the adapter has {width} channels and the segmenter {channels}; train one")


def _known(setting: str, names: Sequence[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"{setting}: there is no {name}; choose from {', '.join(known)}")
