"""What can be added from outside: a module in one of our folders, or an entry point of another package."""

import pkgutil
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from s3pot_batch.stages.errors import ConfigError


@dataclass(frozen=True)
class Plugins:
    """The implementations of one kind of thing, by name, ours first; nothing is imported before it is asked for."""

    what: str
    """What an error calls them, such as ``parser``."""
    group: str
    """Of the entry points."""
    package: str | None = None
    """Our folder: every module in there is one, unless its name begins with an underscore."""

    def ours(self) -> tuple[str, ...]:
        """The modules of our folder."""
        found = pkgutil.iter_modules(import_module(self.package).__path__) if self.package else ()
        return tuple(module.name for module in found if not module.name.startswith("_"))

    def names(self, ours: Collection[str] | None = None) -> tuple[str, ...]:
        """All that there are; ``ours`` are the folder's modules unless given."""
        return tuple(dict.fromkeys((*(self.ours() if ours is None else ours), *self._others())))

    def find(self, name: str) -> object:
        """The module of our folder, or what the entry point of that name names.

        Raises:
            ConfigError: there is none, or it cannot be imported.
        """
        if name in self.ours():  # first: to look through all installed packages takes a while
            return import_module(f"{self.package}.{name}")
        others = self._others()
        if name not in others:
            raise ConfigError(f"there is no {self.what} {name}; known are {', '.join(self.names())}")
        try:
            return others[name].load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{self.what} {name}: {others[name].value} cannot be imported ({error})") from error

    def where(self, name: str) -> str:
        """The module that has it; nothing is imported.

        Raises:
            KeyError: there is none.
        """
        return f"{self.package}.{name}" if name in self.ours() else self._others()[name].module

    def _others(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group)}
