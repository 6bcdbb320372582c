/* SPDX-License-Identifier: MIT */
/* bridge: hands the command line to the Python package, which does the work: `attnctl bridge X` is
 * `python3 -m attnd.bridge X` in a place of this process.
 *
 * A package that is installed goes before the one of a source tree that attnctl was built in: what
 * is run is what the user's own programs import. One Python is started, not two: it looks for the
 * package itself and says what is missing. */
#include "clients/cli/bridge.h"
#include "clients/cli/base/commands.h"
#include "clients/cli/base/line.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_BYTES 4096 /* of any path that Linux takes */

/* A build directory may be this deep in the source tree: build/clients/cli/attnctl is 3 deep. */
enum { LEVELS_MAX = 6 };

/* argv: the package beside attnctl or "", then the bridge's own. The package says itself what it
 * misses. */
static const char start[] =
    "import importlib.util, runpy, sys\n"
    "beside = sys.argv.pop(1)\n"
    "def there():\n"
    "    try:\n"
    "        return importlib.util.find_spec('attnd.bridge') is not None\n"
    "    except ImportError:\n"
    "        return False\n"
    "if not there() and beside:\n"
    "    sys.modules.pop('attnd', None)\n"
    "    sys.path.insert(0, beside)\n"
    "if not there():\n"
    "    print(f'attnctl: {sys.executable} has no attnd with a bridge: pip install clients/python "
    "'\n"
    "          'of attnd, or set ATTND_PYTHON to a Python that has it', file=sys.stderr)\n"
    "    sys.exit(2)\n"
    "runpy.run_module('attnd.bridge', run_name='__main__', alter_sys=True)\n";

/* The command line ------------------------------------------------------------------------------
 */

/* The options of attnd.bridge, without those that attnctl knows anyway; tests/cli compares. */
static const struct option_text options[] = {
    {"selection", NULL, NULL, NULL},
    {"summaries", "ENDPOINT", "exactly the socket where attnd publishes", NULL},
    {"job", "JOB", "only this job; may be given again", "JOB"},
    {"metrics", "PATTERNS", "which metrics, with commas; * and ? are allowed", "METRIC,"},
    {"statistics", "PATTERNS", "which numbers of a window, with commas",
     "mean|std|min|max|p10|p50|p90|p99|last|count|drift.delta|drift.z|drift.js|drift.change,"},
    {"layers", "PATTERNS", "such as 'decoder.*.self' (default: all)", NULL},
    {"images", "PATTERNS", "metrics that get heat maps; '' = none", "METRIC,"},
    {"every", "N", "only every N-th window", NULL},
    {"window", "WINDOW", "such as \"1 epoch\" (default: attnd's primary windows)", NULL},
    {"live", NULL, "single messages too", NULL},
    {"past", NULL, "first what the history has and the sink has not (default but for stdout)",
     NULL},
    {"no-past", NULL, "only what comes from now on", NULL},
    {"until-end", NULL, "end when the runs that were going on have ended", NULL},
    {"linger", "SECONDS", "time limit for writing the rest at the end (default 30)", NULL},
    {"quiet", NULL, "no tally at the end", NULL},
    {"json", NULL, "the tally as JSON", NULL},
    {"of wandb", NULL, NULL, NULL},
    {"project", "PROJECT", "default attnd", NULL},
    {"entity", "ENTITY", "team or user", NULL},
    {"directory", "DIRECTORY", "where W&B keeps its files (default: $WANDB_DIR, else here)",
     "FILE"},
    {"offline", NULL, "write files only: wandb sync sends them later", NULL},
    {"of mlflow", NULL, NULL, NULL},
    {"uri", "URI", "tracking store (default $MLFLOW_TRACKING_URI)", NULL},
    {"experiment", "EXPERIMENT", "default: one per job, of its name", NULL},
    {"of attnctl", NULL, NULL, NULL},
};
enum { OPTIONS = sizeof options / sizeof options[0] };

void bridge_each_option(option_visitor *visit, void *data)
{
    for (int i = 0; i < OPTIONS; i++) {
        visit(&options[i], data);
    }
}

/* Options may stand before the sink; to Python the sink comes first. Returns whether there is one.
 */
static bool move_sink(int argc, char **argv)
{
    int at = line_find_word(command_find("bridge"), argc, argv);
    if (at >= argc) {
        return false;
    }
    char *sink = argv[at];
    memmove(argv + 2, argv + 1, (size_t)(at - 1) * sizeof *argv);
    argv[1] = sink;
    return true;
}

/* The program -----------------------------------------------------------------------------------
 */

/* Cuts the last part off. Returns whether something is left. */
static bool go_up(char *path)
{
    char *slash = strrchr(path, '/');
    if (!slash || slash == path) {
        return false;
    }
    *slash = '\0';
    return true;
}

static bool has_package(const char *directory)
{
    char path[PATH_BYTES + 64];
    snprintf(path, sizeof path, "%s/attnd/bridge/__main__.py", directory);
    return access(path, R_OK) == 0;
}

/* clients/python of the source tree around attnctl; "" when there is none. */
static void find_beside(char ret_path[PATH_BYTES + 32])
{
    char directory[PATH_BYTES];
    ssize_t length = readlink("/proc/self/exe", directory, sizeof directory - 1);
    directory[length > 0 ? length : 0] = '\0';
    for (int level = 0; level < LEVELS_MAX && go_up(directory); level++) {
        snprintf(ret_path, PATH_BYTES + 32, "%s/clients/python", directory);
        if (has_package(ret_path)) {
            return;
        }
    }
    *ret_path = '\0';
}

int cmd_bridge(struct cli *cli, int argc, char **argv)
{
    const char *chosen = getenv("ATTND_PYTHON");
    if (!move_sink(argc, argv)) {
        return cli_usage(cli, "bridge: SINK is missing: tensorboard, wandb, mlflow or jsonl (see "
                              "attnctl bridge --help)");
    }
    const char *python = chosen && *chosen ? chosen : "python3";
    static char beside[PATH_BYTES + 32];
    char **arguments = calloc((size_t)argc + 4, sizeof *arguments);
    if (!arguments) {
        fputs("attnctl: out of memory\n", cli->err);
        return CLI_FINDING;
    }
    find_beside(beside);
    arguments[0] = (char *)(uintptr_t)python;
    arguments[1] = (char *)(uintptr_t) "-c";
    arguments[2] = (char *)(uintptr_t)start;
    arguments[3] = beside;
    for (int i = 1; i < argc; i++) {
        arguments[i + 3] = argv[i];
    }
    setenv("ATTND_BRIDGE_NAME", "attnctl bridge", 0);
    execvp(python, arguments);
    int error = errno;
    free(arguments);
    return cli_usage(
        cli, "cannot run '%.200s': %s; attnctl bridge needs Python with attnd: set ATTND_PYTHON",
        python, strerror(error));
}
