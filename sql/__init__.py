"""One SQL file per table it makes, named for it; readable in any DuckDB client.

A file opens with a header of `--` comments: a description, then lines `-- grain: ...` and
`-- assumes: ...`; it may also describe its columns, `-- column <name> [<unit>]: <meaning>`, and the
settings it reads with `getvariable`, `-- parameter <name>: <meaning>`. A file that needs values
asks for them as `$name`; it is a query to run with them. The files of `macros` are `CREATE MACRO`
statements. Every other file is a view of its name.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

_PARAMETER = re.compile(r"\$([a-z][a-z0-9_]*)")
_COMMENT = re.compile(r"--[^\n]*")
_COLUMN = re.compile(r"^-- column ([a-z][a-z0-9_]*)(?: \[([^\]]+)\])?: (.+)$", re.MULTILINE)
_SETTING = re.compile(r"^-- parameter ([a-z][a-z0-9_]*): (.+)$", re.MULTILINE)
_MACRO = re.compile(r"^CREATE OR REPLACE MACRO (\w+)", re.MULTILINE)
_MACRO_STATEMENT = re.compile(r"^CREATE OR REPLACE MACRO (\w+).*?;$", re.MULTILINE | re.DOTALL)
MACROS = "macros"
"""The group whose files make macros rather than views."""


@dataclass(frozen=True)
class SqlFile:
    """One query.

    Attributes:
        group: its folder.
        name: its file's name, and the view's or table's.
        text: the whole file.
        description: first paragraph of the header.
        grain: what one row is.
        assumptions: what has to hold for the result to mean what it says.
        parameters: names of the values it needs; () for a view.
        columns: meaning and unit ('' for none) of the columns the header describes.
        settings: what it reads with `getvariable`, and what each means.
    """

    group: str
    name: str
    text: str
    description: str
    grain: str
    assumptions: str
    parameters: tuple[str, ...]
    columns: Mapping[str, tuple[str, str]]
    settings: Mapping[str, str]

    def mentions(self, relation: str) -> bool:
        """Whether the query (its comments aside) names a relation."""
        return relation in _names(self.text)


@cache
def _names(text: str) -> frozenset[str]:
    """Every word of a query, its comments aside."""
    return frozenset(re.findall(r"\w+", _COMMENT.sub("", text)))


def _parse(group: str, name: str, text: str) -> SqlFile:
    header: dict[str, list[str]] = {"description": [], "grain": [], "assumes": []}
    field = "description"
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        words = line.removeprefix("--").strip()
        if words.startswith(("column ", "parameter ")):
            continue
        for start in ("grain", "assumes"):
            if words.startswith(f"{start}:"):
                field, words = start, words.removeprefix(f"{start}:").strip()
        header[field].append(words)
    parameters = dict.fromkeys(_PARAMETER.findall(_COMMENT.sub("", text)))
    return SqlFile(
        group,
        name,
        text,
        " ".join(header["description"]).strip(),
        " ".join(header["grain"]).strip(),
        " ".join(header["assumes"]).strip(),
        tuple(parameters),
        {name: (meaning, unit) for name, unit, meaning in _COLUMN.findall(text)},
        dict(_SETTING.findall(text)),
    )


@cache
def load_all() -> Mapping[str, SqlFile]:
    """Every file by `<group>/<name>`, sorted."""
    found = {}
    for folder in resources.files("sql").iterdir():
        if not folder.is_dir():
            continue
        for entry in folder.iterdir():
            if entry.name.endswith(".sql"):
                name = entry.name.removesuffix(".sql")
                found[f"{folder.name}/{name}"] = _parse(
                    folder.name, name, entry.read_text(encoding="utf-8")
                )
    return dict(sorted(found.items()))


def load(name: str) -> SqlFile:
    """One file by `<group>/<name>`.

    Raises:
        KeyError: there is no such file; the message lists those there are.
    """
    files = load_all()
    if name not in files:
        raise KeyError(f"no SQL file {name}; there are {', '.join(files)}")
    return files[name]


@cache
def macros() -> tuple[SqlFile, ...]:
    """The files of `CREATE MACRO` statements, each after those whose macros it uses."""
    files = [file for file in load_all().values() if file.group == MACROS]
    made = {file.name: _MACRO.findall(file.text) for file in files}
    return _ordered(files, lambda file, other: any(map(file.mentions, made[other.name])))


def macro_text() -> str:
    """Every macro as one text, for `.read` in any DuckDB 2.0 client."""
    return "\n".join(file.text.rstrip() + "\n" for file in macros())


def macro_statements(queries: Iterable[str]) -> list[str]:
    """The statements that make the macros some queries use, and those that these use in turn.

    DuckDB checks a macro when it is made, and all of them take a fifth of a second.
    """
    made = [found for file in macros() for found in _MACRO_STATEMENT.finditer(file.text)]
    words = set().union(*(_words(query) for query in queries))
    kept = []
    # A macro comes after those it uses.
    for found in reversed(made):
        if found[1] in words:
            kept.append(found[0])
            words |= _words(found[0])
    return kept[::-1]


def _words(query: str) -> set[str]:
    return set(re.findall(r"\w+", _COMMENT.sub("", query).lower()))


def settings() -> dict[str, str]:
    """Every setting a view reads with `getvariable`, and what it means."""
    return {
        name: meaning for file in load_all().values() for name, meaning in file.settings.items()
    }


def needed_by(query: str, groups: tuple[str, ...]) -> set[str]:
    """Views of some groups that a query names, or that one of those reads in turn."""
    files = {file.name: file for file in views(groups)}
    words = set(re.findall(r"\w+", query.lower()))
    waiting = [name for name in files if name in words]
    found = set(waiting)
    while waiting:
        reader = files[waiting.pop()]
        read = {name for name in files if name not in found and reader.mentions(name)}
        found |= read
        waiting += read
    return found


@cache
def views(groups: tuple[str, ...]) -> tuple[SqlFile, ...]:
    """The parameterless files of some groups, each after those it reads."""
    files = [file for file in load_all().values() if file.group in groups and not file.parameters]
    return _ordered(files, lambda file, other: file.mentions(other.name))


def _ordered(
    files: Sequence[SqlFile], needs: Callable[[SqlFile, SqlFile], bool]
) -> tuple[SqlFile, ...]:
    """Files with each after those it needs."""
    waiting = list(files)
    ordered: list[SqlFile] = []
    while waiting:
        ready = [
            file
            for file in waiting
            if not any(needs(file, other) for other in waiting if other is not file)
        ]
        if not ready:
            names = ", ".join(file.name for file in waiting)
            raise ValueError(f"SQL files need each other: {names}")
        ordered += ready
        waiting = [file for file in waiting if file not in ready]
    return tuple(ordered)
