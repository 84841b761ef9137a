"""What of a page is translated: a page that has a catalogue must be translated whole."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from babel.messages.catalog import Message
from babel.messages.pofile import read_po
from sphinx.util import logging

LOCALE = Path(__file__).parent / "locale"
WORDLESS = re.compile(r"`[^`]*`|\$[^$]*\$|\]\([^)]*\)|\{\w+\}|[^A-Za-z]|\b[A-Za-z]\b")
logger = logging.getLogger(__name__)


def path_of(language: str, page: str) -> Path:
    """Return where the catalogue of a page is."""
    return LOCALE / language / "LC_MESSAGES" / f"{page}.po"


def is_wordless(message: str) -> bool:
    """Whether a message is the same in every language: code, equations, numbers."""
    equation = "\\" in message and "$" not in message and "`" not in message
    return equation or not WORDLESS.sub("", message)


@cache
def translated(path: Path) -> frozenset[str]:
    """Return the messages of a catalogue with a translation that is certain."""
    return frozenset(each.id for each in certain(path))


def certain(path: Path) -> list[Message]:
    """Return the entries of a catalogue that are translated and not marked as fuzzy."""
    with path.open("rb") as file:
        entries = [*read_po(file, charset="utf-8")]
    return [each for each in entries if each.id and each.string and not each.fuzzy]


def check(app: Any, document: Any) -> None:
    """Warn of messages without a translation: Sphinx's event doctree-read."""
    path = path_of(app.config.language, app.env.docname)
    if not path.exists() or app.builder.name == "gettext":
        return
    # Sphinx leaves the mark on an image's text, though it is translated with its paragraph.
    known = translated(path) | {each.string for each in certain(path)}
    for node in document.findall(
        lambda node: getattr(node, "attributes", {}).get("translated") is False
    ):
        message = " ".join((node.rawsource or node.astext()).split())
        if not is_wordless(message) and message not in known:
            logger.warning(f"not translated: {message!r}", location=app.env.docname)
