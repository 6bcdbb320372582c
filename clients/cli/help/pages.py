# SPDX-License-Identifier: MIT
"""The manual: a page for each command, attnctl(1) and attnd(8), from what --help says.

usage: pages.py ATTNCTL ATTND VERSION MAN1-DIRECTORY MAN8-DIRECTORY
"""
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

DATE = "2026-11-21"
ESCAPES = str.maketrans({"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"})


# The pages say what no --help says in full, or at all.
ENVIRONMENT = (
    ("ATTND_KEY", "The file of this client's secret key, or that key, for an attnd on TCP that asks for keys."),
    ("ATTND_SERVER_KEY", "The public key of that attnd."),
    ("ATTND_ADDRESS", "Which attnd, unless --address or --endpoint says so: a directory of its sockets, or tcp://host:port. "
     "Without it, the first that answers in $XDG_RUNTIME_DIR/attnd, /run/user/UID/attnd, /tmp/attnd-UID or /run/attnd, which "
     "is the service's: it lets in members of group attnd. A directory that others can write to is passed over. All clients "
     "read this variable, and attnd itself, which listens there."),
    ("ATTND_PYTHON", "The Python that runs attnctl plot and attnctl bridge. Without it, python3 beside attnctl, where pip "
     "installs both, else the one in PATH."),
    ("NO_COLOR, TERM, COLORTERM", "Whether a terminal has colours, and which."),
)


def said_by(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def plain(text):
    """Text that roff takes as it is, in lines of 68 columns."""
    lines = textwrap.wrap(text, 68, break_long_words=False, break_on_hyphens=False)
    return "\n".join(("\\&" if line.startswith(".") else "") + line.translate(ESCAPES) for line in lines)


def verbatim(lines):
    return [".EX", *(line[2:].translate(ESCAPES) for line in lines), ".EE"]


def body(text):
    """Paragraphs, lists and examples of a help text. An item begins at column 2 to 7, its text two blanks behind it or
    further right on the next lines; indented lines behind "examples:" are kept as they are."""
    out, fresh = [], True
    for block in re.split(r"\n{2,}", text.strip("\n")):
        lines, previous = block.split("\n"), ""
        for at, line in enumerate(lines):
            indent = len(line) - len(line.lstrip(" "))
            if indent == 0:
                if previous != "text" and not fresh:
                    out.append(".PP")
                out.append(plain(line))
                previous, fresh = "text", False
                if re.search(r"examples?:$", line):
                    return out + [".PP", *verbatim(lines[at + 1:])]
            elif indent >= 8:
                out.append(plain(line))
            else:
                term, _, rest = line.strip().partition("  ")
                name, _, argument = term.partition(" ") if term.startswith("--") else (term, "", "")
                out += [".TP", f"\\fB{plain(name)}\\fR" + (f" \\fI{plain(argument)}\\fR" if argument else "")]
                out += [plain(rest)] if rest.strip() else []
                previous = "item"
    return out


def options(text):
    """Options, under the titles that they have."""
    out = []
    for block in re.split(r"\n{2,}", text.strip("\n")):
        title, _, rest = block.partition("\n")
        if not title.startswith(" "):
            out.append(f".SS {plain(title.rstrip(':'))}")
        out += body(block if title.startswith(" ") else rest)
    return out


def page(name, section, version, purpose, text, see):
    """The sections of a help text: usage, what it does, options, notes, examples, exit status."""
    usage, _, text = text.partition("\n")
    text, _, status = re.sub(r"\n[Ee]xit status: ", "\0", text).partition("\0")
    text, _, examples = re.sub(r"\nexamples?:\n(?!.*\nexamples?:\n)", "\0", text, flags=re.S).partition("\0")
    first = re.search(r"(^[a-z].*:\n)?^  --", text, re.M)
    before, rest = (text[:first.start()], text[first.start():]) if first else (text, "")
    last = list(re.finditer(r"^  --.*\n(?: {8}.*\n?)*", rest, re.M))
    behind = rest[last[-1].end():] if last else ""
    usage = re.sub(r"^\S+", lambda m: f"\\fB{m[0]}\\fR", plain(usage.removeprefix("usage: ")))
    lines = [".\\\" SPDX-License-Identifier: MIT", f".TH {name.upper()} {section} {DATE} \"attnd {version}\" \"attnd manual\"",
             ".SH NAME", f"{plain(name)} \\- {plain(purpose)}", ".SH SYNOPSIS", usage, ".SH DESCRIPTION", *body(before)]
    environment = [line for term, what in ENVIRONMENT for line in (".TP", f"\\fB{plain(term)}\\fR", plain(what))]
    for heading, content in (("OPTIONS", options(rest[:last[-1].end()]) if last else []), ("NOTES", body(behind)),
                             ("ENVIRONMENT", environment if name == "attnctl" else []),
                             ("EXIT STATUS", [plain(status)] if status else []),
                             ("EXAMPLES", verbatim(examples.rstrip("\n").split("\n")) if examples.strip() else [])):
        if content and any(content):
            lines += [f".SH {heading}", *content]
    refs = [f".BR {other} ({number})" for other, number in see]
    lines += [".SH SEE ALSO", *(ref + "," for ref in refs[:-1]), refs[-1], ""]
    return re.sub(r"\n{2,}", "\n", "\n".join(lines))


def main(attnctl, attnd, version, man1, man8):
    for directory in (man1, man8):
        Path(directory).mkdir(parents=True, exist_ok=True)
    commands = json.loads(said_by(attnctl, "help", "--json"))["commands"]
    for command in commands:
        name = command["name"]
        text = page(f"attnctl-{name}", 1, version, command["help"], said_by(attnctl, name, "--help"),
                    [("attnctl", 1), ("attnd", 8)])
        Path(man1, f"attnctl-{name}.1").write_text(text)
    own = [(plain(f"attnctl-{command['name']}"), 1) for command in commands]
    Path(man1, "attnctl.1").write_text(page(
        "attnctl", 1, version, "ask attnd about the attention heads of a training job", said_by(attnctl, "--help"),
        own + [("attnd", 8)]))
    Path(man8, "attnd.8").write_text(page(
        "attnd", 8, version, "watch the attention heads of transformers while they train", said_by(attnd, "--help"),
        [("attnctl", 1)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
