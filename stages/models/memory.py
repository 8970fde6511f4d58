"""Which errors say that memory ran out: torch, CUDA's libraries, ONNX Runtime and the system say it each in its way."""

from s3pot_batch.stages.errors import S3potError

WORDS = ("out of memory", "allocate memory", "alloc_failed", "bad_alloc")
OF_THE_PROCESSOR = "defaultcpuallocator"
"""Whose memory torch lacked."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, other than one of this project, says that memory ran out, of a device or of the machine."""
    if isinstance(error, S3potError):
        return False
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in WORDS)


def device_full(error: BaseException) -> bool:
    """The same of a device's memory alone: a photo may be too large for the machine's."""
    return not isinstance(error, MemoryError) and out_of_memory(error) and OF_THE_PROCESSOR not in str(error).lower()
