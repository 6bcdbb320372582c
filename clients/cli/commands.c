/* SPDX-License-Identifier: MIT */
#include "clients/cli/base/commands.h"

#include "clients/cli/help/help.h"

#include <string.h>

const char *const command_group_title[COMMANDS_GROUPS] = {
    [COMMANDS_NOW] = "the present",       [COMMANDS_PAST] = "the past, from the history",
    [COMMANDS_ASK] = "requests to attnd", [COMMANDS_FILES] = "files and other programs",
    [COMMANDS_MORE] = "attnctl itself",
};

/* Asks the command's question. */
static int run_question(struct cli *cli)
{
    const struct command *command = cli->command;
    struct ask ask;
    if (cli_check_json(cli) != CLI_OK) {
        return CLI_USAGE;
    }
    ask_job(&ask, cli->args);
    ask.patient = command->patient;
    ask_layer(&ask, cli->args);
    ask_range(&ask, cli->args);
    ask_limit(&ask, cli->args, command->limit);
    return cli_show(cli, command->name, &ask, command->show, command->judge);
}

#define LAYERS (ARGS_STACK | ARGS_LAYER | ARGS_SITE)
#define RANGE  (ARGS_FROM | ARGS_TO | ARGS_COUNT)

/* clang-format off */
const struct command commands[] = {
    {.name = "jobs", .arguments = "", .group = COMMANDS_NOW, .run = run_question, .show = show_jobs,
     .help = "the training jobs attnd knows",
     .examples = {"attnctl jobs", "attnctl jobs --json"}},
    {.name = "summary", .arguments = "JOB", .words = "JOB", .group = COMMANDS_NOW,
     .run = run_question, .show = show_summary, .options = ARGS_RUN | ARGS_METRIC | ARGS_DRIFT | LAYERS, .words_min = 1,
     .words_max = 1,
     .help = "the newest window of a job, per layer and head",
     .finding = "there is no such job, or no window yet",
     .examples = {"attnctl summary gpt-small",
                  "attnctl summary gpt-small --metric mean_distance --stack decoder",
                  "attnctl summary gpt-small --drift"}},
    {.name = "top", .arguments = "[JOB]", .words = "JOB", .group = COMMANDS_NOW, .run = cmd_top,
     .options = ARGS_RUN | ARGS_METRIC | ARGS_INTERVAL, .words_max = 1, .people = true,
     .help = "all runs, those in trouble first, live, on the whole terminal",
     .text = "Enter opens a run: its verdict, its loss and what broke on one line of steps, its layers and heads. Tab shows all its alerts, m another metric, / filters the runs, ? shows all keys, q ends it. Without colours when NO_COLOR is set. It waits for a job that does not exist yet.",
     .examples = {"attnctl top",
                  "attnctl top gpt-small --run 5f3a",
                  "attnctl top gpt-small --metric max_logit --interval 5"}},
    {.name = "tail", .arguments = "[TOPIC-PREFIX]", .words = "alert/|job/|live/|log/|summary/",
     .group = COMMANDS_NOW, .run = cmd_tail, .options = ARGS_METRIC | ARGS_COUNT | ARGS_SUMMARIES,
     .words_max = 1,
     .help = "published results, one line per message, until Ctrl-C",
     .examples = {"attnctl tail",
                  "attnctl tail summary/gpt-small/ --count 10",
                  "attnctl tail alert/ --json"}},
    {.name = "alerts", .arguments = "[JOB]", .words = "JOB", .group = COMMANDS_NOW,
     .run = run_question, .show = show_alerts, .judge = judge_alerts, .patient = true, .limit = 50, .options = ARGS_RUN | ARGS_ALL | RANGE, .words_max = 1,
     .help = "alerts that fire, or did at the end; exits 1 if any",
     .text = "SINCE is the first captured step that failed, or the end of the first window of what only windows have; --json has the last that passed before it, too.",
     .finding = "an alert is firing, or was when its job's last run ended",
     .examples = {"attnctl alerts", "attnctl alerts gpt-small --all"}},
    {.name = "stats", .arguments = "", .group = COMMANDS_NOW, .run = run_question, .show = show_stats,
     .help = "counters, and whether every message is accounted for",
     .finding = "a message is unaccounted for",
     .examples = {"attnctl stats", "attnctl stats --json"}},
    {.name = "fleet", .arguments = "", .group = COMMANDS_NOW, .run = run_question, .show = show_fleet, .judge = judge_fleet,
     .help = "nodes and hub: outboxes, losses, partial windows",
     .text = "On a node its outbox; on a hub its nodes, a ! before those that somebody should see to: behind, so that windows do not wait for it, silent, or refused. LACKING: rows that a server took, and the hub has not yet.",
     .finding = "there is no connection, or a node is behind, silent or refused",
     .examples = {"attnctl fleet", "attnctl fleet --json"}},
    {.name = "ping", .arguments = "", .group = COMMANDS_NOW, .run = run_question, .show = show_ping,
     .help = "check that attnd runs; its version and uptime",
     .examples = {"attnctl ping", "attnctl ping --timeout 0.5"}},
    {.name = "page", .arguments = "", .group = COMMANDS_NOW, .run = cmd_page,
     .help = "the address of attnd's page, for a browser",
     .finding = "this attnd has no page",
     .examples = {"attnctl page", "attnctl page --json"}},
    {.name = "config", .arguments = "", .group = COMMANDS_NOW, .run = run_question, .show = show_config,
     .help = "the settings in force",
     .examples = {"attnctl config", "attnctl config --json"}},
    {.name = "history", .arguments = "JOB", .words = "JOB", .group = COMMANDS_PAST,
     .run = cmd_history,
     .options = ARGS_RUN | LAYERS | ARGS_HEAD | ARGS_METRIC | ARGS_WINDOW | RANGE | ARGS_CSV,
     .words_min = 1, .words_max = 1,
     .help = "a metric over time, window by window",
     .examples = {"attnctl history gpt-small",
                  "attnctl history gpt-small --layer 3 --head 2 --metric entropy"}},
    {.name = "roles", .arguments = "JOB", .words = "JOB", .group = COMMANDS_PAST, .run = run_question, .show = show_roles, .patient = true,
     .options = ARGS_RUN | LAYERS | ARGS_HEAD | ARGS_WINDOW, .words_min = 1, .words_max = 1,
     .help = "what each head does, the evidence for it, and since when",
     .text = "EVIDENCE is the number that decides (--json names it), SINCE the first of the WINDOWS of the role: those that have it, of all since. \"or before\": nobody saw it emerge.",
     .examples = {"attnctl roles gpt-small --layer 3"}},
    {.name = "ranks", .arguments = "JOB", .words = "JOB", .group = COMMANDS_PAST, .run = cmd_ranks,
     .options = ARGS_RUN | LAYERS | ARGS_HEAD | ARGS_WINDOW, .words_min = 1, .words_max = 1,
     .help = "which rank is the odd one out in a layer; exits 1 if any",
     .text = "ENTROPY is the mean over the heads of the rank, or of --head; DISTANCE how far its heads are from the median of the ranks: a ! is beyond 5, and needs three ranks. NODE is known on a hub, which without --layer shows the layer that has the oddest rank.",
     .finding = "a rank is odd",
     .examples = {"attnctl ranks gpt-small --layer 3", "attnctl ranks gpt-small --layer 3 --head 2"}},
    {.name = "compare", .arguments = "JOB[/RUN] JOB[/RUN]", .words = "JOB JOB",
     .group = COMMANDS_PAST, .run = cmd_compare, .options = ARGS_METRIC | ARGS_WINDOW | RANGE,
     .words_min = 2, .words_max = 2,
     .help = "the heads that differ most between two runs",
     .examples = {"attnctl compare gpt-small/3fa9 gpt-small --count 5"}},
    {.name = "export", .arguments = "JOB", .words = "JOB", .group = COMMANDS_PAST,
     .run = cmd_export,
     .options = ARGS_RUN | LAYERS | ARGS_HEAD | ARGS_METRIC | ARGS_WINDOW | ARGS_FROM | ARGS_TO | ARGS_CSV,
     .words_min = 1, .words_max = 1,
     .help = "the history of a run, for other programs",
     .examples = {"attnctl export gpt-small --json > gpt-small.jsonl",
                  "attnctl export gpt-small --csv --metric entropy > gpt-small.csv"}},
    {.name = "runs", .arguments = "[JOB]", .words = "JOB", .group = COMMANDS_PAST, .run = run_question, .show = show_runs, .judge = judge_runs, .patient = true,
     .options = ARGS_COUNT, .words_max = 1,
     .help = "the runs in the history",
     .examples = {"attnctl runs gpt-small", "attnctl runs --count 20"}},
    {.name = "flush", .arguments = "[JOB]", .words = "JOB", .group = COMMANDS_ASK, .run = run_question, .show = show_flush, .patient = true,
     .words_max = 1,
     .help = "publish open windows now, as partial",
     .examples = {"attnctl flush gpt-small"}},
    {.name = "plan", .arguments = "get [JOB] | set JOB KEY=VALUE... | reset JOB",
     .words = "get|set|reset JOB every=|layers=|heads=|samples=|rows=|tier=...", .group = COMMANDS_ASK,
     .run = cmd_plan, .words_min = 1, .words_max = ARGS_WORDS_MAX - 1,
     .help = "show or change what jobs capture",
     .text = "KEY is every, layers, heads, samples, rows or tier. With a job, get also says what capturing costs it. A plan that is set holds until attnd ends; lasting plans belong in its config.",
     .examples = {"attnctl plan get gpt-small",
                  "attnctl plan set 'gpt-*' every=10 layers='decoder.*.self' heads=0-3,7",
                  "attnctl plan reset 'gpt-*'"}},
    {.name = "record", .arguments = "JOB FILE", .words = "JOB FILE", .group = COMMANDS_FILES,
     .run = cmd_record,
     .options = ARGS_COUNT | ARGS_SECONDS | ARGS_UNTIL_END | ARGS_COMPRESS | ARGS_FORCE,
     .words_min = 2, .words_max = 2,
     .help = "write a job's messages to a file, until Ctrl-C",
     .finding = "messages were lost or the connection broke",
     .examples = {"attnctl record gpt-small run.rec --until-end",
                  "attnctl record gpt-small run.rec --seconds 60 --compress --force"}},
    {.name = "replay", .arguments = "FILE", .words = "FILE", .group = COMMANDS_FILES,
     .run = cmd_replay, .options = ARGS_RHYTHM | ARGS_INGEST, .words_min = 1, .words_max = 1,
     .help = "send a recording to attnd again, as the training job did",
     .text = "With a key (ATTND_KEY): it needs the role publish for the job, and read with *.",
     .finding = "attnd dropped messages",
     .examples = {"attnctl replay run.rec", "attnctl replay run.rec --rhythm 10"}},
    {.name = "check", .arguments = "FILE", .words = "FILE", .group = COMMANDS_FILES,
     .run = cmd_check, .options = ARGS_RULES, .words_min = 1, .words_max = 1, .offline = true,
     .help = "apply alert rules to a recording; needs no attnd",
     .text = "For the CI of training runs. Alerts about silence are left out, and spectra "
         "are computed however long it takes, unless RULES sets metrics.spectrum_budget. "
         "A run that does not end in the recording is ended after it. Layers that no numbers came of are named, which is no finding.",
     .finding = "a rule fired",
     .examples = {"attnctl check run.rec", "attnctl check run.rec --rules rules.yaml --json"}},
    {.name = "analyze", .arguments = "FILE...", .words = "FILE...", .group = COMMANDS_FILES,
     .run_alone = cmd_analyze, .words_min = 1, .offline = true, .own = &analyze_options,
     .print_before = options_print_names, .print_after = options_print_columns,
     .help = "measure attention in files; needs no attnd",
     .examples = {"attnctl analyze maps.npz --causal",
                  "attnctl analyze maps.npz --causal --lengths 128,97 --json > maps.json",
                  "attnctl analyze probs.npy --name probs=decoder.0.self"}},
    {.name = "show", .arguments = "FILE...|JOB", .words = "FILE|JOB FILE...",
     .group = COMMANDS_FILES, .run_alone = cmd_show,
     .options = ARGS_ADDRESS | ARGS_ENDPOINT | ARGS_TIMEOUT, .words_min = 1,
     .own = &show_options, .print_before = show_options_print_words,
     .help = "draw attention in the terminal, from files or a job",
     .finding = "there is no such job, or no number in the map",
     .examples = {"attnctl show maps.npz --layer 3 --head 2 --token 40",
                  "attnctl show run.rec --step 500 --layer decoder.0.self --token 7",
                  "attnctl show gpt-small --only map,pairs"}},
    {.name = "plot", .arguments = "KIND FILE...|JOB -o FILE",
     .words = "heatmap|heads|layers|flow|aggregate|rollout|similarity|spectrum|tokens|entropy|series FILE|JOB FILE...",
     .group = COMMANDS_FILES, .run_alone = cmd_plot,
     .options = ARGS_ADDRESS | ARGS_ENDPOINT | ARGS_TIMEOUT, .words_min = 2,
     .own = &plot_options, .find_kind = plot_kind_described,
     .takes = plot_options_takes, .print_before = plot_options_print_kinds,
     .print_after = plot_options_print_files,
     .help = "draw figures for papers: PNG, SVG, PDF",
     .finding = "there is no such job, no number to draw, or the figure cannot be written",
     .examples = {"attnctl plot heads maps.npz --layer 3 --causal -o heads.pdf",
                  "attnctl plot heatmap run.rec --every-layer --every-head -o figures/",
                  "attnctl plot series gpt-small --layer decoder.3.self -o entropy.svg"}},
    {.name = "bridge", .arguments = "SINK [DIRECTORY|FILE]",
     .words = "tensorboard|wandb|trackio|mlflow|jsonl FILE", .group = COMMANDS_FILES,
     .run_alone = cmd_bridge, .options = ARGS_ADDRESS | ARGS_ENDPOINT | ARGS_TIMEOUT,
     .words_min = 1, .passes_on = true, .own = &bridge_options,
     .help = "forward to TensorBoard, W&B, Trackio, MLflow or as JSON lines",
     .text = "SINK is tensorboard, wandb, trackio, mlflow or jsonl; attnctl bridge SINK --help explains each. The Python package attnd does the work, with python3 (beside attnctl, else in PATH) or the Python that $ATTND_PYTHON names, until Ctrl-C.",
     .finding = "something was not written",
     .examples = {"attnctl bridge tensorboard runs",
                  "attnctl bridge wandb --project attention --job gpt-small",
                  "attnctl bridge jsonl --until-end > gpt-small.jsonl"}},
    {.name = "key", .arguments = "new FILE | show FILE | list", .words = "new|show|list FILE", .group = COMMANDS_MORE,
     .run = cmd_key, .options = ARGS_ADDRESS | ARGS_ENDPOINT | ARGS_TIMEOUT, .words_min = 1, .words_max = 2, .offline = true,
     .help = "make a key for TCP, print its public half, list those of attnd",
     .text = "The file is the secret; attnd has it as keys.server, a client as ATTND_KEY. The public half of a client's goes into keys.access, that of attnd's into ATTND_SERVER_KEY. list shows keys.access as attnd has read it, and which keys are connected; over TCP it needs the role admin.",
     .examples = {"attnctl key new trainer.key", "attnctl key show server.key", "attnctl key list"}},
    {.name = "help", .arguments = "[COMMAND]", .words = "COMMAND", .group = COMMANDS_MORE,
     .run = cmd_help, .words_max = 1, .offline = true,
     .help = "list the commands, or explain one",
     .examples = {"attnctl help", "attnctl help summary", "attnctl help --json"}},
};
/* clang-format on */
const int command_count = sizeof commands / sizeof commands[0];

const struct command *command_find(const char *name)
{
    for (int i = 0; i < command_count; i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

/* An endpoint or a timeout means nothing to a command that asks no attnd; it is taken all the same,
 * so that "attnctl --endpoint ..." may be an alias. */
static unsigned shown_options(const struct command *command)
{
    if (command->run_alone) {
        return command->options | ARGS_HELP;
    }
    unsigned hidden = (command->offline ? ARGS_ENDPOINT | ARGS_TIMEOUT : 0u) |
                      (command->people ? (unsigned)ARGS_JSON : 0u);
    return command->options | (ARGS_EVERY_COMMAND & ~hidden);
}

const struct option_kind *command_find_kind(const struct command *command, const char *word)
{
    return command->find_kind ? command->find_kind(word) : NULL;
}

/* Leaves out what the kind does not take, and titles with nothing below them. */
static void narrow_options(const struct command *command, const struct option_kind *kind,
                           struct option_list *list)
{
    const struct option_text *title = NULL;
    struct option_list taken = {.count = 0};
    for (int i = 0; i < list->count; i++) {
        const struct option_text *option = list->option[i];
        if (!option->help) {
            title = option;
        } else if (command->takes(kind, option)) {
            if (title) {
                option_list_add(&taken, title);
            }
            title = NULL;
            option_list_add(&taken, option);
        }
    }
    *list = taken;
}

struct option_list command_options(const struct command *command, const struct option_kind *kind)
{
    struct option_list list = {.count = 0};
    if (command && command->own) {
        option_list_add_own(&list, command->own);
    }
    if (kind) {
        narrow_options(command, kind, &list);
    }
    args_list(&list, command ? shown_options(command) : ARGS_EVERY_COMMAND | ARGS_VERSION);
    return list;
}

const char *command_nearest(const char *name)
{
    struct nearest nearest;
    nearest_init(&nearest, name);
    for (int i = 0; i < command_count; i++) {
        nearest_try(&nearest, commands[i].name);
    }
    return nearest.best;
}

const char *command_nearest_option(const struct command *command, const char *option)
{
    const struct option_list list = command_options(command, NULL);
    struct nearest nearest;
    nearest_init_option(&nearest, option);
    for (int i = 0; i < list.count; i++) {
        if (list.option[i]->help) {
            nearest_try(&nearest, list.option[i]->name);
        }
    }
    return nearest.best;
}

/* The option that "--name" or "--name=value" means, perhaps abbreviated: a whole name counts more
 * than what begins like it. NULL = none, as for a word that is no option. */
static const struct option_text *look_up(const struct option_list *list, const char *option)
{
    size_t length = strncmp(option, "--", 2) == 0 ? strcspn(option + 2, "=") : 0;
    const struct option_text *found = NULL;
    for (int i = 0; i < list->count && length > 0; i++) {
        const struct option_text *text = list->option[i];
        if (!text->help || strncmp(text->name, option + 2, length) != 0) {
            continue;
        }
        found = text;
        if (strlen(text->name) == length) {
            break;
        }
    }
    return found;
}

/* Whether a command, or every command, has the option. */
static bool command_has_option(const struct command *command, const char *option)
{
    struct option_list list = command_options(command, NULL);
    args_list(&list, ARGS_EVERY_COMMAND);
    return look_up(&list, option);
}

bool command_option_takes_next(const struct command *command, const char *option)
{
    struct option_list list = {.count = 0};
    args_list(&list, ~0u);
    for (int i = 0; i < command_count; i++) {
        if (commands[i].own && (!command || command == &commands[i])) {
            option_list_add_own(&list, commands[i].own);
        }
    }
    const struct option_text *found = look_up(&list, option);
    return found && found->argument && !strchr(option, '=');
}

/* Words of a command line -------------------------------------------------------------------- */

/* "-" is a word: it stands for standard input. */
static bool is_option(const char *text)
{
    return text[0] == '-' && text[1] != '\0';
}

int line_find_word(const struct command *command, int argc, char *const *argv)
{
    int at = 1;
    while (at < argc && is_option(argv[at])) {
        if (strcmp(argv[at], "--") == 0) {
            return at + 1;
        }
        at += 1 + command_option_takes_next(command, argv[at]);
    }
    return at < argc ? at : argc;
}

bool line_asks_help(const struct command *command, int argc, char *const *argv)
{
    for (int at = 1; at < argc; at++) {
        if (strcmp(argv[at], "--") == 0) {
            return false;
        }
        if (strcmp(argv[at], "--help") == 0 || strcmp(argv[at], "-h") == 0) {
            return true;
        }
        if (is_option(argv[at])) {
            at += command_option_takes_next(command, argv[at]);
        }
    }
    return false;
}

const char *line_find_unknown(const struct command *command, int argc, char *const *argv)
{
    for (int at = 1; at < argc && strcmp(argv[at], "--") != 0; at++) {
        bool option = strncmp(argv[at], "--", 2) == 0;
        if (option && !command_has_option(command, argv[at])) {
            return argv[at];
        }
        if (option) {
            at += command_option_takes_next(command, argv[at]);
        }
    }
    return NULL;
}
