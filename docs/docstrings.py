"""The library's docstrings, which are plain text in Google style, as reStructuredText.

p(x | z) is no substitution and q* no emphasis there, `name` is code, and an indented formula keeps
its lines.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

SECTION = re.compile(r"(Args|Returns|Yields|Raises|Attributes|Example|Examples|Note|Notes):$")
CODE = re.compile(r"(``[^`]+``|`[^`]+`)")
SPECIAL = re.compile(r"([*|\\]|(?<=\w)_(?=\W|$))")


def to_restructured_text(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Change the lines of a docstring in place: Sphinx's event autodoc-process-docstring."""
    lines[:] = with_literal_formulas([*escaped(lines)])


def escaped(lines: list[str]) -> Iterator[str]:
    """Yield the lines with special characters escaped, but for the examples."""
    example = False
    for line in lines:
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        yield line if example else escape(line)


def escape(line: str) -> str:
    """Return a line of plain text that reStructuredText reads as it stands."""
    bullet, text = re.match(r"(\s*(?:\* )?)(.*)", line).groups()
    parts = CODE.split(text)
    return bullet + "".join(
        f"``{part.strip('`')}``" if CODE.fullmatch(part) else SPECIAL.sub(r"\\\1", part)
        for part in parts
    )


def with_literal_formulas(lines: list[str]) -> list[str]:
    """Return the lines with `::` before an indented block that belongs to no section."""
    result, section = lines[:1], False
    for before, line in pairwise(lines):
        if line and not line.startswith(" "):
            section = bool(SECTION.match(line))
        if line.startswith("    ") and not before.strip() and not section and not literal(result):
            result += ["::", ""]
        result.append(line.replace("\\", "") if literal(result) and line.startswith(" ") else line)
    return result


def literal(lines: list[str]) -> bool:
    """Whether the last line that is not indented opens a literal block."""
    open_ = next((line for line in reversed(lines) if line and not line.startswith(" ")), "")
    return open_.endswith("::")
