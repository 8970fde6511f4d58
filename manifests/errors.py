"""What is wrong with a manifest or a run folder, in one line that says what to do."""


def one_line(error: BaseException, most: int = 300) -> str:
    """What an error says, in one line of at most so many characters; its kind if it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__


class ManifestError(ValueError):
    """A manifest, plan or items file cannot be used; the text names the row and the column."""


class DamagedOutcomes(ManifestError):
    """What a stage has written down of a shard's photos is damaged, or is of other photos. It is done again."""

    def __init__(self, stage: str, shard: int, reason: str) -> None:
        super().__init__(reason)
        self.stage, self.shard = stage, shard
