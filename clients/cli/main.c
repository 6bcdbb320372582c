/* SPDX-License-Identifier: MIT */
/* attnctl: asks a running attnd, or measures files without one. This file is the table of contents.
 */
#include "cli.h"
#include "out.h"

#include <string.h>

struct command {
    const char *name;
    int (*run)(struct cli *cli);
    const char *help;
    const char *arguments;
    const char *example;
    unsigned options; /* besides ARGS_EVERY_COMMAND */
    int words_min, words_max;
    /* A command that asks no attnd: it reads its command line itself. */
    int (*run_alone)(struct cli *cli, int argc, char **argv);
};

static const struct command commands[] = {
    {"jobs", cmd_jobs, "the training jobs attnd knows", "", "attnctl jobs", 0, 0, 0, NULL},
    {"summary", cmd_summary, "the newest window of a job, per layer and head", " JOB",
     "attnctl summary gpt-small --metric mean_distance --stack decoder",
     ARGS_METRIC | ARGS_DRIFT | ARGS_STACK | ARGS_LAYER | ARGS_SITE, 1, 1, NULL},
    {"tail", cmd_tail, "what attnd publishes, one line per message, until Ctrl-C",
     " [TOPIC-PREFIX]", "attnctl tail summary/gpt-small/ --count 10",
     ARGS_METRIC | ARGS_COUNT | ARGS_SUMMARIES, 0, 1, NULL},
    {"history", cmd_history, "how a metric went, window by window", " JOB",
     "attnctl history gpt-small --layer 3 --head 2 --metric entropy",
     ARGS_RUN | ARGS_STACK | ARGS_LAYER | ARGS_SITE | ARGS_HEAD | ARGS_METRIC | ARGS_WINDOW |
         ARGS_FROM | ARGS_TO | ARGS_COUNT | ARGS_CSV,
     1, 1, NULL},
    {"alerts", cmd_alerts, "what is firing; exit status 1 if anything is", " [JOB]",
     "attnctl alerts gpt-small --all", ARGS_RUN | ARGS_ALL | ARGS_FROM | ARGS_TO | ARGS_COUNT, 0, 1,
     NULL},
    {"compare", cmd_compare, "the heads that differ most between two runs", " JOB[/RUN] JOB[/RUN]",
     "attnctl compare gpt-small/3fa9 gpt-small --count 5",
     ARGS_METRIC | ARGS_WINDOW | ARGS_FROM | ARGS_TO | ARGS_COUNT, 2, 2, NULL},
    {"export", cmd_export, "the history of a run, for other programs", " JOB",
     "attnctl export gpt-small --csv --metric entropy > gpt-small.csv",
     ARGS_RUN | ARGS_STACK | ARGS_LAYER | ARGS_SITE | ARGS_HEAD | ARGS_METRIC | ARGS_WINDOW |
         ARGS_FROM | ARGS_TO | ARGS_CSV,
     1, 1, NULL},
    {"runs", cmd_runs, "the runs that the history has", " [JOB]", "attnctl runs gpt-small",
     ARGS_COUNT, 0, 1, NULL},
    {"stats", cmd_stats, "counters, and whether every message is accounted for", "",
     "attnctl stats --json", 0, 0, 0, NULL},
    {"ping", cmd_ping, "whether attnd is there, its version and for how long", "",
     "attnctl ping --timeout 0.5", 0, 0, 0, NULL},
    {"config", cmd_config, "the settings in force", "", "attnctl config --json", 0, 0, 0, NULL},
    {"flush", cmd_flush, "publish what open windows hold now, as partial", " [JOB]",
     "attnctl flush gpt-small", 0, 0, 1, NULL},
    {"plan", cmd_plan, "what jobs are asked to capture: every, layers, heads, samples, rows",
     " get [JOB] | set JOB KEY=VALUE... | reset JOB",
     "attnctl plan set 'gpt-*' every=10 layers='decoder.*.self' heads=0-3,7 samples=0 rows=64", 0,
     1, ARGS_WORDS_MAX - 1, NULL},
    {"record", cmd_record, "a job's messages to a file, until Ctrl-C", " JOB FILE",
     "attnctl record gpt-small run.rec --until-end",
     ARGS_COUNT | ARGS_SECONDS | ARGS_UNTIL_END | ARGS_COMPRESS | ARGS_FORCE, 2, 2, NULL},
    {"replay", cmd_replay, "send a recording again, as the training job did", " FILE",
     "attnctl replay run.rec --rhythm 10", ARGS_RHYTHM | ARGS_INGEST, 1, 1, NULL},
    {"bridge", NULL, "forward to TensorBoard, W&B, MLflow or as JSON lines", " SINK",
     "attnctl bridge tensorboard runs", 0, 0, 0, cmd_bridge},
    {"check", NULL, "judge a recording by alert rules; needs no attnd", " FILE",
     "attnctl check run.rec --rules rules.yaml", 0, 0, 0, cmd_check},
    {"analyze", NULL, "measure attention in files; needs no attnd", " FILE...",
     "attnctl analyze maps.npz --causal --json", 0, 0, 0, cmd_analyze},
    {"show", NULL, "a layer's attention in the terminal: of files or a job", " FILE... | JOB",
     "attnctl show maps.npz --layer 3", 0, 0, 0, cmd_show},
    {"plot", NULL, "draw figures of maps and of their history: PNG, SVG, PDF", " KIND SOURCE",
     "attnctl plot heads maps.npz --layer 3 -o heads.png", 0, 0, 0, cmd_plot},
};
enum { COMMAND_COUNT = sizeof(commands) / sizeof(commands[0]) };

static const struct command *find_command(const char *name)
{
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static void print_help(FILE *out)
{
    fputs("usage: attnctl COMMAND [ARGUMENTS] [OPTIONS]\n\n", out);
    for (int i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].help);
    fputs("\noptions of every command:\n", out);
    args_print_options(ARGS_EVERY_COMMAND, out);
    fputs("\nattnctl COMMAND --help shows a command's own options and an example.\n"
          "Endpoint: --endpoint, else $ATTND_ENDPOINT, else tcp://127.0.0.1:5572.\n"
          "Exit status: 0 done; 1 bad news, out of memory, or the output cannot be written;\n"
          "2 wrong usage; 3 attnd cannot be reached\n",
          out);
}

static void print_command_help(const struct command *command, FILE *out)
{
    fprintf(out, "usage: attnctl %s%s [OPTIONS]\n%s\n\n", command->name, command->arguments,
            command->help);
    args_print_options(command->options | ARGS_EVERY_COMMAND, out);
    fprintf(out, "\nexample: %s\n", command->example);
}

static int fail_words(struct cli *cli, const struct command *command)
{
    fprintf(cli->err, "usage: attnctl %s%s [OPTIONS]\n", command->name, command->arguments);
    return CLI_USAGE;
}

/* Whether the command line fits the command; explains if not. */
static int check_usage(struct cli *cli, const struct command *command)
{
    unsigned foreign = cli->args->given & ~(command->options | ARGS_EVERY_COMMAND);
    int words = cli->args->word_count - 1;
    if (foreign)
        return cli_usage(cli, "--%s is not an option of %s (see attnctl %s --help)",
                         args_option_name(foreign), command->name, command->name);
    if (words < command->words_min || words > command->words_max)
        return fail_words(cli, command);
    return CLI_OK;
}

static int run(struct cli *cli, const struct command *command)
{
    struct rpc rpc;
    int code = check_usage(cli, command);
    if (code == CLI_OK)
        code = cli_connect(cli, &rpc);
    if (code != CLI_OK)
        return code;
    cli->rpc = &rpc;
    code = command->run(cli);
    rpc_close(&rpc);
    return code;
}

static int dispatch(struct cli *cli)
{
    const struct args *args = cli->args;
    if (args->given & ARGS_VERSION) {
        fputs("attnctl " ATTND_VERSION "\n", cli->out);
        return CLI_OK;
    }
    const struct command *command = args->word_count > 0 ? find_command(args->words[0]) : NULL;
    if (args->word_count > 0 && !command)
        return cli_usage(cli, "no command '%.80s' (see attnctl --help)", args->words[0]);
    if (!command) {
        bool asked = args->given & ARGS_HELP;
        print_help(asked ? cli->out : cli->err);
        return asked ? CLI_OK : CLI_USAGE;
    }
    if (args->given & ARGS_HELP) {
        print_command_help(command, cli->out);
        return CLI_OK;
    }
    return run(cli, command);
}

/* The place in argv of a command that runs alone: the first word that is no option; 0 = there is
 * none. */
static int find_alone(int argc, char *const *argv)
{
    int at = 1;
    while (at < argc && argv[at][0] == '-')
        at++;
    const struct command *command = at < argc ? find_command(argv[at]) : NULL;
    return command && command->run_alone ? at : 0;
}

/* Takes the word out of argv: what is left are options and files. */
static int run_alone(struct cli *cli, int argc, char **argv, int at)
{
    const struct command *command = find_command(argv[at]);
    memmove(argv + at, argv + at + 1, (size_t)(argc - at) * sizeof(*argv));
    return command->run_alone(cli, argc - 1, argv);
}

int main(int argc, char **argv)
{
    char error[ARGS_ERROR_MAX];
    struct args args;
    struct cli cli = {.args = &args, .out = stdout, .err = stderr, .width = out_width(stdout)};
    int alone = find_alone(argc, argv);
    if (!alone && args_parse(argc, argv, &args, error) != 0)
        return cli_usage(&cli, "%s (see attnctl --help)", error);
    int code = alone ? run_alone(&cli, argc, argv, alone) : dispatch(&cli);
    if (fflush(stdout) != 0 || ferror(stdout))
        return cli_fail_output(&cli);
    return code;
}
