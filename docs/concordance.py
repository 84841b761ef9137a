"""Write the tables of tutorials/README.md between the notes and the scripts: both directions.

    python docs/concordance.py

tutorials/concordance.tsv has a line for each statement of the notes: note, equation, statement, and
its places, each a script's number and the title of a section, with " / " between two of them.
tutorials/mistakes.tsv has a line for each mistake: note, mistake, what is right, places.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"
README = TUTORIALS / "README.md"
MARKS = "<!-- {} of docs/concordance.py: {} -->"
FOLLOWS = "*follows*"
LISTED = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)


class Row(NamedTuple):
    """A line of a table of the notes, and where the course has it."""

    note: str
    what: str
    statement: str
    places: list[tuple[str, str]]  # number of the script, title of the section


def read(name: str) -> list[Row]:
    """Return the rows of `name`.tsv."""
    lines = (TUTORIALS / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    cells = (line.split("\t") for line in lines)
    return [Row(note, what, text, [*split(places)]) for note, what, text, places in cells]


def split(places: str) -> Iterator[tuple[str, str]]:
    """Yield the number of the script and the section of each place."""
    for place in filter(None, places.split(" / ")):
        number, _, section = place.partition(" ")
        yield number, section


def script(number: str) -> Path | None:
    """Return the script with a number, if there is one."""
    return next(TUTORIALS.glob(f"{number}_*.py"), None)


def sections(path: Path) -> list[str]:
    """Return the titles of a script's sections."""
    return re.findall(r"^# ## (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)


def link(number: str) -> str:
    """Return the number of a script, linked if the script exists."""
    path = script(number)
    return f"[{number}]({path.name})" if path else number


def from_notes(rows: list[Row]) -> str:
    """Return the table from the notes to the scripts."""
    lines = ["| note | there | statement | script and section |", "|---|---|---|---|"]
    for row in rows:
        places = "; ".join(f"{link(number)} {section}" for number, section in row.places)
        lines.append(f"| {row.note} | {row.what} | {row.statement} | {places or FOLLOWS} |")
    return "\n".join(lines)


def from_scripts(rows: list[Row]) -> str:
    """Return the table from the scripts to the notes."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for number, _ in row.places:
            if row.what not in found[number][row.note]:
                found[number][row.note].append(row.what)
    lines = ["| script | what of the notes it has |", "|---|---|"]
    for number in sorted(found):
        notes = ((note, ", ".join(found[number][note])) for note in sorted(found[number]))
        text = "; ".join(f"**{note}** {what}" for note, what in notes)
        lines.append(f"| {link(number)} | {text} |")
    return "\n".join(lines)


def mistakes(rows: list[Row]) -> str:
    """Return the table of mistakes."""
    lines = ["| note | mistake | right | caught in |", "|---|---|---|---|"]
    for row in rows:
        places = ", ".join(link(number) for number, _ in row.places)
        lines.append(f"| {row.note} | {row.what} | {row.statement} | {places or FOLLOWS} |")
    return "\n".join(lines)


def updated(text: str) -> str:
    """Return tutorials/README.md with its tables as the data have them, and its scripts linked."""
    rows = read("concordance")
    tables = {
        "notes": from_notes(rows),
        "scripts": from_scripts(rows),
        "mistakes": mistakes(read("mistakes")),
    }
    for name, table in tables.items():
        begin, end = MARKS.format("begin", name), MARKS.format("end", name)
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}\n\n{table}\n\n{end}{rest.partition(end)[2]}"
    return LISTED.sub(linked, text)


def linked(row: re.Match[str]) -> str:
    """Return the beginning of a row of the table of scripts, with a link once the script exists."""
    name = f"{row[1]}.py"
    return f"| [`{name}`]({name}) |" if (TUTORIALS / name).exists() else row[0]


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
