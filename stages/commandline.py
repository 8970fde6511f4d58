"""A recipe's command line, from its main function's parameters."""

import argparse
import inspect
from collections.abc import Callable
from pathlib import Path


def run(*commands: Callable[..., None]) -> None:
    """Parse the options of one command, or of several by name, and call it.

    A parameter becomes ``--name`` of its default's type; without a default it is a path and required.
    """
    parser = argparse.ArgumentParser()
    names = parser.add_subparsers(required=True) if len(commands) > 1 else None
    for command in commands:
        options = names.add_parser(command.__name__, description=command.__doc__) if names else parser
        options.set_defaults(command=command)
        for name, parameter in inspect.signature(command).parameters.items():
            required = parameter.default is inspect.Parameter.empty
            kind = Path if required or parameter.default is None else type(parameter.default)
            options.add_argument(
                f"--{name}", type=kind, required=required, default=None if required else parameter.default
            )
    values = vars(parser.parse_args())
    values.pop("command")(**values)
