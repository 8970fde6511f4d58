"""The four kinds of failure, named by who handles them."""


class S3potError(Exception):
    """Base of every error that this project raises on purpose; its text is one line for the user."""


class ConfigError(S3potError):
    """A setting, a path or a file cannot be used. Handled by the command line: one line, exit code 2."""


class ItemError(S3potError):
    """One photo cannot be processed. Handled by the shard loop: the row's status becomes ``failed``."""


class RetryableError(S3potError):
    """A passing failure, such as a device out of memory. Handled by the runner: bounded retries, half the batch."""


class DeviceLost(S3potError):
    """The device fails at everything, as CUDA may. Handled by the scheduler: the process that has it ends."""


class ShardError(S3potError):
    """A whole shard cannot be processed. Handled by the scheduler: other shards go on, exit code 1."""


class DamagedData(ShardError):
    """What an earlier stage wrote for a shard is not there any more as it was. Handled by the job: it is done again."""

    def __init__(self, stage: str, shard: int, reason: str) -> None:
        super().__init__(reason)
        self.stage, self.shard = stage, shard
