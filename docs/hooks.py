"""What mkdocs is told beside the documents: the references, made of the settings and the commands while it builds."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer
from mkdocs.structure.files import File, Files

from s3pot_batch.pipeline.cli import app
from s3pot_batch.stages.base import STAGES, Stage
from s3pot_batch.stages.models.profiles import DEFAULT, find_profile
from s3pot_batch.stages.settings import Bound, Section, Settings

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from pydantic.fields import FieldInfo

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")
"""A link to a file that is no document."""
SETTINGS = """# Settings

Every setting is a field of `stages/settings.py`; this page is made of them. Write those that you change into a TOML
file, a table per section, and give it to a command with `--config`. Where the default
profile, `embedded`, has another value, it stands beside; other [profiles](paper.md) have their own, and a run folder's
`config.toml` shows what was used.

*Redoes* names the stages whose results change with the setting. *Everything* includes `references`, stage one, which
costs most: another value needs another `--run`. `train`, and `fits` of `--per-image`, count only where you train, and
so does what follows from them. *Nothing* is a limit of reading: it decides which photos are read.
"""
COMMANDS = """# Commands

Made of what each command says of itself with `--help`. `python -m s3pot_batch` is the same as `s3pot-batch`.

Exit codes: 0 every row ok or no_face; 1 finished, some rows failed; 2 usage or configuration; 130 interrupted (run it
again to go on).
"""


def on_files(files: Files, config: "MkDocsConfig") -> Files:
    """Add the references to the documents."""
    files.append(File.generated(config, "settings.md", content=settings_page()))
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Name files of the repository instead of linking them: the site has documents only."""
    return OUTSIDE.sub(r"\1", markdown)


def on_post_page(output: str, **_: object) -> str:
    """Give the theme's search a name that is read aloud."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')


def settings_page() -> str:
    """Every setting: default, what is allowed, which stages it redoes, and what it does."""
    lines = [SETTINGS, *_table("seed", {"seed": Settings.model_fields["seed"]}, Settings().model_dump())]
    for name, section in Settings():
        if isinstance(section, Section):
            title = f"## `[{name}]`\n\n{_plain(type(section).__doc__)}\n"
            lines += [title, *_table(name, type(section).model_fields, section.model_dump())]
    return "\n".join(lines)


def _table(section: str, fields: "dict[str, FieldInfo]", values: dict[str, Any]) -> Iterator[str]:
    """A section's settings; ``section`` is ``seed`` for the one setting that stands in none."""
    profile = find_profile(DEFAULT).settings
    yield "| setting | default | allowed | redoes | what it does |\n|---|---|---|---|---|"
    for name, field in fields.items():
        dotted = name if name == section else f"{section}.{name}"
        redone = "nothing" if Bound in field.metadata else _named(redone_by(dotted))
        value, allowed = f"`{_toml(values[name])}`", _allowed(section, name)
        if name != section and (own := getattr(getattr(profile, section), name)) != values[name]:
            value += f"; `{DEFAULT}`: `{_toml(own)}`"
        yield f"| `{name}` | {value} | {allowed} | {redone} | {_plain(field.description)} |"
    yield ""


def _named(stages: list[str]) -> str:
    return "everything" if len(stages) == len(STAGES) else ", ".join(f"`{stage}`" for stage in stages)


def redone_by(setting: str) -> list[str]:
    """The stages whose results change with a setting, by dotted name, those that need such a stage included."""
    found = list[str]()
    for stage in STAGES:
        own = {setting, setting.partition(".")[0]} & set(stage.settings)
        if own or set(_needs(stage)) & set(found):
            found.append(stage.name)
    return found


def _needs(stage: Stage) -> tuple[str, ...]:
    return (*stage.needs, *(name for _, name in stage.needs_if))


def _allowed(section: str, name: str) -> str:
    """What a setting may be, as pydantic's own schema says."""
    schema = Settings.model_json_schema()
    kind = schema if name == section else schema["$defs"][type(getattr(Settings(), section)).__name__]
    found = kind["properties"][name]
    if "enum" in found:
        return ", ".join(f"`{value}`" for value in found["enum"])
    words = {"boolean": "`true`, `false`", "number": "number", "integer": "whole number", "string": "text",
             "array": "names" + (", at least one" if found.get("minItems") else "")}  # fmt: skip
    signs = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
    return ", ".join([words[found["type"]], *(f"{sign} {found[key]:g}" for key, sign in signs.items() if key in found)])


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _plain(text: str | None) -> str:
    """Text as one line of a table."""
    return " ".join((text or "").split()).replace("|", r"\|")


def commands_page() -> str:
    """Every command with its arguments and options."""
    return "\n".join([COMMANDS, *_commands(typer.main.get_command(app), ())])


def _commands(group: Any, above: tuple[str, ...]) -> Iterator[str]:  # noqa: ANN401  (typer's copy of click has no types)
    for name, command in group.commands.items():
        path = (*above, name)
        yield f"## `{' '.join(path)}`\n\n{_plain(command.help)}\n"
        if hasattr(command, "commands"):
            yield from _commands(command, path)
            continue
        yield f"```sh\n{(command.epilog or '').removeprefix('Example: ')}\n```\n"
        yield "| option | what it says |\n|---|---|"
        context = command.make_context(name, [], resilient_parsing=True)
        for option, said in filter(None, (one.get_help_record(context) for one in command.params)):
            yield f"| `{_plain(option)}` | {_plain(said).replace('<', '&lt;')} |"
        yield ""
