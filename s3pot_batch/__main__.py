"""``python -m s3pot_batch`` is the command line."""

from s3pot_batch.pipeline.cli import main

main()
