/* SPDX-License-Identifier: MIT */
#include "daemon/args.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SET_MAX 256

static const char usage[] =
    "usage: attnd [--address ADDRESS] [--config FILE] [--set SECTION.KEY=VALUE]...\n"
    "       attnd --judge RECORDING [--json] [--config FILE] [--set SECTION.KEY=VALUE]...\n"
    "\n"
    "Receives attention tensors from training jobs and publishes per-head metrics.\n"
    "It needs no config file. It listens on Unix sockets in a directory of this user,\n"
    "where clients look for it.\n"
    "\n"
    "  --address ADDRESS      listen in this directory, or at tcp://host:port and the four ports\n"
    "                         above it (with keys); default: $ATTND_ADDRESS, else\n"
    "                         $XDG_RUNTIME_DIR/attnd, else /tmp/attnd-UID\n"
    "  --config FILE          read settings from a YAML file; SIGHUP reads its plans again\n"
    "  --set SECTION.KEY=VALUE  change one setting; wins over the file\n"
    "  --isa NAME             kernels to use: auto, scalar, portable, avx2 or avx512\n"
    "                         (short for --set workers.isa=NAME)\n"
    "  --print-config         show every setting in force, with its explanation\n"
    "  --check-config FILE    check a file and report its mistakes\n"
    "  --judge RECORDING      judge a recording by the alert rules, without sockets and history\n"
    "  --json                 print the verdict as JSON\n"
    "  --version              show the version\n"
    "  --help                 show this\n"
    "\n"
    "example:\n"
    "  attnd --set window.length=5 --set window.every=1\n"
    "\n"
    "exit status: 0 stopped or answered, 1 cannot start, or the recording fires a rule,\n"
    "2 usage or config error, or a recording that cannot be judged\n";

struct args_line {
    const char *config_path, *check_path, *judge_path, *address;
    const char *set[SET_MAX];
    int set_count;
    const char *isa;
    bool print_config, json, version, help;
};

static const struct option options[] = {
    {"address", required_argument, NULL, 'a'},
    {"config", required_argument, NULL, 'c'},
    {"set", required_argument, NULL, 's'},
    {"isa", required_argument, NULL, 'i'},
    {"print-config", no_argument, NULL, 'p'},
    {"check-config", required_argument, NULL, 'k'},
    {"judge", required_argument, NULL, 'j'},
    {"json", no_argument, NULL, 'J'},
    {"version", no_argument, NULL, 'v'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static int args_fail(char *reterr, const char *text, const char *what)
{
    snprintf(reterr, CONFIG_ERROR_MAX, "%s%s; see attnd --help", text, what);
    return -1;
}

static int take_option(struct args_line *args, int option, char **argv, char *reterr)
{
    switch (option) {
    case 'a':
        args->address = optarg;
        return 0;
    case 'c':
        args->config_path = optarg;
        return 0;
    case 's':
        if (args->set_count == SET_MAX) {
            return args_fail(reterr, "too many --set", "");
        }
        args->set[args->set_count++] = optarg;
        return 0;
    case 'i':
        args->isa = optarg;
        return 0;
    case 'p':
        args->print_config = true;
        return 0;
    case 'k':
        args->check_path = optarg;
        return 0;
    case 'j':
        args->judge_path = optarg;
        return 0;
    case 'J':
        args->json = true;
        return 0;
    case 'v':
        args->version = true;
        return 0;
    case 'h':
        args->help = true;
        return 0;
    case ':':
        return args_fail(reterr, "a value is missing after ", argv[optind - 1]);
    default:
        return args_fail(reterr, "unknown option ", argv[optind - 1]);
    }
}

static int daemon_args_parse(int argc, char **argv, struct args_line *args, char *reterr)
{
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":", options, NULL)) != -1) {
        if (take_option(args, option, argv, reterr) != 0) {
            return -1;
        }
    }
    if (optind < argc) {
        return args_fail(reterr, "unexpected argument ", argv[optind]);
    }
    if (args->json && !args->judge_path) {
        return args_fail(reterr, "--json is for --judge", "");
    }
    if (args->judge_path && (args->address || args->check_path || args->print_config)) {
        return args_fail(reterr, "--judge takes --json, --config, --set and --isa alone", "");
    }
    return 0;
}

static int choose_address(const struct args_line *args, struct config *config, char *reterr)
{
    char place[ADDRESS_MAX];
    const char *variable = getenv("ATTND_ADDRESS");
    if (args->address) {
        return config_use_address(config, args->address, "--address", reterr);
    }
    if (variable && *variable) {
        return config_use_address(config, variable, "$ATTND_ADDRESS", reterr);
    }
    address_default(geteuid(), getenv("XDG_RUNTIME_DIR"), place);
    return config_use_address(config, place, "$XDG_RUNTIME_DIR", reterr);
}

static int args_set(struct config *config, const char *const *assignments, size_t count,
                    char *reterr)
{
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++) {
        rc = config_set(config, assignments[i], reterr);
    }
    return rc;
}

/* A judge decides itself what would make the verdict depend on the machine or reach beyond it.
 * Spectra have no budget unless the file gives them one, so that the same recording gets the same
 * verdict everywhere. */
static const char *const judge_settings[] = {
    "history.enabled=false", "http.enabled=false", "alerts.enabled=true",
    "alerts.command=",       "alerts.webhook=",    "alerts.per_window=100000",
    "plan.cost_max=0",       "limits.idle=7d",     "log.level=error",
};

static int apply_settings(const struct args_line *args, struct config *config, char *reterr)
{
    const char *path = args->check_path ? args->check_path : args->config_path;
    char isa[64];
    snprintf(isa, sizeof isa, "workers.isa=%s", args->isa ? args->isa : "");
    if ((args->judge_path && config_set(config, "metrics.spectrum_budget=0s", reterr) != 0) ||
        (path && config_load(config, path, reterr) != 0) ||
        args_set(config, args->set, (size_t)args->set_count, reterr) != 0 ||
        (args->isa && config_set(config, isa, reterr) != 0)) {
        return -1;
    }
    int rc = args->judge_path ? args_set(config, judge_settings,
                                         sizeof judge_settings / sizeof judge_settings[0], reterr)
                              : choose_address(args, config, reterr);
    if (rc != 0) {
        return rc;
    }
    rc = config_check(config, reterr);
    if (rc == 0 && args->judge_path && config->window_unit == CONFIG_UNIT_SECOND) {
        snprintf(reterr, CONFIG_ERROR_MAX,
                 "%.200s%swindow.unit: 'second': a recording is judged faster than it was recorded "
                 "(valid: auto, epoch, step)",
                 path ? path : "", path ? ": " : "");
        return -1;
    }
    return rc;
}

/* On failure nothing is left to clear. */
static int build_config(const struct args_line *args, struct config *config, char *reterr)
{
    config_defaults(config);
    config->warnings = stderr;
    if (apply_settings(args, config, reterr) == 0) {
        return 0;
    }
    config_clear(config);
    return -1;
}

int args_read(int argc, char **argv, struct config *config, struct args_result *ret_result,
              char *reterr)
{
    struct args_line args = {0};
    if (daemon_args_parse(argc, argv, &args, reterr) != 0) {
        return -1;
    }
    *ret_result = (struct args_result){.answered = true,
                                       .has_file = args.config_path,
                                       .judge = args.judge_path,
                                       .json = args.json};
    if (args.help) {
        fputs(usage, stdout);
        return 0;
    }
    if (args.version) {
        puts("attnd " ATTND_VERSION);
        return 0;
    }
    if (build_config(&args, config, reterr) != 0) {
        return -1;
    }
    if (!args.check_path && !args.print_config) {
        ret_result->answered = false;
        return 0;
    }
    if (args.check_path) {
        printf("%s: ok\n", args.check_path);
    } else {
        config_print(config, stdout);
    }
    config_clear(config);
    return 0;
}

/* A pipe cannot be read twice, and reading a terminal would wait. */
static int check_regular(const char *path, char *reterr)
{
    struct stat file;
    if (stat(path, &file) != 0) {
        snprintf(reterr, CONFIG_ERROR_MAX, "%.300s: cannot read it: %s", path, strerror(errno));
    } else if (!S_ISREG(file.st_mode)) {
        snprintf(reterr, CONFIG_ERROR_MAX, "%.300s: not a file that can be read again", path);
    } else {
        return 0;
    }
    return -1;
}

int args_read_again(int argc, char **argv, struct config *ret_config, char *reterr)
{
    struct args_line args = {0};
    optind = 0; /* from the start, with nothing left of the first time */
    if (daemon_args_parse(argc, argv, &args, reterr) != 0 ||
        check_regular(args.config_path, reterr) != 0) {
        return -1;
    }
    return build_config(&args, ret_config, reterr);
}
