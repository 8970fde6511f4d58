"""Evaluating a run: its own answer, baselines on the same references, and the ablation's runs, in one table."""

import sys
from dataclasses import replace
from pathlib import Path

from s3pot_batch.manifests.plan import read_plan
from s3pot_batch.pipeline.config import CONFIG
from s3pot_batch.pipeline.devices import cpu_cores, placement, settle_threads, visible_gpus
from s3pot_batch.pipeline.evaluation.evaluate import OURS, Answer, EvaluationResult, evaluate
from s3pot_batch.pipeline.job import Job, open_job, run_folder
from s3pot_batch.pipeline.options import EvaluationOptions, Options


def run_evaluation(options: EvaluationOptions) -> tuple[EvaluationResult, list[Path]]:
    """Measure, and write ``evaluation.parquet``, ``evaluation.json`` and two plots into the run folder.

    Raises:
        ConfigError: no answer, no ground truth, or an ablation that cannot be trained.
    """
    run = run_folder(options.manifest, options.run)
    runs, others = {OURS: run}, None
    evaluate(options.manifest, runs, group=options.group)  # what is wrong is said before any work
    if options.baselines:
        others = _baselines(_job(options, options.manifest, run))
    if options.ablate:
        from s3pot_batch.pipeline.evaluation.ablation import BELOW, ablate

        base = training = _job(options, options.manifest, run)
        if options.training:
            training = _job(options, options.training, run / BELOW / "training", run)
        runs |= ablate(base, training, lambda name: _note(f"ablation: {name}"))
    result = evaluate(options.manifest, runs, group=options.group, others=others)
    result.write(run)
    from s3pot_batch.pipeline.evaluation.plots import draw_plots

    return result, draw_plots(result.summary, result.rows.to_pylist(), run)


def _baselines(job: Job) -> dict[str, dict[int, Answer]]:
    """The baselines' answers for a run, with its own models and settings."""
    from s3pot_batch.pipeline.evaluation.baselines import baseline_answers, baselines
    from s3pot_batch.stages.models.registry import Models, taxonomy_of

    profile, classes = job.config.profile, job.config.settings.references.face_classes
    gpus = () if job.options.device == "cpu" else visible_gpus()
    [place] = placement(job.options.device, workers=1, shards=1, gpus=gpus, cores=cpu_cores())
    settle_threads(place.device)
    methods = baselines(Models(profile, place.device).segmenter, taxonomy_of(profile.parser), classes)
    return baseline_answers(job.run, methods)


def _note(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _job(options: EvaluationOptions, manifest: Path, run: Path, settings: Path | None = None) -> Job:
    """The job that made a run, with the run's own settings; or the same settings on other photos."""
    work = Options(manifest, run, config=(settings or run) / CONFIG, device=options.device, workers=options.workers)
    if (run / "plan.parquet").exists():
        plan = read_plan(run)
        work = replace(work, limit=plan.photos, shard_size=plan.shard_size)
    return open_job(work, "segments")
