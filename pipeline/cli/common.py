"""What all commands do: options, output, errors, exit codes."""

import functools
import inspect
import io
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, get_type_hints

from s3pot_batch.manifests.errors import ManifestError, one_line
from s3pot_batch.pipeline.copies import called
from s3pot_batch.stages.errors import S3potError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SOME_FAILED, USAGE_ERROR, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141

Given = TypeVar("Given", bound="DataclassInstance")
Own = ParamSpec("Own")


def takes(
    options: type[Given], *, without: Collection[str] = (), optional: Mapping[str, Any] = MappingProxyType({})
) -> Callable[[Callable[Concatenate[Given, Own], None]], Callable[..., None]]:
    """Let a command's first parameter be a dataclass whose fields become options, before the command's own.

    Args:
        options: the dataclass; its fields are annotated as typer's options.
        without: fields that this command leaves at their defaults.
        optional: fields that may be left out here, with their annotations; the command fills in what is ``None``.
    """
    hints = {**get_type_hints(options, include_extras=True), **optional}
    shown = [field for field in fields(options) if field.name not in without]
    common = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[field.name],
            default=None if field.name in optional else _default(field),
        )
        for field in shown
    ]  # fmt: skip

    def decorate(command: Callable[Concatenate[Given, Own], None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

        @functools.wraps(command)
        def wrapped(**values: Any) -> None:  # noqa: ANN401
            given = options(**{field.name: values.pop(field.name) for field in shown})
            command(given, **values)  # type: ignore[call-arg]  # ParamSpec cannot say: its own options by name

        parameters = [*common, *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own)]
        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapped

    return decorate


def _default(field: Field[Any]) -> object:
    return inspect.Parameter.empty if field.default is MISSING else field.default


@contextmanager
def clear_errors() -> Iterator[None]:
    """One line for what the user can mend (exit 2), and one for Ctrl-C (exit 130)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may be of any alphabet
    try:
        yield
    except BrokenPipeError:  # such as head, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)
    except (S3potError, ManifestError, OSError) as error:  # OSError: no space, no permission, a file for a folder
        sys.stderr.write(f"Error: {called(one_line(error, most=2000))}\n")
        sys.exit(USAGE_ERROR)
    except MemoryError:
        sys.stderr.write("Error: not enough memory; use fewer --workers, or a smaller --shard-size\n")
        sys.exit(USAGE_ERROR)
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted; run the same command again to go on.\n")
        sys.exit(INTERRUPTED)


def open_streams() -> None:
    """Open what was closed of a process's three streams, to nowhere: else the next file would be in its place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, number)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def show(text: str, facts: Mapping[str, object] | list[object] | list[str], *, as_json: bool) -> None:
    """Print an outcome, for a person or as JSON."""
    print(called(json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) if as_json else text))
