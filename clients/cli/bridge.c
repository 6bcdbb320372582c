/* SPDX-License-Identifier: MIT */
/* bridge: hands the command line to the Python package, which does the work: `attnctl bridge X` is
 * `python3 -m attnd.bridge X` in a place of this process. */
#include "clients/cli/base/cli.h"

/* The options of attnd.bridge, without those that attnctl knows anyway; tests/cli compares. */
static const struct option_text options[] = {
    {"selection", NULL, NULL, NULL},
    {"summaries", "ENDPOINT", "exactly the socket where attnd publishes", NULL},
    {"job", "JOB", "only this job, or a pattern of jobs; may be given again", "JOB"},
    {"metrics", "PATTERNS", "which metrics, with commas; * and ? are allowed", "METRIC,"},
    {"statistics", "PATTERNS", "which numbers of a window, with commas",
     "mean|std|min|max|p10|p50|p90|p99|last|count|drift.delta|drift.shift|drift.js|drift.change,"},
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
    {"of wandb and trackio", NULL, NULL, NULL},
    {"project", "PROJECT", "default attnd", NULL},
    {"of wandb", NULL, NULL, NULL},
    {"entity", "ENTITY", "team or user", NULL},
    {"directory", "DIRECTORY", "for W&B's files (default: $WANDB_DIR, else here)", "FILE"},
    {"offline", NULL, "write files only: wandb sync sends them later", NULL},
    {"of trackio", NULL, NULL, NULL},
    {"space", "SPACE", "on Hugging Face (default: $TRACKIO_SPACE_ID, else files)", NULL},
    {"of mlflow", NULL, NULL, NULL},
    {"uri", "URI", "tracking store (default $MLFLOW_TRACKING_URI)", NULL},
    {"experiment", "EXPERIMENT", "default: one per job, of its name", NULL},
    {"of attnctl", NULL, NULL, NULL},
};

const struct option_table bridge_options = {OPTION_ROWS(options)};

int cmd_bridge(struct cli *cli, int argc, char **argv)
{
    if (argc < 2 || argv[1][0] == '-') {
        return cli_usage(cli, "bridge: SINK is missing: tensorboard, wandb, trackio, mlflow or "
                              "jsonl (see attnctl bridge --help)");
    }
    return python_start(cli, "bridge", argc - 1, (const char *const *)(uintptr_t)(argv + 1));
}
