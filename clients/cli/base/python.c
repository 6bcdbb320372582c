/* SPDX-License-Identifier: MIT */
/* python: a package that is installed goes before the one of a source tree that attnctl was built
 * in: it is the one that the user's own programs import. One Python is started, not two: it looks
 * for the package itself and says what is missing. */
#include "clients/cli/base/cli.h"

#include "clients/cli/base/system.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_BYTES 4096 /* of any path that Linux takes */

/* A build directory may be this deep in the source tree: build/clients/cli/attnctl is 3 deep. */
enum { LEVELS_MAX = 6 };

/* argv: the package, its place beside attnctl or "", the Pythons to try next, a line each, then the
 * package's own. The package says itself what it misses; where plots miss matplotlib, the next
 * Python runs this, with the attnd that this one has where it has none. */
static const char start[] =
    "import sys\n"
    "sys.path[:] = [place for place in sys.path if place]\n" /* no module of where one stands */
    "import importlib.util, os, runpy, shutil\n"
    "module, beside, others = sys.argv.pop(1), sys.argv.pop(1), sys.argv.pop(1).split()\n"
    "def there():\n"
    "    try:\n"
    "        return importlib.util.find_spec(module) is not None\n"
    "    except ImportError:\n"
    "        return False\n"
    "if not there() and beside:\n"
    "    sys.modules.pop('attnd', None)\n"
    "    sys.path.insert(0, beside)\n"
    "if module == 'attnd.plots' and not (there() and importlib.util.find_spec('matplotlib')):\n"
    "    place = os.path.dirname(os.path.dirname(sys.modules['attnd'].__file__)) if there() else "
    "''\n"
    "    code = open('/proc/self/cmdline').read().split('\\0')[2]\n"
    "    while others:\n"
    "        other = shutil.which(others.pop(0))\n"
    "        if other and other != sys.executable:\n"
    "            rest = '\\n'.join(others)\n"
    "            os.execv(other, [other, '-c', code, module, place or beside, rest, "
    "*sys.argv[1:]])\n"
    "if not there():\n"
    "    what = module[6:].replace('bridge', 'a bridge')\n"
    "    print(f'attnctl: {sys.executable} has no attnd with {what}: pip install clients/python '\n"
    "          'of attnd, or set ATTND_PYTHON to a Python that has it', file=sys.stderr)\n"
    "    sys.exit(2)\n"
    "runpy.run_module(module, run_name='__main__', alter_sys=True)\n";

/* clients/python of the source tree around attnctl; "" when there is none. */
static void find_beside(const char *self, char ret_path[PATH_BYTES + 32])
{
    char directory[PATH_BYTES], package[PATH_BYTES + 64];
    snprintf(directory, sizeof directory, "%s", self);
    for (int level = 0; level < LEVELS_MAX; level++) {
        char *slash = strrchr(directory, '/');
        if (!slash || slash == directory) {
            break;
        }
        *slash = '\0';
        snprintf(ret_path, PATH_BYTES + 32, "%s/clients/python", directory);
        snprintf(package, sizeof package, "%s/attnd/__init__.py", ret_path);
        if (access(package, R_OK) == 0) {
            return;
        }
    }
    *ret_path = '\0';
}

/* The interpreter of the environment that attnctl was installed in; "python3" when there is none.
 * In /usr/bin the system's lies beside it, and whoever has another in PATH has put it there. */
static const char *interpreter_of(const char *self, char path[PATH_BYTES + 32])
{
    const char *name = strrchr(self, '/');
    int folder = name ? (int)(name - self) : 0;
    snprintf(path, PATH_BYTES + 32, "%.*s/python3", folder, self);
    bool system = strcmp(path, "/usr/bin/python3") == 0 || strcmp(path, "/bin/python3") == 0;
    return folder > 0 && !system && access(path, X_OK) == 0 ? path : "python3";
}

int python_start(struct cli *cli, const char *name, int argc, const char *const *argv)
{
    const char *python = getenv("ATTND_PYTHON");
    char self[PATH_BYTES], own[PATH_BYTES + 32], beside[PATH_BYTES + 32], module[32];
    const char **arguments = memory_new((size_t)argc + 7, sizeof *arguments);
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    self[length > 0 ? length : 0] = '\0';
    if (!python || !*python) {
        python = interpreter_of(self, own);
    }
    find_beside(self, beside);
    snprintf(module, sizeof module, "attnd.%s", name);
    const char *const first[] = {python, "-c", start, module, beside, "python3\n/usr/bin/python3"};
    memcpy(arguments, first, sizeof first);
    memcpy(arguments + 6, argv, (size_t)argc * sizeof *argv);
    setenv("ATTND_BRIDGE_NAME", "attnctl bridge", 0);
    setenv("ATTND_ATTNCTL", self, 1);
    execvp(python, (char *const *)(uintptr_t)arguments);
    int error = errno;
    free(arguments);
    return cli_usage(
        cli, "cannot run '%.200s': %s; name a Python that has the package attnd in ATTND_PYTHON",
        python, strerror(error));
}
