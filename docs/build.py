"""Build the site into build/site, in English and in Chinese: `python docs/build.py`.

Needs no network. Scripts whose executed notebook is in build/course or docs/full are not executed
again. Every warning is an error.
"""

import argparse
import shutil
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
    """Assemble the sources and build each language, beside each other and the run of the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--language", choices=LANGUAGES, action="append")
    languages = parser.parse_args().language or list(LANGUAGES)
    start = time.perf_counter()
    report = site_pages.report()
    site_pages.assemble()
    print(f"sources: {time.perf_counter() - start:.0f} s")
    runs = [sphinx(language) for language in languages]
    failed = [run.wait() for run in runs]
    add_report(report, languages)
    print(f"site: {time.perf_counter() - start:.0f} s, {SITE / 'index.html'}")
    sys.exit(max(failed))


def add_report(report: subprocess.Popen | None, languages: list[str]) -> None:
    """Put the report into the site of each language, once its run has ended."""
    if report is not None:
        if report.wait():
            sys.exit("the run of the report on the digits has failed")
        site_pages.keep_report()
    for language in languages:
        shutil.copy(site_pages.REPORT, SITE / LANGUAGES[language])


if __name__ == "__main__":
    main()
