/* SPDX-License-Identifier: MIT */
#include "clients/cli/help/help.h"

#include "clients/cli/base/out.h"

#include <string.h>

/* Columns of the names of commands and of options, with the blanks around them. */
enum { NAME_COLUMN = 12, OPTION_COLUMN = 25 };

static void help_print_options(const struct option_list *list, FILE *out)
{
    for (int i = 0; i < list->count; i++) {
        const struct option_text *option = list->option[i];
        if (!option->help) {
            fprintf(out, "\n%s:\n", option->name);
            continue;
        }
        int column = fprintf(out, "  --%s%s%s", option->name, option->argument ? " " : "",
                             option->argument ? option->argument : "");
        if (column >= OPTION_COLUMN) {
            putc('\n', out);
            column = 0;
        }
        fprintf(out, "%*s", OPTION_COLUMN - column, "");
        text_wrap(option->help, OPTION_COLUMN, OPTION_COLUMN, out);
    }
}

void help_print(FILE *out)
{
    struct option_list every = {.count = 0};
    fputs("usage: attnctl COMMAND [ARGUMENTS] [OPTIONS]\n"
          "Watches attention heads of transformers while they train: asks attnd.\n",
          out);
    for (int group = 0; group < COMMANDS_GROUPS; group++) {
        fprintf(out, "\n%s:\n", command_group_title[group]);
        for (int i = 0; i < command_count; i++) {
            if ((int)commands[i].group != group) {
                continue;
            }
            fprintf(out, "  %-*s", NAME_COLUMN - 2, commands[i].name);
            text_wrap(commands[i].help, NAME_COLUMN, NAME_COLUMN, out);
        }
    }
    fputs("\noptions of every command:\n", out);
    args_list(&every, ARGS_EVERY_COMMAND);
    help_print_options(&every, out);
    fputs("\nattnctl help COMMAND shows a command's own options and examples.\n"
          "Which attnd: --address or --endpoint, else $ATTND_ADDRESS;\n"
          "else the first that answers in $XDG_RUNTIME_DIR/attnd, /run/user/UID/attnd,\n"
          "/tmp/attnd-UID or /run/attnd (the service: join group attnd).\n"
          "\nexamples:\n  attnctl jobs\n  attnctl summary gpt-small --metric entropy\n"
          "\nExit status: 0 done; 1 bad news, out of memory, or the output cannot be written;\n"
          "2 wrong usage; 3 attnd cannot be reached\n",
          out);
}

void help_print_command(const struct command *command, const struct option_kind *kind, FILE *out)
{
    const struct option_list options = command_options(command, kind);
    if (kind) {
        fprintf(out, "usage: attnctl %s %s %s [OPTIONS]\n", command->name, kind->name,
                kind->arguments);
        text_wrap(kind->help, 0, 0, out);
        help_print_options(&options, out);
        fprintf(out, "\nattnctl %s --help lists the options of all kinds.\n", command->name);
        fprintf(out, "\nexample:\n  %s\n", kind->example);
    } else {
        fprintf(out, "usage: attnctl %s%s%s [OPTIONS]\n", command->name,
                *command->arguments ? " " : "", command->arguments);
        text_wrap(command->help, 0, 0, out);
        if (command->text) {
            putc('\n', out);
            text_wrap(command->text, 0, 0, out);
        }
        if (command->print_before) {
            command->print_before(out);
        }
        if (!command->own) {
            putc('\n', out);
        }
        help_print_options(&options, out);
        if (command->print_after) {
            command->print_after(out);
        }
        fprintf(out, "\nexample%s:\n", command->examples[1] ? "s" : "");
        for (int i = 0; i < COMMAND_EXAMPLES_MAX && command->examples[i]; i++) {
            fprintf(out, "  %s\n", command->examples[i]);
        }
    }
    char text[256];
    const char *finding = command->finding ? command->finding : command->offline ? "" : "bad news";
    fputs("\nExit status: 0 done; 1 ", out);
    snprintf(text, sizeof text, "%s%sout of memory, or the output cannot be written; 2 %s", finding,
             *finding ? ", " : "",
             command->offline ? "wrong usage or a file that cannot be read"
                              : "wrong usage; 3 attnd cannot be reached");
    text_wrap(text, 23, 0, out);
}

int help_refuse_command(struct cli *cli, const char *name)
{
    const char *near = command_nearest(name);
    return cli_usage(cli, "no command '%.80s'%s%s%s (see attnctl --help)", name,
                     near ? ": did you mean '" : "", near ? near : "", near ? "'?" : "");
}

int help_refuse_words(struct cli *cli, const struct command *command)
{
    int words = cli->args->word_count - 1;
    const char *blank, *usage = *command->arguments ? " " : "";
    if (words > command->words_max) {
        return cli_usage(cli, "unexpected argument '%.80s'; usage: attnctl %s%s%s [OPTIONS]",
                         cli->args->words[command->words_max + 1], command->name, usage,
                         command->arguments);
    }
    /* "JOB FILE" and 1: "FILE"; the last one when there are fewer. Alternatives cannot be told
     * apart. */
    const char *argument = strchr(command->arguments, '|') ? "something" : command->arguments;
    while (words-- > 0 && (blank = strchr(argument, ' '))) {
        argument = blank + 1;
    }
    return cli_usage(cli, "%.*s is missing; usage: attnctl %s%s%s [OPTIONS]",
                     (int)strcspn(argument, " "), argument, command->name, usage,
                     command->arguments);
}

/* JSON */

/* One command, or all of them when it is NULL. Returns an exit code. */
static int help_print_json(struct cli *cli, const struct command *command)
{
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    mpk_put_map(&writer, 1);
    mpk_pair_array(&writer, "commands", command ? 1 : (uint32_t)command_count);
    for (int i = 0; i < command_count; i++) {
        const struct command *one = &commands[i];
        const struct option_list list = command_options(one, NULL);
        uint32_t options = 0, examples = 0;
        if (command && command != one) {
            continue;
        }
        mpk_put_map(&writer, 6);
        mpk_pair_str(&writer, "name", one->name);
        mpk_pair_str(&writer, "arguments", one->arguments);
        mpk_pair_str(&writer, "help", one->help);
        mpk_pair_str(&writer, "exit_1", one->finding);
        for (int j = 0; j < list.count; j++) {
            options += list.option[j]->help != NULL; /* titles are for people */
        }
        mpk_pair_array(&writer, "options", options);
        for (int j = 0; j < list.count; j++) {
            if (list.option[j]->help) {
                mpk_put_map(&writer, 3);
                mpk_pair_str(&writer, "name", list.option[j]->name);
                mpk_pair_str(&writer, "argument", list.option[j]->argument);
                mpk_pair_str(&writer, "help", list.option[j]->help);
            }
        }
        while (examples < COMMAND_EXAMPLES_MAX && one->examples[examples]) {
            examples++;
        }
        mpk_pair_array(&writer, "examples", examples);
        for (uint32_t j = 0; j < examples; j++) {
            mpk_put_str(&writer, one->examples[j]);
        }
    }
    return cli_print_written(cli, &writer, 2);
}

int cmd_help(struct cli *cli)
{
    const struct args *args = cli->args;
    const struct command *command = args->word_count > 1 ? command_find(args->words[1]) : NULL;
    if (args->word_count > 1 && !command) {
        return help_refuse_command(cli, args->words[1]);
    }
    if (args->given & ARGS_JSON) {
        return help_print_json(cli, command);
    }
    if (command) {
        help_print_command(command, NULL, cli->out);
    } else {
        help_print(cli->out);
    }
    return CLI_OK;
}
