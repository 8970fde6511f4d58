"""The ablation: the same photos segmented again with one thing changed at a time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline import job as work
from pipeline.job import Job

OBJECTIVES = ("face_recall", "occlusion_rejection", "face_hinge")
FOLDER = "ablation"


@dataclass(frozen=True)
class Variant:
    """One row of the ablation: ``changes`` to settings, by section."""

    name: str
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    per_image: bool = False

    @property
    def folder(self) -> str:
        """Its name as a folder's."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.name).split())


def without(objective: str) -> tuple[str, ...]:
    """The objectives but one."""
    return tuple(name for name in OBJECTIVES if name != objective)


VARIANTS = (
    Variant("trained anew"),
    Variant("without FE", {"segments": {"enhance": False}}),
    Variant("with FE", {"segments": {"enhance": True}}),
    Variant("without the selector", {"segments": {"reweight": False}}),
    *(Variant(f"without {name.replace('_', ' ')}", {"training": {"objectives": without(name)}}) for name in OBJECTIVES),
    Variant("with the mask prompt", {"segments": {"mask_prompt": True}}),
    Variant("without the mask prompt", {"segments": {"mask_prompt": False}}),
    Variant("matching as published", {"segments": {"min_similarity": 0.0, "reach": 1.0}}),
    Variant("decoded face", {"segments": {"target": "face"}}),
    Variant("decoded occlusion", {"segments": {"target": "occlusion"}}),
    Variant("decoded both", {"segments": {"target": "both"}}),
    Variant("edges of the decoder", {"segments": {"edges": "decoder"}}),
    Variant("edges by GrabCut", {"segments": {"edges": "grabcut"}}),
    Variant("one pass", {"references": {"passes": 1}}),
    Variant("two passes", {"references": {"passes": 2}}),
    Variant("three references", {"references": {"seeds": 3}}),
    Variant("per image", per_image=True),
)


def ablate(base: Job, training: Job, on_variant: Callable[[str], None]) -> dict[str, Path]:
    """Train and segment with every variant that differs from the base's own settings.

    Args:
        base: the job whose photos are segmented; its references are taken over where a variant does not change them.
        training: the job whose photos the adapters are trained on, without any mask; may be ``base`` itself.
        on_variant: told the name of each variant before its turn.

    Returns:
        Each variant's run folder, by its name, the unchanged one first.

    Raises:
        ConfigError: a variant could not be trained.
    """
    own = base.config.settings
    runs: dict[str, Path] = {}
    for variant in VARIANTS:
        changed = varied(base, variant)
        if variant.changes and changed.config.settings == own:
            continue  # the base is that variant already
        on_variant(variant.name)
        if changed.config.settings.segments.reweight:
            taught = varied(training, replace(variant, per_image=False), "training")
            work.train(replace(taught, stages=("references", "tokens", "train")))
            changed = replace(changed, config=changed.config.with_checkpoint(taught.run / "checkpoint"))
        stages = ("references", "tokens", "fits", "segments") if variant.per_image else ("references", "segments")
        work.segment(replace(changed, stages=stages))
        runs[variant.name] = changed.run
    return runs


def varied(base: Job, variant: Variant, part: str = "photos") -> Job:
    """The job of one variant, in a folder of its own below the base's."""
    settings = base.config.settings
    for section, changes in variant.changes.items():
        settings = replace(settings, **{section: replace(getattr(settings, section), **changes)})
    settings = replace(settings, segments=replace(settings.segments, per_image=variant.per_image))
    run = base.run / FOLDER / variant.folder / part
    config = replace(base.config, settings=settings)
    if config.fingerprint("references") == base.config.fingerprint("references"):
        borrow(base.run, run, ("references.zarr", "items/references"))
    return replace(base, run=run, config=config)


def borrow(source: Path, run: Path, names: tuple[str, ...]) -> None:
    """Make parts of one run folder visible in another."""
    for name in names:
        there = run / name
        if (source / name).exists() and not there.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            there.symlink_to((source / name).resolve(), target_is_directory=True)
