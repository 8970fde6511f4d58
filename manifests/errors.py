"""What is wrong with a manifest or a run folder, in one line that says what to do."""


class ManifestError(ValueError):
    """A manifest, plan or items file cannot be used; the text names the row and the column."""
