"""Bring the message catalogues of docs/locale up to date with the texts.

    python docs/catalogues.py            # for every language that has a folder in docs/locale
    python docs/catalogues.py --status   # how much of each page is translated

A translator runs the first, fills in the empty `msgstr` of one file after the other, deletes the
lines `#, fuzzy` (a message that changed keeps its old translation under this mark), and looks at
the result with `python docs/build.py --language zh_CN`. docs/glossary.md has the terms.

Nothing is executed for this. Messages that no text has any more are dropped; the files have no
dates and no line numbers, and messages stand in the order of the text. The reference is not
translated.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import site_pages
import translation
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

LOCALE = translation.LOCALE
TEMPLATES = site_pages.ROOT / "build" / "templates"
LANGUAGES = ["zh_CN"]
NOT_TRANSLATED = ("glossary", "changelog", "contributing", "sphinx")
HEADER = """msgid ""
msgstr ""
"Language: {language}\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=utf-8\\n"
"Content-Transfer-Encoding: 8bit\\n"

"""


def extract() -> None:
    """Write a template with the messages of each page to build/templates."""
    folders = [site_pages.SOURCE, TEMPLATES]
    settings = ["-c", site_pages.DOCS, "-D", "exclude_patterns=reference/[!i]*,downloads"]
    options = ["-Q", *settings, "-d", TEMPLATES.with_name("doctrees-templates")]
    command = [sys.executable, "-m", "sphinx", "-b", "gettext", *options, *folders]
    subprocess.run([str(each) for each in command], check=True)


def pages() -> list[str]:
    """Return the pages that are translated."""
    found = (path.relative_to(TEMPLATES).with_suffix("") for path in TEMPLATES.rglob("*.pot"))
    return sorted(page.as_posix() for page in found if not str(page).startswith(NOT_TRANSLATED))


def read(path: Path, language: str | None = None) -> Catalog:
    """Return the catalogue of a file, or an empty one."""
    if not path.exists():
        return Catalog(locale=language)
    with path.open("rb") as file:
        return read_po(file, locale=language, charset="utf-8")


def update(language: str, page: str) -> None:
    """Write the catalogue of a page with the messages that the page now has."""
    template = read(TEMPLATES / f"{page}.pot")
    catalogue = read(translation.path_of(language, page), language)
    catalogue.update(template)
    for message in catalogue:
        uncertain = message.fuzzy or not message.string
        if message.id and uncertain and translation.is_wordless(message.id):
            message.string = message.id
            message.flags.discard("fuzzy")
    write(catalogue, translation.path_of(language, page), language)


def write(catalogue: Catalog, path: Path, language: str) -> None:
    """Write a catalogue, without what changes from day to day."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        write_po(file, catalogue, width=0, omit_header=True, ignore_obsolete=True, no_location=True)
    text = re.sub(r"^#[.:|].*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    path.write_text(HEADER.format(language=language) + text.strip() + "\n", encoding="utf-8")


def missing(path: Path) -> list[str]:
    """Return the messages of a catalogue that have no translation, or an uncertain one."""
    return [
        each.id for each in read(path) if each.id and each.id not in translation.translated(path)
    ]


def main() -> None:
    """Update the catalogues, or say how far they are."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pages", nargs="*", help="only these, such as howto/cells")
    parser.add_argument("--status", action="store_true")
    options = parser.parse_args()
    if options.status:
        for path in sorted(LOCALE.rglob("*.po")):
            print(f"{len(missing(path)):5} missing   {path.relative_to(LOCALE)}")
        return
    site_pages.assemble(outputs=False)
    extract()
    for page in options.pages or pages():
        for language in LANGUAGES:
            update(language, page)


if __name__ == "__main__":
    main()
