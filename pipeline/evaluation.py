"""Evaluating a run: its own answer, baselines on the same references, and the ablation's runs, in one table."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from manifests.plan import read_plan
from pipeline.config import CONFIG
from pipeline.devices import DeviceChoice
from pipeline.job import Job, Options, open_job
from stages.evaluation.evaluate import OURS, EvaluationResult, evaluate


@dataclass(frozen=True)
class EvaluationOptions:
    """What the command line says about an evaluation."""

    manifest: Path
    run: Path
    group: str | None = None
    baselines: bool = False
    ablate: bool = False
    training: Path | None = None
    device: DeviceChoice = "auto"
    workers: int | None = None


def run_evaluation(options: EvaluationOptions) -> tuple[EvaluationResult, list[Path]]:
    """Measure, and write ``evaluation.parquet``, ``evaluation.json`` and two plots into the run folder.

    Raises:
        ConfigError: no answer, no ground truth, or an ablation that cannot be trained.
    """
    runs, others = {OURS: options.run}, None
    evaluate(options.manifest, runs, group=options.group)  # what is wrong is said before any work
    if options.baselines:
        from stages.evaluation.baselines import baseline_answers

        job = _job(options, options.manifest, options.run)
        others = baseline_answers(options.run, job.config.context("segments", device="cpu", batch_size=1))
    if options.ablate:
        from pipeline.ablation import ablate

        base = _job(options, options.manifest, options.run)
        training = base
        if options.training:
            training = _job(options, options.training, options.run / "ablation" / "training", options.run)
        runs |= ablate(base, training, lambda name: _note(f"ablation: {name}"))
    result = evaluate(options.manifest, runs, group=options.group, others=others)
    result.write(options.run)
    from stages.evaluation.plots import draw_plots

    return result, draw_plots(result.summary, result.rows.to_pylist(), options.run)


def _note(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _job(options: EvaluationOptions, manifest: Path, run: Path, settings: Path | None = None) -> Job:
    """The job that made a run, with the run's own settings; or the same settings on other photos."""
    work = Options(manifest, run, config=(settings or run) / CONFIG, device=options.device, workers=options.workers)
    if (run / "plan.parquet").exists():
        plan = read_plan(run)
        work = replace(work, limit=len(plan.items), shard_size=plan.shard_size)
    return open_job(work, "references", "segments")
