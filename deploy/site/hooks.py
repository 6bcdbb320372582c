# SPDX-License-Identifier: MIT
"""hooks: what mkdocs does not do by itself to build the site from the tree as it is.

- Every README of the tree is a page at its own path, so that the links between them hold as they are.
- A link to any other file of the tree leads to a page with its text ("source/..."), or to the picture; a link to a
  folder is text, since a site has no folders.
- "::: attnd.NAME" (with the methods to show, "-" for none) and "::: FILE.h" on a line of their own become the API
  (api.py), read from the sources.
- What GitHub shows otherwise than Python-Markdown, and what would be loaded from elsewhere, fails the build.
"""
import logging
import pathlib
import posixpath
import re
import sys

from mkdocs.structure.files import File

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))
import api  # noqa: E402

log = logging.getLogger("mkdocs.hooks.attnd")

ROOMS = ("proto", "workers", "daemon", "clients", "config", "tests", "deploy")
PICTURES = (".png", ".svg")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
FENCE = re.compile(r"^( *)```.*?^\1```", re.S | re.M)
API = re.compile(r"^::: (\S+)(.*)$", re.M)
LANGUAGES = {".c": "c", ".h": "c", ".def": "c", ".py": "python", ".yaml": "yaml", ".yml": "yaml"}


def on_files(files, config):
    """Adds the READMEs, and the files that they and the pages link to."""
    readmes = [ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
    for room in ROOMS:
        readmes += sorted(path for path in (ROOT / room).rglob("*.md") if HERE not in path.parents)
    for path in readmes:
        files.append(File.generated(config, _uri(path), abs_src_path=str(path)))
    for page in files.documentation_pages():
        for target, _ in LINK.findall(FENCE.sub("", page.content_string)):
            _add_target(_target(page.src_uri, target), files, config)
    return files


def on_page_markdown(markdown, page, config, files):
    """Makes the links lead to the site's pages, and expands the API."""
    kept = []
    markdown = FENCE.sub(lambda fence: kept.append(fence.group()) or f"\0{len(kept) - 1}\0", markdown)
    markdown = re.sub(r"\[([^\]]*)\]\(([^)\s#]+)\)", lambda link: _without_folder(page.file.src_uri, link), markdown)
    markdown = LINK.sub(lambda link: _rewritten(page.file.src_uri, link), markdown)
    markdown = re.sub("\0(\\d+)\0", lambda mark: kept[int(mark.group(1))], markdown)
    return API.sub(lambda line: api.page(ROOT, line.group(1), line.group(2).split()), markdown)


def on_page_content(html, page, config, files):
    """Warns, which ends a strict build, of Markdown that only GitHub understands."""
    prose = re.sub(r"<(pre|code)\b.*?</\1>", "", html, flags=re.S)
    for pattern, what in ((r"```", "a fence within a list needs 4 spaces"), (r"^::: ", "no such API"),
                          (r"<p>((?!</p>).)*?\n([-*]|\d+\.) ", "a list needs an empty line before it")):
        found = re.search(pattern, prose, re.M | re.S)
        if found:
            log.warning("%s: %s, near '%s'", page.file.src_uri, what, prose[found.start():found.start() + 60])


def on_post_build(config):
    """Warns of pages that load something from elsewhere."""
    elsewhere = re.compile(r"""<(?:script|img|iframe|source)\b[^>]*\ssrc=["']?(?:https?:)?//[^>]*>|"""
                           r"""<link\b(?![^>]*canonical)[^>]*\shref=["']?(?:https?:)?//[^>]*>|"""
                           r"""(?:url\(|@import )["']?(?:https?:)?//[^)]*""")
    for path in pathlib.Path(config.site_dir).rglob("*"):
        if path.suffix in (".html", ".css"):
            for found in elsewhere.findall(path.read_text(encoding="utf-8")):
                log.warning("%s loads from elsewhere: %s", path.name, found[:100])


def _uri(path):
    return path.relative_to(ROOT).as_posix()


def _is_page_of_ours(uri):
    return not (ROOT / uri).is_file()


def _target(uri, link):
    """The path in the tree that a link of a page means; pages of ours lie in deploy/site/pages."""
    base = _uri(HERE / "pages") if _is_page_of_ours(uri) else ""
    return posixpath.normpath(posixpath.join(base, posixpath.dirname(uri), link))


def _place(target):
    """Where in the site a file of the tree is."""
    own = _uri(HERE / "pages") + "/"
    if target.startswith(own):
        return target[len(own):]
    if target.endswith(".md") or target.endswith(PICTURES):
        return target
    return f"source/{target}.md"


def _add_target(target, files, config):
    path, place = ROOT / target, _place(target)
    if not path.is_file() or files.get_file_from_path(place) is not None:
        return
    if not place.startswith("source/"):
        files.append(File.generated(config, place, abs_src_path=str(path)))
        return
    text = path.read_text(encoding="utf-8")
    language = LANGUAGES.get(path.suffix, "text")
    files.append(File.generated(config, place, content=f"---\nsearch: {{exclude: true}}\n---\n# {target}\n\n"
                                                       f"~~~~{language}\n{text}\n~~~~\n"))


def _without_folder(uri, link):
    return link.group(1) if (ROOT / _target(uri, link.group(2))).is_dir() else link.group()


def _rewritten(uri, link):
    place = _place(_target(uri, link.group(1)))
    return posixpath.relpath(place, posixpath.dirname(uri) or ".") + (link.group(2) or "")
