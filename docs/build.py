"""Build the site into build/site, in English and in Chinese: `python docs/build.py`.

Needs no network. Scripts whose executed notebook is in build/course or docs/full are not executed
again. Every warning is an error.
"""

import argparse
import subprocess
import sys
import time

import site_pages

LANGUAGES = {"en": "", "zh_CN": "zh_CN"}  # and the folder of each in the site
SITE = site_pages.ROOT / "build" / "site"


def sphinx(language: str) -> subprocess.Popen:
    """Start Sphinx for one language."""
    build = site_pages.ROOT / "build"
    folders = [site_pages.SOURCE, SITE / LANGUAGES[language]]
    options = ["-W", "--keep-going", "-q", "-c", site_pages.DOCS, "-D", f"language={language}"]
    doctrees = ["-d", build / f"doctrees-{language}"]
    command = [sys.executable, "-m", "sphinx", "-b", "html", *options, *doctrees, *folders]
    return subprocess.Popen([str(each) for each in command])


def main() -> None:
    """Assemble the sources and build each language, beside each other."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--language", choices=LANGUAGES, action="append")
    options = parser.parse_args()
    start = time.perf_counter()
    site_pages.assemble()
    print(f"sources: {time.perf_counter() - start:.0f} s")
    runs = [sphinx(language) for language in options.language or LANGUAGES]
    failed = [run.wait() for run in runs]
    print(f"site: {time.perf_counter() - start:.0f} s, {SITE / 'index.html'}")
    sys.exit(max(failed))


if __name__ == "__main__":
    main()
