"""Builds the documentation as a site, in build/site; a warning, such as a broken link, is an error.

The pages of docs/ are read in a clone too, where they link to sources, README.md and CONTRIBUTING.md. They are copied
to build/docs with links as the site needs them: some of these files are pages there, the text of a link to any other
one stays without the link. `--linkcheck` also asks whether the addresses of other sites answer.
"""

from __future__ import annotations

import argparse
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

from mxnet_trt_property import settings

ROOT = Path(__file__).resolve().parents[1]
PAGES, SITE = ROOT / "build" / "docs", ROOT / "build" / "site"
LINKS = ROOT / "build" / "linkcheck"

# The navigation: names of docs/ without their ending. A page that is not there is left out.
NAVIGATION = {
    "Start": "quick-start faq migration compatibility",
    "Use": "partitioning precision dynamic-shapes caching deployment examples troubleshooting limits",
    "Reference": "operators variables api gpu-verification",
    "Develop": "architecture add-operator engines contributing changelog",
}
# Files outside of docs/ that are pages; the README's place is the first page.
OTHERS = {
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "README.md": "index",
    "examples/README.md": "examples",
}
# An image with a width, which Markdown has no words for.
HTML_IMAGE = re.compile(r"""\[<img src="(?P<source>[^"]+)" alt="(?P<text>[^"]+)" width="(?P<width>\d+)">\]\([^)]+\)""")
# Pages whose tables need the room of the list of headings.
WIDE = ("operators", "gpu-verification", "variables")
LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")


def main() -> int:
    """Builds the site; returns Sphinx's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--linkcheck", action="store_true", help="check links to other sites; builds no pages")
    arguments = parser.parse_args()
    assemble()
    if not arguments.linkcheck:
        shutil.rmtree(SITE, ignore_errors=True)  # no page of an older build stays
    builder = "linkcheck" if arguments.linkcheck else "html"
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--fresh-env", f"--doctree-dir={PAGES}/.doctrees"]
    target = LINKS if arguments.linkcheck else SITE
    command = [sys.executable, "-m", "sphinx", f"--builder={builder}", *options, str(PAGES), str(target)]
    status = subprocess.run(command, check=False, cwd=ROOT).returncode
    if status == 0 and builder == "html":
        print(f"{SITE / 'index.html'}: {len(list(PAGES.glob('*.md')))} pages")
    return status


def assemble() -> None:
    """Writes the pages to build/docs, with one that lists all of them."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES)
    for page in sorted((ROOT / "docs").glob("*.md")):
        (PAGES / page.name).write_text(with_links(page.read_text(encoding="utf-8"), "docs"), encoding="utf-8")
    for source, page in OTHERS.items():
        file = PAGES / f"{page}.md"
        if not file.exists() and (ROOT / source).is_file():
            text = (ROOT / source).read_text(encoding="utf-8")
            file.write_text(with_links(text, posixpath.dirname(source)), encoding="utf-8")
    (PAGES / "variables.md").write_text(_variables(), encoding="utf-8")
    for page in WIDE:
        file = PAGES / f"{page}.md"
        head = "---\nhtml_theme.sidebar_secondary.remove: true\n---\n"
        file.write_text(head + file.read_text(encoding="utf-8"), encoding="utf-8")
    known = {file.stem for file in PAGES.glob("*.md")}
    with (PAGES / "index.md").open("a", encoding="utf-8") as index:
        for caption, names in NAVIGATION.items():
            present = "\n".join(name for name in names.split() if name in known)
            index.write(f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{present}\n```\n")


def _variables() -> str:
    """Returns the page with the table of variables."""
    table = with_links(settings.markdown_table(), "")
    return (
        f"# Variables\n\n`{settings.BACKEND_VARIABLE}={settings.BACKEND}` (or `{settings.OLD_SWITCH}=1`, its name in "
        "MXNet 1.3) turns TensorRT on. The others are read at each use, so a program may set them in mid-run. The same "
        f"names in lower case without `{settings.PREFIX}` are the options of `optimize_for('TensorRT', ...)` and of "
        f"`compile`; an option goes before its variable.\n\n{table}"
    )


def with_links(text: str, folder: str) -> str:
    """Returns the text of a file in `folder` (relative to the project) with its links as the site needs them."""
    text = HTML_IMAGE.sub(r"![\g<text>](\g<source>){width=\g<width>px}", text)
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if part.startswith("```") else LINK.sub(lambda found: _link(found, folder), part) for part in parts
    )


def _link(found: re.Match[str], folder: str) -> str:
    target, _, anchor = found["target"].partition("#")
    if re.match(r"[a-z]+:", target) or not target:
        return found[0]
    path = posixpath.normpath(posixpath.join(folder, target))
    file = ROOT / path
    text = with_links(found["text"], folder)
    if found["image"] and file.is_file():
        copy = PAGES / "images" / file.name
        if not copy.exists():
            shutil.copy(file, copy)
        return f"![{text}](images/{file.name})"
    if path in OTHERS:
        return f"[{text}]({OTHERS[path]}.md{'#' + anchor if anchor else ''})"
    if path.startswith("docs/") or not file.exists():  # of the latter Sphinx says that it is broken
        return f"[{text}]({path[len('docs/') :] if path.startswith('docs/') else path}{'#' + anchor if anchor else ''})"
    return text


if __name__ == "__main__":
    sys.exit(main())
