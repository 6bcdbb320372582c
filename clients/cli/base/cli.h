/* SPDX-License-Identifier: MIT */
/* cli: the context of every attnctl command, and the commands themselves. */
#ifndef CLIENTS_CLI_BASE_CLI_H
#define CLIENTS_CLI_BASE_CLI_H

#include "clients/cli/base/args.h"
#include "clients/cli/base/rpc.h"

#include <stdio.h>

enum cli_exit {
    CLI_OK = 0,
    CLI_FINDING = 1,     /* attnd answered, and the answer is bad news: no such job; or memory is
                            short, or the output cannot be written */
    CLI_USAGE = 2,       /* the command line, or a file that it names, cannot be followed */
    CLI_UNREACHABLE = 3, /* attnd cannot be reached */
};

struct cli {
    const struct args *args;
    struct rpc *rpc;
    FILE *out, *err;
    int width;
};

/* Said when no attnd is found in the places where one may be. */
#define CLI_NOBODY_HINT                                                                            \
    "Start it with `attnd`; join group attnd if it runs as a service; if it runs in a container "  \
    "or elsewhere, name it with --address or $ATTND_ADDRESS"

/* Calls attnd; a failure is explained on err. Returns CLI_OK (then rpc_reply_clear is the caller's)
 * or the exit code. */
int cli_call(struct cli *cli, const char *method, const struct mpk_writer *params,
             struct rpc_reply *ret_reply);

/* Explains what rpc_call said, unless it was RPC_OK. Returns CLI_OK or the exit code. */
int cli_explain(struct cli *cli, enum rpc_status status, const struct rpc_reply *reply);

/* rpc_open with what the command line names. When nobody is named and found, one that is just
 * starting is waited for, as for an answer. */
enum rpc_status cli_open(const struct args *args, struct rpc *ret_rpc);

/* Connects, or explains on err. Returns CLI_OK or the exit code. */
int cli_connect(struct cli *cli, struct rpc *ret_rpc);

/* Explains on err what is wrong with the command line; returns CLI_USAGE. */
int cli_usage(struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Prints a sentence on err, control characters as '?'; nothing when it is empty. Returns the code.
 */
int cli_fail(struct cli *cli, int code, const char *sentence);

/* Explains on err that the output cannot be written; returns CLI_FINDING. */
int cli_fail_output(struct cli *cli);

/* Whether this user may connect to an endpoint, as far as a file's mode tells. Returns CLI_OK, or
 * CLI_UNREACHABLE with a sentence on err. */
int cli_check_entry(struct cli *cli, const char *endpoint);

/* The value as indented JSON on out. Returns CLI_OK, or CLI_FINDING when out of memory. */
int cli_print_json(struct cli *cli, const msgpack_object *value);
/* Prints a writer's value as JSON on `out`, `indent` 0 for one line. Returns CLI_OK; or
 * CLI_FINDING, when out of memory or when it is too much for one document: then that stands on err.
 */
int cli_print_written(struct cli *cli, const struct mpk_writer *writer, unsigned indent, FILE *out);

/* Calls a method without parameters and prints its answer: as JSON with --json, else by `show`. */
int cli_show(struct cli *cli, const char *method,
             int (*show)(struct cli *cli, const msgpack_object *result));

/* Commands; each returns an exit code. */
int cmd_ping(struct cli *cli);
int cmd_jobs(struct cli *cli);
int cmd_summary(struct cli *cli);
int cmd_tail(struct cli *cli);
int cmd_stats(struct cli *cli);
int cmd_page(struct cli *cli);
int cmd_config(struct cli *cli);
int cmd_flush(struct cli *cli);
int cmd_history(struct cli *cli);
int cmd_alerts(struct cli *cli);
int cmd_compare(struct cli *cli);
int cmd_export(struct cli *cli);
int cmd_runs(struct cli *cli);
int cmd_plan(struct cli *cli);
int cmd_record(struct cli *cli);
int cmd_replay(struct cli *cli);
int cmd_check(struct cli *cli);
int cmd_help(struct cli *cli);
int cmd_top(struct cli *cli);
/* These read their command line themselves; argv without the command's name. */
int cmd_analyze(struct cli *cli, int argc, char **argv);
int cmd_show(struct cli *cli, int argc, char **argv);
/* These become Python programs, and return only when they cannot. */
int cmd_plot(struct cli *cli, int argc, char **argv);
int cmd_bridge(struct cli *cli, int argc, char **argv);
/* Their own options, and what --help says in front of and behind them. */
void options_each(option_visitor *visit, void *data);
void options_print_names(FILE *out);
void options_print_columns(FILE *out);
void show_options_each(option_visitor *visit, void *data);
void show_options_print_words(FILE *out);
void bridge_each_option(option_visitor *visit, void *data);

/* What the program of attnctl plot runs to read maps: argv is FD, then a line of attnctl plot. */
#define PLOT_MAPS_COMMAND "__maps"
int plot_maps(struct cli *cli, int argc, char **argv);

#endif
