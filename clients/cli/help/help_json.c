/* SPDX-License-Identifier: MIT */
/* help_json: the table of commands for programs: {"commands": [{name, arguments, help, exit_1,
 * options: [{name, argument, help}], examples: [...]}]}; null where there is nothing. */
#include "clients/cli/help/help.h"

#include <string.h>

/* Titles are for people. */
static void count_option(const struct option_text *option, void *data)
{
    *(uint32_t *)data += option->help != NULL;
}

static void put_option(const struct option_text *option, void *data)
{
    if (!option->help) {
        return;
    }
    mpk_put_map(data, 3);
    mpk_pair_str(data, "name", option->name);
    mpk_pair_str(data, "argument", option->argument);
    mpk_pair_str(data, "help", option->help);
}

int help_print_json(struct cli *cli, const struct command *command)
{
    struct mpk_writer writer;
    mpk_writer_init(&writer);
    mpk_put_map(&writer, 1);
    mpk_put_str(&writer, "commands");
    mpk_put_array(&writer, command ? 1 : (uint32_t)command_count);
    for (int i = 0; i < command_count; i++) {
        if (!command || command == &commands[i]) {
            const struct command *command_command = &commands[i];
            mpk_put_map(&writer, 6);
            mpk_pair_str(&writer, "name", command_command->name);
            mpk_pair_str(&writer, "arguments", command_command->arguments);
            mpk_pair_str(&writer, "help", command_command->help);
            mpk_pair_str(&writer, "exit_1", command_command->finding);
            uint32_t count = 0;
            command_each_option(command_command, count_option, &count);
            mpk_put_str(&writer, "options");
            mpk_put_array(&writer, count);
            command_each_option(command_command, put_option, &writer);
            uint32_t examples_count = 0;
            while (examples_count < COMMAND_EXAMPLES_MAX &&
                   command_command->examples[examples_count]) {
                examples_count++;
            }
            mpk_put_str(&writer, "examples");
            mpk_put_array(&writer, examples_count);
            for (uint32_t j = 0; j < examples_count; j++) {
                mpk_put_str(&writer, command_command->examples[j]);
            }
        }
    }
    int code = cli_print_written(cli, &writer, 2, cli->out);
    mpk_writer_clear(&writer);
    return code;
}
