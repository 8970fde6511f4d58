"""The ablation: the same photos segmented again with one thing changed at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from s3pot_batch.manifests.plan import Settled
from s3pot_batch.pipeline.job import Job, work
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.method.objectives import OBJECTIVES

BELOW = "ablation"
"""The folder in a run's own that holds the variants' runs."""


@dataclass(frozen=True)
class Variant:
    """One row of the ablation: ``changes`` to settings, by section."""

    name: str
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Its name as a folder's."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.name).split())


def without(objective: str) -> Variant:
    """The objectives but one."""
    others = [name for name in OBJECTIVES if name != objective]
    return Variant(f"without {objective.replace('_', ' ')}", {"training": {"objectives": others}})


VARIANTS = (
    Variant("trained anew"),
    Variant("without FE", {"segments": {"enhance": False}}),
    Variant("with FE", {"segments": {"enhance": True}}),
    Variant("without the adapter", {"segments": {"adapter": False}}),
    *(without(objective) for objective in OBJECTIVES),
    Variant("with the mask prompt", {"segments": {"mask_prompt": True}}),
    Variant("without the mask prompt", {"segments": {"mask_prompt": False}}),
    Variant("matching as published", {"segments": {"min_similarity": 0.0, "reach": 1.0}}),
    Variant("the whole frame", {"segments": {"window": False}}),
    Variant("all points", {"segments": {"prompt_step": 1}}),
    Variant("every fourth point, both ways", {"segments": {"prompt_step": 4}}),
    Variant("decoded face", {"segments": {"target": "face"}}),
    Variant("decoded occlusion", {"segments": {"target": "occlusion"}}),
    Variant("decoded both", {"segments": {"target": "both"}}),
    Variant("without the refiner", {"segments": {"refine": False}}),
    Variant("with the refiner", {"segments": {"refine": True}}),
    Variant("edges of the decoder", {"segments": {"edges": "decoder"}}),
    Variant("edges by GrabCut", {"segments": {"edges": "grabcut"}}),
    Variant("one pass", {"references": {"passes": 1}}),
    Variant("two passes", {"references": {"passes": 2}}),
    Variant("three references", {"references": {"seeds": 3}}),
    Variant("per image", {"segments": {"per_image": True}}),
    Variant("not per image", {"segments": {"per_image": False}}),
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
        ConfigError: a variant could not be trained, or photos have changed since they were segmented.
    """
    if base.stale:
        raise ConfigError(f"{base.run}: photos have changed since they were segmented; run s3pot-batch segment again")
    runs: dict[str, Path] = {}
    for variant in VARIANTS:
        changed = varied(base, variant, "segments")
        if variant.changes and changed.config.settings == base.config.settings:
            continue  # the base is that variant already
        on_variant(variant.name)
        if changed.config.settings.segments.adapter:
            taught = varied(training, variant, "train")
            work(taught)
            changed = replace(changed, config=changed.config.with_checkpoint(taught.run / "checkpoint"))
        work(changed)
        runs[variant.name] = changed.run
    return runs


def varied(base: Job, variant: Variant, target: str) -> Job:
    """The job of one variant towards a stage, in a folder of its own below the base's."""
    run = base.run / BELOW / variant.folder / ("training" if target == "train" else "photos")
    config = base.config.with_settings(variant.changes)
    same = config.fingerprint("references") == base.config.fingerprint("references")
    lender = base.run if same and not (run / "plan.parquet").exists() else None
    return replace(base, run=run, config=config, target=target, settled=Settled(base.plan), lender=lender)
