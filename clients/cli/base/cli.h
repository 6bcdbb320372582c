/* SPDX-License-Identifier: MIT */
/* cli: the context of every attnctl command, and the commands themselves. */
#ifndef CLIENTS_CLI_BASE_CLI_H
#define CLIENTS_CLI_BASE_CLI_H

#include "clients/cli/base/args.h"
#include "clients/c/src/link.h"
#include "clients/cli/base/rpc.h"

#include <stdio.h>

struct command;

enum cli_exit {
    CLI_OK = 0,
    CLI_FINDING = 1,     /* attnd answered, and the answer is bad news: no such job; or memory is
                            short, or the output cannot be written */
    CLI_USAGE = 2,       /* the command line, or a file that it names, cannot be followed */
    CLI_UNREACHABLE = 3, /* attnd cannot be reached */
};

struct cli {
    const struct args *args;
    const struct command *command; /* that runs; NULL before it is known */
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

/* Connects, or explains on err, and runs. Returns the exit code. */
int cli_run_connected(struct cli *cli, int (*run)(struct cli *cli));

/* Explains on err what is wrong with the command line; returns CLI_USAGE. */
int cli_usage(struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Refuses --metric beside --json, which has every metric; returns CLI_OK or CLI_USAGE. */
int cli_check_json(struct cli *cli);

/* Prints a sentence on err, control characters as '?'; nothing when it is empty. Returns `code`. */
int cli_fail(struct cli *cli, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The value as JSON on out, `indent` 0 for one line. Returns CLI_OK, or CLI_FINDING when out of
 * memory. */
int cli_print_json(struct cli *cli, const msgpack_object *value, unsigned indent);
/* Prints the value of a writer as JSON, and clears the writer. CLI_FINDING also when it is too much
 * for one document, said on err. */
int cli_print_written(struct cli *cli, struct mpk_writer *writer, unsigned indent);

/* A question: parameters collected one by one, and an answer that may take its time. */
struct ask {
    struct mpk_writer params;
    struct mpk_open map;
    bool patient; /* see ask_past */
};

void ask_init(struct ask *ask);
/* Begins with the job and the run of the command line, as far as it has them. */
void ask_job(struct ask *ask, const struct args *args);
/* A question about the past. Looking up takes longer than other answers, so it and those after
 * it are waited for as attnd allows itself, unless --timeout says how long; whether attnd is there
 * at all shows at once. */
void ask_past(struct ask *ask, const struct args *args);
/* Adds a parameter; NULL: it is left out. */
void ask_text(struct ask *ask, const char *key, const char *text);
void ask_number(struct ask *ask, const char *key, uint64_t number);
/* stack, layer, site; window, head, from, to; limit: those that the command line has. */
void ask_layer(struct ask *ask, const struct args *args);
void ask_range(struct ask *ask, const struct args *args);
void ask_limit(struct ask *ask, const struct args *args, uint64_t otherwise);

/* rpc_call and rpc_send with the parameters, which are freed. */
enum rpc_status ask_call(struct rpc *rpc, const char *method, struct ask *ask,
                         struct rpc_reply *ret_reply);
enum rpc_status ask_send(struct rpc *rpc, const char *method, struct ask *ask, uint64_t *ret_id);

/* Takes an answer, which is gone afterwards; returns an exit code. */
typedef int answer_reader(struct cli *cli, const msgpack_object *result);
/* Calls the method, and gives the answer to `read`. Returns what that returns or, after a failure
 * that is explained on err, the exit code. */
int ask_read(struct cli *cli, const char *method, struct ask *ask, answer_reader *read);
/* The same; prints the answer as JSON with --json, else by `show`; then `judge`, unless it is NULL,
 * says the exit code. */
int cli_show(struct cli *cli, const char *method, struct ask *ask, answer_reader *show,
             answer_reader *judge);
/* Calls, as cli_call; but that there is nothing is an answer, too: then *ret_any is false and the
 * reply is not to be cleared. */
int ask_for_any(struct cli *cli, const char *method, struct ask *ask, struct rpc_reply *ret_reply,
                bool *ret_any);

/* Another socket of the attnd that cli->rpc asks. It follows from the address. When one endpoint
 * was named instead, attnd is asked for the setting ("publish.endpoint"): a daemon that binds `*`
 * cannot know by which name this machine sees it, so the host that answered the question is taken
 * then. */
int reach_endpoint(struct cli *cli, enum address_socket which, char ret_endpoint[ADDRESS_MAX]);
/* Subscribes to a topic there, and says on err when attnd lets us in no more, or again. */
int cli_subscribe(struct cli *cli, enum address_socket which, const char *endpoint,
                  const char *topic, size_t frame_max, struct link *ret_link);
/* For a command that waits for ever, when nothing has come for a while: says on err that it waits
 * if nobody listens at the endpoint, and returns whether somebody does. Asks two questions of
 * listener.h at most. */
bool cli_tell_waiting(struct cli *cli, const char *endpoint);

/* Prints the verdict of the run that the command line names: its worst alert, or how many checks
 * have passed and, unless `brief`, what each of the others needs. Returns whether attnd knows one;
 * else nothing is printed. */
bool verdict_print(struct cli *cli, bool brief);
/* Why no rule has judged a run yet, whether any is in force or not. */
const char *verdict_unjudged(bool ended, bool any_rule);
/* Names layers that no check says anything of, if there are any, behind the words `whose`. */
void verdict_print_unmeasured(struct cli *cli, const char *whose, const msgpack_object *layers);
/* Says when attnd cannot write or read its history; whoever may not ask for it does not hear of
 * it. */
void runs_print_history(struct cli *cli);

/* Where a browser finds what attnd binds at `bound`. */
void reach_from_here(struct cli *cli, const char *bound, char ret_endpoint[ADDRESS_MAX]);

/* The directory of the sockets, without the last /; "" when attnd is asked by TCP. */
void reach_directory(const struct cli *cli, char ret_directory[ADDRESS_MAX]);

/* The answers of commands that are questions (commands.h). */
answer_reader show_alerts, show_config, show_fleet, show_flush, show_jobs, show_ping, show_roles,
    show_runs, show_stats, show_summary;
answer_reader judge_alerts, judge_fleet, judge_runs;
/* Other commands; each returns an exit code. */
typedef int command_runner(struct cli *cli);
command_runner cmd_check, cmd_compare, cmd_export, cmd_help, cmd_history, cmd_key, cmd_page,
    cmd_plan, cmd_ranks, cmd_record, cmd_replay, cmd_tail, cmd_top;
/* These read their command line themselves; argv without the command's name. The last two become
 * Python programs, and return only when they cannot. */
typedef int command_reader(struct cli *cli, int argc, char **argv);
command_reader cmd_analyze, cmd_show, cmd_plot, cmd_bridge;
/* Their own options, and what --help says in front of and behind them. */
extern const struct option_table analyze_options, show_options, plot_options, bridge_options;
void options_print_names(FILE *out);
void options_print_columns(FILE *out);
void show_options_print_words(FILE *out);
void plot_options_print_kinds(FILE *out);
void plot_options_print_files(FILE *out);
/* A kind of figures, NULL = there is none; and whether it takes an option of plot_options. */
const struct option_kind *plot_kind_described(const char *name);
bool plot_options_takes(const struct option_kind *kind, const struct option_text *option);

/* The program of attnctl plot runs this to read maps: argv is FD, then a line of attnctl plot. */
#define PLOT_MAPS_COMMAND "__maps"
command_reader plot_maps;

/* Becomes `python3 -m attnd.NAME` with these arguments, by the Python that ATTND_PYTHON names, else
 * the one beside attnctl (not in /usr/bin), else the one in PATH; plots by the first of these and
 * of /usr/bin/python3 that has matplotlib. The package is the one that it has, or that of the
 * source tree around attnctl, whose path is in ATTND_ATTNCTL then. Returns only when that cannot be
 * started: the exit code, after a sentence on err. */
int python_start(struct cli *cli, const char *name, int argc, const char *const *argv);

#endif
