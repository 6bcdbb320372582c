#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""tests/house/check finds each broken rule in a small tree, and nothing in a tree that keeps them."""
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import tempfile
import unittest

CHECK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "check")
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("check", CHECK)
check = importlib.util.module_from_spec(importlib.util.spec_from_loader("check", loader))
loader.exec_module(check)

ROOMS = """# Rooms

| folder | lives there | may include |
|---|---|---|
| `proto/` | what travels | nothing else |
| `daemon/` | who owns what | proto |

| room | lives there | may include |
|---|---|---|
| `daemon/` | main | all its rooms |
| `daemon/base/` | clock | nothing else |
| `daemon/run/` | runs | base, store/store.h |
| `daemon/store/` | history | base |
"""
TREE = {
    "CONTRIBUTING.md": ROOMS,
    "proto/err.h": "int err;\n",
    "daemon/main.c": '#include "daemon/run/run.h"\n\nint main(void)\n{\n    return run();\n}\n',
    "daemon/base/clock.h": "/* A clock. */\nint clock_now(void);\n",
    "daemon/base/clock.c": '#include "daemon/base/clock.h"\n\n#include "proto/err.h"\n\nint clock_now(void)\n{\n    return err;\n}\n',
    "daemon/run/run.h": '#include "daemon/base/clock.h"\n',
    "daemon/run/run.c": '#include "daemon/run/run.h"\n\n#include "daemon/run/internal.h"\n#include "daemon/store/store.h"\n',
    "daemon/run/internal.h": '#include "daemon/run/run.h"\n',
    "daemon/store/store.h": "int store;\n",
    "daemon/store/file.h": "int file;\n",
}


def function(name, body="    return 0;\n"):
    return f"static int {name}(void)\n{{\n{body}}}\n"


class House(unittest.TestCase):
    def broken(self, files):
        """The rules that TREE breaks with these files added to it."""
        with tempfile.TemporaryDirectory() as root:
            for name, text in {**TREE, **files}.items():
                os.makedirs(os.path.join(root, os.path.dirname(name)), exist_ok=True)
                with open(os.path.join(root, name), "w", encoding="utf-8") as file:
                    file.write(text)
            return check.judge(*check.read(root))

    def assert_broken(self, files, *expected):
        """One broken rule for each expected text, which is in its line."""
        found = self.broken(files)
        self.assertEqual(len(found), len(expected), found)
        for line, text in zip(found, expected):
            self.assertIn(text, line)

    def assert_code(self, body, *expected):
        self.assert_broken({"daemon/base/clock.c": function("clock_now", body)}, *expected)

    def test_a_tree_that_keeps_the_rules(self):
        self.assert_broken({})

    def test_an_arrow_that_no_table_allows(self):
        self.assert_broken({"daemon/store/store.h": '#include "daemon/run/run.h"\n', "daemon/run/run.c": "\n"},
                           'daemon/store/store.h:1: arrow: daemon/store/ may not include "daemon/run/run.h"')

    def test_an_arrow_out_of_a_folder(self):
        self.assert_broken({"proto/err.c": '\n#include "daemon/base/clock.h"\n', "daemon/base/clock.c": "\n"},
                           'proto/err.c:2: arrow: proto/ may not include "daemon/base/clock.h"')

    def test_one_header_of_a_room_is_not_all_of_it(self):
        self.assert_broken({"daemon/run/run.c": '#include "daemon/store/file.h"\n'}, 'may not include "daemon/store/file.h"')

    def test_a_private_header_is_for_its_room(self):
        self.assert_broken({"daemon/main.c": '#include "daemon/run/internal.h"\n'},
                           'daemon/main.c:1: arrow: "daemon/run/internal.h" is for its own room')

    def test_the_rooms_of_a_folder_do_not_inherit_from_its_root(self):
        self.assert_broken({"daemon/store/store.h": '#include "daemon/args.h"\n', "daemon/args.h": "\n",
                            "daemon/main.c": "\n"},
                           'daemon/store/ may not include "daemon/args.h"')

    def test_an_include_that_is_not_from_the_root(self):
        self.assert_broken({"daemon/run/run.h": '#include "clock.h"\n'}, '"clock.h" does not name a file from the root')

    def test_a_room_without_a_row(self):
        self.assert_broken({"daemon/new/new.c": "\n"}, "daemon/new:1: arrow: no table")
        self.assert_broken({"other/new.c": "\n"}, "other:1: arrow: no table")
        self.assert_broken({"proto/deep/new.c": "\n"})

    def test_a_row_without_a_room(self):
        self.assert_broken({"CONTRIBUTING.md": ROOMS + "| `daemon/gone/` | none | lost |\n"},
                           "CONTRIBUTING.md:14: arrow: daemon/gone/ is not there",
                           "CONTRIBUTING.md:14: arrow: daemon/gone/ may include lost, which is not there")

    def test_a_file_that_the_rules_name_and_that_is_not_there(self):
        self.assert_broken({"CONTRIBUTING.md": ROOMS + "\nSee `daemon/base/clock.c` and\n`daemon/base/watch.c`.\n"},
                           "CONTRIBUTING.md:16: path: daemon/base/watch.c is not there")

    def test_a_place_to_add_something_that_is_not_there(self):
        table = (ROOMS + "\n| to add a | begin with | then |\n|---|---|---|\n"
                 "| time | `clock_now` of `daemon/base/clock.c` | `clock.h`, `handle_NAME` in `NAME.c` |\n")
        self.assert_broken({"CONTRIBUTING.md": table})
        self.assert_broken({"CONTRIBUTING.md": table.replace("clock_now", "clock_then")},
                           "CONTRIBUTING.md:17: place: no file of this row has clock_then")
        self.assert_broken({"CONTRIBUTING.md": table.replace("`clock.h`", "`watch.h`")},
                           "CONTRIBUTING.md:17: place: no watch.h is beside a file of this row")

    def test_modules_that_include_each_other(self):
        self.assert_broken({"daemon/run/a.h": '#include "daemon/run/b.h"\n', "daemon/run/b.h": "\n",
                            "daemon/run/b.c": '#include "daemon/run/a.h"\n'},
                           "cycle: daemon/run/a, daemon/run/b include each other")

    def test_files_that_call_each_other(self):
        up = "int up(void)\n{\n    return down();\n}\n"
        down = "static int own(void)\n{\n    return 0;\n}\nint down(void)\n{\n    return own();\n}\n"
        self.assert_broken({"daemon/run/a.c": up, "daemon/run/b.c": down})
        self.assert_broken({"daemon/run/a.c": up, "daemon/run/b.c": down.replace("own();", "up();")},
                           "daemon/run/a.c:1: call-cycle: daemon/run/a.c, daemon/run/b.c name each other's functions")
        self.assert_broken({"daemon/run/a.c": up, "daemon/base/b.c": down.replace("own();", "up();")})

    def test_rooms_that_include_each_other(self):
        table = ROOMS.replace("history | base", "history | base, run")
        found = self.broken({"CONTRIBUTING.md": table, "daemon/store/file.h": '#include "daemon/run/run.h"\n'})
        self.assertEqual(len(found), 1)
        self.assertIn("room-cycle: daemon/run, daemon/store include each other", found[0])
        self.assertIn("daemon/store/file.h:1 includes daemon/run/run.h", found[0])

    def test_imports_of_the_python_client_are_arrows(self):
        room = check.PYTHON
        table = ROOMS + "".join(f"| `{room}{row}\n" for row in ("/` | watch | all its rooms |", "/a/` | a | nothing else |",
                                                               "/b/` | b | a, c.py |"))
        tree = {"CONTRIBUTING.md": table.replace("| `daemon/` | who", f"| `{room}/` | client | nothing else |\n| `daemon/` | who"),
                f"{room}/__init__.py": "from .a import a\n", f"{room}/c.py": "\n", f"{room}/a/__init__.py": "\n",
                f"{room}/a/a.py": "from .. import __version__\nif TYPE_CHECKING:\n    from ..b.b import B\n",
                f"{room}/b/b.py": "from ..a import a\nfrom ..c import C\n"}
        self.assert_broken(tree)
        self.assert_broken({**tree, f"{room}/a/a.py": "def lazily():\n    from ..b.b import B\n", f"{room}/b/b.py": "\n"},
                           f'{room}/a/a.py:2: arrow: {room}/a/ may not include "{room}/b/b.py"')
        self.assert_broken({**tree, f"{room}/b/b.py": "import attnd.a.a\nfrom attnd.a import a\n"},
                           f"{room}/b/b.py:1: arrow: modules of the client are imported by .name",
                           f"{room}/b/b.py:2: arrow: modules of the client are imported by .name")
        self.assert_broken({**tree, f"{room}/b/d.py": "from . import b\n", f"{room}/b/b.py": "from .d import d\n"},
                           f"cycle: {room}/b/b, {room}/b/d include each other")

    def test_names_that_are_not_unique(self):
        many = "".join(function(f"clock_{i}") for i in range(35))
        twice = {"proto/a.c": function("take"), "proto/b.c": "int main(void)\n{\n}\n" + function("take")}
        self.assert_broken({"daemon/base/clock.c": many, **twice}, "5.1 % of all functions share their name")
        self.assert_broken({"daemon/base/clock.c": many + function("clock_more"), **twice})

    def test_a_tag_is_defined_once(self):
        folders = ROOMS.replace("| `daemon/` | who", "| `tests/` | tests | everything |\n| `daemon/` | who")
        self.assert_broken({"CONTRIBUTING.md": folders, "tests/a.c": "struct row {\n    int b;\n};\n",
                            "proto/a.h": "struct row {\n    int a;\n};\nstruct row *row_new(void);\n",
                            "proto/b.c": "static enum\nrow { ROW_A } row;\n", "proto/c.c": "/* struct row { */\n"},
                           "proto/b.c:1: tag: row is what proto/a.h:1")

    def test_a_name_may_stand_behind_a_long_head(self):
        text = "__attribute__((noinline)) static const char *\nfirst(int a,\n      int b)\n{\n}\n"
        with tempfile.TemporaryDirectory() as root:
            with open(os.path.join(root, "a.c"), "w", encoding="utf-8") as file:
                file.write(text)
            self.assertEqual(check.find_functions(check.Tree(root), "a.c"), [("first", 2, 4)])

    def test_a_test_of_c_is_named_by_its_claim(self):
        text = "TEST(one_is_first)\n{\n}\n\nPOOL_TEST(two)\n{\n}\n\nTEST_WITH(three, NULL,\n          stop)\n{\n}\n"
        with tempfile.TemporaryDirectory() as root:
            with open(os.path.join(root, "a.c"), "w", encoding="utf-8") as file:
                file.write(text)
            self.assertEqual([name for name, _, _ in check.find_functions(check.Tree(root), "a.c")],
                             ["test_one_is_first", "test_two", "test_three"])

    def test_a_long_file(self):
        self.assert_broken({"proto/a.c": "\n" * 701}, "proto/a.c:1: lines: 701 lines, more than 700")
        self.assert_broken({"proto/a.c": "\n" * 700})

    def test_a_full_room(self):
        self.assert_broken({f"proto/{i}.h": "" for i in range(60)}, "proto:1: room: 61 files, more than 60")
        self.assert_broken({f"proto/{i}.h": "" for i in range(59)})

    def test_a_null_that_is_compared(self):
        self.assert_code("    if (a == NULL) {\n    }\n", "daemon/base/clock.c:3: dialect: a pointer is compared with NULL")
        self.assert_code("    return NULL != a;\n", "compared with NULL")
        self.assert_code("    return a != NULL && b;\n", "compared with NULL")
        self.assert_code("    return b || a->c[0] != NULL;\n", "compared with NULL")
        self.assert_code('    a = NULL; /* a == NULL */\n    say("a == NULL");\n    while ((a = b()) != NULL) {\n    }\n'
                         "    return a != NULL;\n")

    def test_sizeof_of_an_expression(self):
        self.assert_code("    return sizeof(*a);\n", "clock.c:3: dialect: write sizeof *a")
        self.assert_code("    return sizeof(text) + sizeof(a->b[0]);\n", "write sizeof a->b[0]", "write sizeof text")
        self.assert_code("    return sizeof(struct a) + sizeof(uint8_t *) + sizeof(double[3]) + sizeof x + sizeof(\"x\");\n")

    def test_a_body_without_braces(self):
        self.assert_code("    if (a(b))\n        c();\n", "clock.c:3: dialect: the body of if has no braces")
        self.assert_code("    if (a) {\n    } else\n        c();\n", "the body of else has no braces")
        self.assert_code("    for (;;)\n        while (a)\n            ;\n", "body of for", "body of while")
        self.assert_code("    do\n        a();\n    while (b);\n", "body of do", "body of while")
        self.assert_code("    do {\n    } while (a);\n    if (b) { /* so */\n    } else if (c) {\n    } else {\n    }\n"
                         "#if (A)\n#elif (B)\n#else\n#endif\n#define each(x) for (; x;)\n#define M(x) \\\n    do { \\\n    } while (0)\n")

    def test_a_macro_whose_body_has_no_braces(self):
        self.assert_code("#define M(x) \\\n    if (x) \\\n        x++;\n", "the body of if has no braces")

    def test_tests_that_pass_with_nan(self):
        rooms = ROOMS.replace("| `daemon/` | who", "| `tests/` | tests | nothing else |\n| `daemon/` | who")
        for line in ("assert_float_equal(a, 1, 1);", "assert_double_not_equal(a, 1, 1);", "assert_false(a > b);",
                     "assert_true(!(a->b <= c));", "if (c && fabs(a - b) > d) {\n    }", "if (fabsf((a)) >= b) {\n    }"):
            self.assert_broken({"CONTRIBUTING.md": rooms, "tests/a.c": function("clock", f"    {line}\n")}, "a.c:3: nan: passes")
            self.assert_code(f"    {line}\n")
        good = ("    assert_false(a->b);\n    assert_false(a << 1);\n    assert_true(a > b);\n    assert_true(!(a && b));\n"
                "    if (!(fabs(a - b) <= c)) {\n    }\n    assert_false(a); b = c > d;\n    x = fabs(a) > b;\n")
        self.assert_broken({"CONTRIBUTING.md": rooms, "tests/a.c": function("clock", good)})

    def test_tests_in_python_that_pass_with_nan(self):
        for line in ("not a > b", "b and not (abs(a - b) >= c)", "not (a < b).any()", "not any(x > 1 for x in y)"):
            self.assert_broken({"tests/a.py": f"\nassert {line}\n"}, "tests/a.py:2: nan: passes with NaN")
        self.assert_broken({"tests/a.py": "assert not a\nassert a <= b and not a == b\nif not a > b:\n    c()\n"})

    def test_sentences_that_begin_badly(self):
        self.assert_code("    /* Of all rows. */\n", 'clock.c:3: prose: a sentence begins with "Of"')
        self.assert_code("    /* Rows are read. Those\n     * below wait. What is left\n     * goes. */\n", '"What"')
        self.assert_code("    /* Rows.\n     *\n     * Who asks. */\n", 'clock.c:5: prose: a sentence begins with "Who"')
        self.assert_code('    say("not so. What counts is this");\n', '"What"')
        self.assert_code("    /* The Of What is Who. */\n    a = What * Of;\n")

    def test_sentences_of_scripts(self):
        said = "/**\n * Rows. What is left\n * goes.\n */\n// Of all rows.\nsay(`Those`, 'Who asks');\n"
        self.assert_broken({"page/a.js": said}, 'a.js:2: prose: a sentence begins with "What"', 'a.js:5: prose: a sentence begins '
                           'with "Of"', 'a.js:6: prose: a sentence begins with "Who"')
        said = '"""Rows.\n\n    Who asks."""\n# Those: of all\n# What is left.\nsay("so. Of those", b"What is")\n'
        self.assert_broken({"client/a.py": said}, 'a.py:3: prose: a sentence begins with "Who"', 'a.py:5: prose: a sentence begins '
                           'with "What"', 'a.py:6: prose: a sentence begins with "Of"', 'a.py:6: prose: a sentence begins with "What"')
        self.assert_broken({"tests/a.py": '"""What it is."""\nsay("Of it")\n', "tests/b.js": "// The Of What is Who.\nsay('Who is')\n"})

    def test_markdown(self):
        table = "| " + "x" * 130 + " |\n"
        code = "```\n" + "x" * 130 + "\nWhat it prints\n```\n\n    " + "x" * 130 + "\n"
        self.assert_broken({"README.md": "# What it is\n" + table + code + "x" * 120 + "\n"})
        self.assert_broken({"README.md": "a\n" + "x" * 121 + "\n"}, "README.md:2: columns: 121 columns, more than 120")
        self.assert_broken({"README.md": "# " + "x" * 78 + "\n```\n# " + "x" * 90 + "\n```\n"})
        self.assert_broken({"README.md": "## " + "x" * 78 + "\n"}, "README.md:1: columns: 81 columns, more than 80")
        self.assert_broken({"README.md": "- Of these.\n| What it does |\n"}, '"Of"', '"What"')

    def test_an_exception_covers_a_place_and_has_a_reason(self):
        long = {"proto/a.c": "\n" * 701}
        self.assert_broken({**long, "tests/house/exceptions": "# why\nlines proto/*.c 1: it is a table\n"})
        self.assert_broken({**long, "tests/house/exceptions": "lines proto/a.c\n"}, "proto/a.c", 'not "RULE PATTERN')

    def test_an_exception_that_nothing_needs(self):
        self.assert_broken({"tests/house/exceptions": "lines proto/a.c: it was long\n"}, "nothing needs this exception")

    def test_an_exception_covers_no_more_places_than_it_says(self):
        self.assert_broken({"proto/a.c": "\n" * 701, "proto/b.c": "\n" * 701,
                            "tests/house/exceptions": "lines proto/*.c 1: they are tables\n"},
                           "proto/a.c", "proto/b.c", "2 places, at most 1")

    def test_the_command_says_what_is_wrong_and_fails(self):
        with tempfile.TemporaryDirectory() as root:
            os.mkdir(os.path.join(root, "proto"))
            with open(os.path.join(root, "proto", "a.c"), "w", encoding="utf-8") as file:
                file.write(function("take"))
            command = [sys.executable, CHECK, "--root", root]
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            self.assertEqual(ran.returncode, 1, ran.stderr)
            self.assertIn("proto:1: arrow: no table", ran.stdout)
            self.assertIn("1 rules broken", ran.stdout)
            ran = subprocess.run(command + ["--figures"], capture_output=True, text=True, check=False)
            self.assertEqual(ran.returncode, 0, ran.stderr)
            self.assertRegex(ran.stdout, r"proto +1 +4\n")
            self.assertIn("functions with tests: 1; 0.0 % share their name; lines: median 4, p90 4, max 4", ran.stdout)


if __name__ == "__main__":
    unittest.main()
