"""What of a page is translated: a page that has a catalogue must be translated whole."""

import re
from functools import cache
from pathlib import Path
from typing import Any

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
    return not WORDLESS.sub("", message)


@cache
def translated(path: Path) -> frozenset[str]:
    """Return the messages of a catalogue that have a translation, and no uncertain one."""
    with path.open("rb") as file:
        messages = [*read_po(file, charset="utf-8")]
    return frozenset(each.id for each in messages if each.id and each.string and not each.fuzzy)


def check(app: Any, document: Any) -> None:
    """Warn of messages without a translation: Sphinx's event doctree-read."""
    path = path_of(app.config.language, app.env.docname)
    if not path.exists() or app.builder.name == "gettext":
        return
    for node in document.findall(
        lambda node: getattr(node, "attributes", {}).get("translated") is False
    ):
        message = " ".join((node.rawsource or node.astext()).split())
        if not is_wordless(message) and message not in translated(path):
            logger.warning(f"not translated: {message!r}", location=app.env.docname)
