"""The sources of the site, put together in build/source for Sphinx to read.

The pages of docs/, README and its neighbours, the course with its outputs, the reference and the
report of a run. A file whose content is as before is left alone, so that Sphinx reads it once.
"""

import base64
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import course
import nbformat
import reference
from nbformat import NotebookNode

ROOT = course.ROOT
DOCS = ROOT / "docs"
SOURCE = ROOT / "build" / "source"
RUN = ROOT / "build" / "runs" / "digits"
REPORT = ROOT / "build" / "run_on_digits.html"  # the report of this run, served as it is
REPORT_KEY = REPORT.with_name("report.key")  # of the library that wrote it

_MATHJAX = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax"
MATHJAX = ROOT / "build" / "mathjax"

TEXTS = {"README.md": "readme", "CHANGELOG.md": "changelog", "CONTRIBUTING.md": "contributing"}
LINKS = {
    "docs/coming_from_scvi_tools.md": "coming_from_scvi_tools.md",
    "docs/limits.md": "limits.md",
    "docs/measured.md": "measured.md",
    "docs/mnist.png": "mnist.png",
    "tutorials/README.md": "course/index.md",
    **{name: f"{page}.md" for name, page in TEXTS.items()},
}
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
# In both languages here, so that a page needs no other translation after another run.
SHOWN = {
    "full": {
        "en": "The outputs are those of a run on the full data.",
        "zh": "本页的输出来自在完整数据上的一次运行。",
    },
    "quick": {
        "en": "The outputs are those of a quick run on small data.",
        "zh": "本页的输出来自在小数据上的一次快速运行。",
    },
    "none": {
        "en": "This script has not been run for these pages.",
        "zh": "本页的脚本尚未运行。",
    },
}
PACKAGES = {"pyrovae.singlecell": "cells", "anndata": "cells", "NeuralSpline": "flows"}


def assemble(outputs: bool = True) -> None:
    """Write all sources, and remove what is no longer one.

    Args:
        outputs: Without them nothing is executed: the texts are all that translators need.
    """
    pages = {**own_pages(), **texts(), **course_pages(outputs), **reference_pages()}
    for name, content in pages.items():
        put(SOURCE / name, content)
    for path in [*SOURCE.rglob("*")]:
        if path.is_file() and path.relative_to(SOURCE).as_posix() not in pages:
            path.unlink()
    if outputs:
        mathjax()


def put(path: Path, content: bytes) -> None:
    """Write a file, unless it has this content."""
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


# ------------------------------------------------------------------------------------- the texts


def own_pages() -> dict[str, bytes]:
    """Return the pages and pictures of docs/."""
    found = [
        *DOCS.glob("*.md"),
        *DOCS.glob("*.png"),
        *DOCS.glob("howto/*"),
        *DOCS.glob("reference/*"),
    ]
    return {path.relative_to(DOCS).as_posix(): path.read_bytes() for path in found}


def texts() -> dict[str, bytes]:
    """Return README and its neighbours, with links that hold in the site."""
    pages = {f"{page}.md": linked((ROOT / name).read_text(), "") for name, page in TEXTS.items()}
    index = (course.TUTORIALS / "README.md").read_text()
    pages["course/index.md"] = with_gallery(linked(index, "tutorials")) + contents()
    return {name: text.encode() for name, text in pages.items()}


def linked(text: str, folder: str) -> str:
    """Return a text whose links lead to pages of the site.

    Args:
        text: Markdown with links relative to `folder`.
        folder: "" for the root of the repository, or "tutorials".
    """

    def replaced(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if "://" in target:
            return match[0]
        path = (ROOT / folder / target).resolve().relative_to(ROOT).as_posix()
        to = LINKS.get(path) or re.sub(r"^tutorials/(.*)\.py$", r"course/\1.ipynb", path)
        return f"](/{to}{anchor})"

    return LINK.sub(replaced, text)


def numbered() -> list[Path]:
    """Return the scripts of the course without the answers: mini_vae, then by their numbers."""
    scripts = [path for path in course.scripts() if path.parent == course.TUTORIALS]
    return sorted(scripts, key=lambda path: (path.stem[0].isdigit(), path.stem))


def contents() -> str:
    """Return the table of contents of the course."""
    names = [path.stem for path in numbered()]
    lines = ["", "```{toctree}", ":hidden:", ":maxdepth: 1", "", *names, "```", ""]
    return "\n".join(lines)


def with_gallery(text: str) -> str:
    """Return the index of the course with a picture of each script before its table."""
    cards = [
        f"[![](pictures/{path.stem}.png) {title(path)}]({path.stem}.ipynb)" for path in numbered()
    ]
    gallery = "\n\n".join([":::{container} gallery", *cards, ":::"])
    return text.replace("## The scripts\n", f"## The scripts\n\n{gallery}\n", 1)


def title(script: Path) -> str:
    """Return the title of a script."""
    return course.convert(script).cells[0].source.partition("\n")[0].removeprefix("# ")


def thumbnail(run: NotebookNode | None) -> bytes | None:
    """Return the middle picture of a run, or None if it has none."""
    found = course.pngs(run) if run else []
    return base64.b64decode(found[len(found) // 2]) if found else None


def run_shown(script: Path) -> NotebookNode | None:
    """Return the run whose outputs the page of a script has: the full one if there is one."""
    if course.is_old(script):
        return None
    return course.full_run(script) or course.quick_run(script)


# ------------------------------------------------------------------------------------ the course


def course_pages(outputs: bool = True) -> dict[str, bytes]:
    """Return a page, and a notebook and a script to download, for each script."""
    pages = {}
    for script in course.scripts():
        path, run = course.place(script, Path("course")), run_shown(script) if outputs else None
        pages[path.as_posix()] = written(page(script, run))
        pages[f"downloads/{path.relative_to('course')}"] = written(download(script))
        pages[f"downloads/{script.relative_to(course.TUTORIALS)}"] = script.read_bytes()
        if picture := thumbnail(run):
            pages[f"course/pictures/{script.stem}.png"] = picture
    return pages


def written(notebook: NotebookNode) -> bytes:
    """Return the file of a notebook."""
    return (nbformat.writes(notebook) + "\n").encode()


def page(script: Path, run: NotebookNode | None) -> NotebookNode:
    """Return the page of a script: its text, code and outputs under a line on the run shown."""
    notebook = run or course.convert(script)
    heading, _, rest = notebook.cells[0].source.partition("\n")
    notebook.cells[0].source = f"{heading}\n\n{about(script, notebook)}\n\n{rest.strip()}"
    if text := below(script):
        notebook.cells.append(nbformat.v4.new_markdown_cell(text, id="below"))
    notebook.metadata = nbformat.from_dict({"kernelspec": notebook.metadata.kernelspec})
    return notebook


def about(script: Path, notebook: NotebookNode) -> str:
    """Return which run a page shows, and the links to the notebook and the script."""
    run = notebook.metadata.get("pyrovae", {"mode": "none", "date": ""})
    up = "../" * len(script.relative_to(course.TUTORIALS).parts)
    path = f"{up}downloads/{script.relative_to(course.TUTORIALS).with_suffix('')}"
    links = f"{{download}}`Notebook <{path}.ipynb>` · {{download}}`Script <{path}.py>`"
    says = "".join(
        f'<span lang="{lang}">{text}</span>' for lang, text in SHOWN[run["mode"]].items()
    )
    date = f'<time datetime="{run["date"]}">{run["date"]}</time>'
    html = f"```{{raw}} html\n<p class='shown'>{says}</p>{date}\n```"
    return f":::{{container}} run\n{html}\n\n{links}\n:::"


def below(script: Path) -> str:
    """Return the link from a script to its answers, or from answers to their script."""
    if script.parent.name == "answers":
        return f"[Back to the script](../{script.stem}.ipynb)"
    if not (course.TUTORIALS / "answers" / script.name).exists():
        return ""
    name = f"answers/{script.stem}"
    return f"[Answers to the exercises]({name}.ipynb)\n\n```{{toctree}}\n:hidden:\n\n{name}\n```"


def download(script: Path) -> NotebookNode:
    """Return the notebook to download: a cell that installs, then the script."""
    notebook, text = course.convert(script), script.read_text()
    extras = sorted({extra for word, extra in PACKAGES.items() if word in text})
    name = f"'pyrovae[{','.join(extras)}]'" if extras else "pyrovae"
    lines = [
        f"%pip install {name}",
        "import os",
        'os.environ["PYROVAE_QUICK"] = "1"  # small data; delete this line for the full data',
    ]
    cell = nbformat.v4.new_code_cell("\n".join(lines), id="install")
    notebook.cells.insert(1, cell)
    return notebook


# ----------------------------------------------------------------------------- what is generated


def reference_pages() -> dict[str, bytes]:
    """Return the pages of the reference, and what the command line says of itself."""
    pages = {f"reference/{name}.md": text.encode() for name, text in reference.pages().items()}
    pages["reference/command.md"] = reference.command().encode()
    return pages


def mathjax() -> None:
    """Copy the one bundle and the fonts of MathJax that the pages need."""
    fonts = "output/chtml/fonts"
    if not (MATHJAX / "mathjax" / fonts).exists():
        shutil.copytree(_MATHJAX / fonts, MATHJAX / "mathjax" / fonts)
        shutil.copy(_MATHJAX / "tex-chtml.js", MATHJAX / "mathjax" / "tex-chtml.js")


def report() -> subprocess.Popen | None:
    """Start a short run on the digits, whose report the site shows, unless nothing has changed."""
    if REPORT.exists() and REPORT_KEY.exists() and REPORT_KEY.read_text() == course.library():
        return None
    call = "from pyrovae.command.cli import main; main()"
    options = ["--output", str(RUN), "--epochs", "10", "--overwrite", "--quiet"]
    return subprocess.Popen([sys.executable, "-c", call, "fit", "digits", *options], cwd=ROOT)


def keep_report() -> None:
    """Keep the report of the run that has ended."""
    put(REPORT, (RUN / "report.html").read_bytes())
    put(REPORT_KEY, course.library().encode())
