# SPDX-License-Identifier: MIT
"""api: the API as Markdown, from docstrings (griffe reads them, nothing is imported) and from a C header."""
import functools
import re

import griffe

ROW = re.compile(r"^(?P<names>[a-z*][\w*]*(?:, [\w*]+)*)(?:  +|(?<=\w),? {1,2}(?=\())(?P<text>\S.*)$")


def page(root, what, methods=()):
    """The Markdown of "attnd.NAME", with all its methods or these, or of a header at a path of the tree."""
    if what.endswith(".h"):
        return c_header((root / what).read_text(encoding="utf-8"))
    try:
        return python_object(_package(root)[what.removeprefix("attnd.")], methods)
    except KeyError:
        raise ValueError(f"{what}: no such name in the sources (name the module that defines it)") from None


@functools.lru_cache(None)
def _package(root):
    loader = griffe.GriffeLoader(search_paths=[str(root / "clients" / "python")], allow_inspection=False)
    package = loader.load("attnd")
    loader.resolve_aliases(external=False)
    return package


def python_object(found, methods=()):
    """A function, or a class with its methods."""
    found = found.final_target if found.is_alias else found
    parts = [f"## `{found.name}` {{ #{found.name} }}", _declaration(found), _prose(found)]
    if found.is_class:
        init = found.members.get("__init__")
        if init is not None and "Made by" not in found.docstring.value:  # else nobody calls it
            parts += [_declaration(init), _prose(init)]
        public = [name for name, member in found.members.items()
                  if not name.startswith("_") and not member.is_alias and member.has_docstring]
        for name in methods or public:
            if name == "-":
                continue
            member = found.members[name]
            parts += [f"### `{found.name}.{name}` {{ #{found.name}.{name} }}", _declaration(member), _prose(member)]
    return "\n\n".join(part for part in parts if part)


def _declaration(found):
    """The lines of a signature, as they are written; "" for what has none, such as the __init__ of a dataclass."""
    lines = found.lines if found.is_function or found.is_class else []
    end = next((number for number, line in enumerate(lines, 1) if re.search(r":\s*(#.*)?$", line)), 0)
    if not end:
        return ""
    indent = len(lines[0]) - len(lines[0].lstrip())
    text = re.sub(r":\s*(#.*)?$", "", "\n".join(line[indent:] for line in lines[:end]))
    return f"```python\n{text}\n```"


def _prose(found):
    return docstring(found.docstring.value) if found.docstring else ""


def docstring(text):
    """A docstring as Markdown: paragraphs, indented code, and tables of arguments ("name   meaning")."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        rows = _rows(block.split("\n"))
        if rows:
            blocks.append("\n".join(["| | |", "|---|---|"] + [f"| `{name}` | {escape(text)} |" for name, text in rows]))
        elif all(line.startswith("    ") for line in block.split("\n")):
            blocks.append("```python\n" + "\n".join(line[4:] for line in block.split("\n")) + "\n```")
        else:
            blocks.append(escape(block))
    return "\n\n".join(blocks)


def _rows(lines):
    """[(name, meaning)] when a block is a table with continued lines, else None."""
    rows = []
    for line in lines:
        found = ROW.match(line)
        if found:
            rows.append([found["names"], found["text"]])
        elif rows and line.startswith("   "):
            rows[-1][1] += " " + line.strip()
        else:
            return None
    return rows


def escape(text):
    """Plain text as Markdown: nothing in it means anything but `code`."""
    parts = re.split(r"(`[^`]*`)", re.sub(r"^(\d+)\. ", r"\1&#46; ", text, flags=re.M))
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>\[\]|#])", r"\\\1", part) for part in parts)


def c_header(text):
    """A header as Markdown: its own comment, then each declaration with the comment above it."""
    begin = text.index("/*", text.index("SPDX"))
    end = text.index("*/", begin)
    parts = [escape(_unframed(text[begin + 2:end]))]
    conditional = r"^#(ifdef __cplusplus.*?#endif|if .*?#endif)$"
    body = re.sub(conditional, "", text[text.index("#include", end):], flags=re.S | re.M)
    for comment, code in _declarations(body):
        section = re.fullmatch(r"-+ (.*?) -+", comment)
        if section:
            parts.append(f"## {section.group(1).capitalize()}")
            continue
        if code:
            name = _declared(code)
            parts += [f"### `{name}` {{ #{name} }}", f"```c\n{code}\n```"]
        if comment:
            parts.append(_c_prose(comment))
    return "\n\n".join(parts)


def _declared(code):
    """The name that a declaration introduces; of several the first."""
    code = re.sub(r"/\*.*?\*/", "", code, flags=re.S)
    last = re.search(r"}\s*(\w+);|^typedef struct \w+ (\w+);$", code, re.M)
    found = last or re.search(r"^#define (\w+)|(attn_\w+)\(", code, re.M)
    return next(name for name in found.groups() if name)


def _declarations(body):
    """(comment, code) of each: a comment at the begin of a line, if any, and the lines to the next or an empty one."""
    whole = re.sub(r"/\*.*?\*/|\{[^{}]*\}", lambda found: found.group().replace("\n", "\1"), body, flags=re.S)
    for chunk in re.split(r"\n\s*\n|\n(?=/\*)|(?<=;)\n(?=ATTN_API|typedef)", whole):
        found = re.match(r"\s*(?:/\*(.*?)\*/(?=\n|$))?(.*)", chunk, re.S)
        comment, code = (part.replace("\1", "\n").strip() for part in (found.group(1) or "", found.group(2)))
        if (comment or code) and not code.startswith(("#include", "#endif")):
            yield _unframed(comment), code


def _unframed(comment):
    return "\n".join(re.sub(r"^ \* ?", "", line).rstrip() for line in comment.strip().split("\n"))


def _c_prose(comment):
    """A comment: paragraphs, with code and tables as they are written."""
    blocks = []
    for block in re.split(r"\n\s*\n", comment):
        lines = block.split("\n")
        if all(line.startswith("    ") for line in lines) or any(re.match(r"^ {4}\S", line) for line in lines[1:]):
            blocks.append("```text\n" + block.rstrip() + "\n```")
        else:
            blocks.append(escape(block))
    return "\n\n".join(blocks)
