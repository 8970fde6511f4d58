"""Commands that measure: evaluate, and compose for a benchmark to measure on."""

from dataclasses import replace

import typer

from s3pot_batch.pipeline.cli.common import SOME_FAILED, clear_errors, show, takes
from s3pot_batch.pipeline.options import CompositionOptions, EvaluationOptions, Json

commands = typer.Typer()


@commands.command(epilog="Example: s3pot-batch evaluate --manifest truth.parquet --baselines")
@takes(EvaluationOptions)
def evaluate(options: EvaluationOptions, *, as_json: Json = False) -> None:
    """Compare a run's masks with the manifest's column mask: table, evaluation.parquet, PNG plots."""
    with clear_errors():
        from s3pot_batch.pipeline.evaluation.run import run_evaluation
        from s3pot_batch.pipeline.remote import at_hand

        with at_hand(options.run) as run:
            result, plots = run_evaluation(replace(options, run=run))
        facts = {"summary": result.summary, "skipped": result.skipped, "rows": result.rows.to_pylist(),
                 "unread": list(result.unread), "plots": [str(path) for path in plots]}  # fmt: skip
        show("\n".join([result.table(), *map(str, plots)]), facts, as_json=as_json)
        if result.unread:
            raise typer.Exit(SOME_FAILED)


@commands.command(epilog="Example: s3pot-batch compose --faces faces.parquet --cutouts cutouts --out benchmark")
@takes(CompositionOptions)
def compose(options: CompositionOptions, *, as_json: Json = False) -> None:
    """Build an occlusion benchmark with exact truth from clean faces and cut-outs."""
    with clear_errors():
        from s3pot_batch.pipeline.evaluation.compose import Composition, parse_splits
        from s3pot_batch.pipeline.evaluation.compose import compose as build

        composition = Composition(**{**vars(options), "splits": parse_splits(options.splits)})
        manifest = build(composition)
        facts = {"manifest": str(manifest), "photos": composition.count}
        show(f"{manifest}: {composition.count} photos", facts, as_json=as_json)
