/* SPDX-License-Identifier: MIT */
#include "clients/cli/help/pages/page.h"

#include "clients/cli/help/pages/roff.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static void page_print_option(const struct option_text *option, void *data)
{
    char name[64];
    FILE *out = data;
    if (!option->help) {
        fputs(".SS ", out);
        roff_line(option->name, out);
        return;
    }
    snprintf(name, sizeof name, "--%s", option->name);
    roff_term(name, option->argument, out);
    roff_line(option->help, out);
}

/* Captures the output of a function, as roff. */
static void print_lines(void (*print)(FILE *out), bool head, FILE *out)
{
    char *text = NULL;
    size_t size = 0;
    FILE *memory = print ? open_memstream(&text, &size) : NULL;
    if (!memory) {
        return;
    }
    print(memory);
    if (fclose(memory) == 0) {
        roff_lines(text, head, out);
    }
    free(text);
}

static void print_status(const char *code, const char *meaning, FILE *out)
{
    roff_term(code, NULL, out);
    roff_line(meaning, out);
}

static void page_print_exit_status(const char *finding, bool offline, FILE *out)
{
    char text[256];
    if (!finding) {
        finding = offline ? "" : "attnd answered, and the answer is bad news; or ";
    }
    snprintf(text, sizeof text, "%smemory is short, or the output cannot be written.", finding);
    text[0] = (char)toupper((unsigned char)text[0]);
    fputs(".SH EXIT STATUS\n", out);
    print_status("0", "Done.", out);
    print_status("1", text, out);
    print_status("2", "The command line, or a file that it names, cannot be followed.", out);
    if (!offline) {
        print_status("3", "attnd cannot be reached.", out);
    }
}

static void print_environment(FILE *out)
{
    fputs(".SH ENVIRONMENT\n", out);
    roff_term("ATTND_ADDRESS", NULL, out);
    roff_line(
        "Which attnd, unless --address says so: a directory of its sockets, or tcp://host:port. "
        "Without it, the first that answers in $XDG_RUNTIME_DIR/attnd, /run/user/UID/attnd, "
        "/tmp/attnd-UID or /run/attnd, which is the service's: it lets in members of group "
        "attnd. A directory that others can write to is passed over.",
        out);
    roff_term("ATTND_ENDPOINT", NULL, out);
    roff_line("Exactly the socket where attnd answers, unless --endpoint says so; goes before "
              "ATTND_ADDRESS.",
              out);
}

/* attnctl(1) ------------------------------------------------------------------------------------
 */

void page_of_attnctl(FILE *out)
{
    roff_head("ATTNCTL", 1, "attnctl", "ask attnd about the attention heads of a training job",
              out);
    fputs(".SH SYNOPSIS\n\\fBattnctl\\fR \\fICOMMAND\\fR [\\fIARGUMENTS\\fR] [\\fIOPTIONS\\fR]\n"
          ".SH DESCRIPTION\n",
          out);
    roff_line("Asks a running attnd what the attention heads of the training jobs do, and what "
              "they did; records and replays jobs; and measures attention in files, without "
              "attnd. Options may stand before or after the command.",
              out);
    fputs(".SH COMMANDS\n", out);
    for (int group = 0; group < COMMANDS_GROUPS; group++) {
        fputs(".SS ", out);
        roff_line(command_group_title[group], out);
        for (int i = 0; i < command_count; i++) {
            if ((int)commands[i].group != group) {
                continue;
            }
            fputs(".TP\n.BR attnctl\\-", out);
            roff_text(commands[i].name, strlen(commands[i].name), out);
            fputs(" (1)\n", out);
            roff_line(commands[i].help, out);
        }
    }
    fputs(".SH OPTIONS\nOf every command:\n", out);
    args_each_option(ARGS_EVERY_COMMAND | ARGS_VERSION, page_print_option, out);
    print_environment(out);
    roff_term("ATTND_PYTHON", NULL, out);
    roff_line("The Python that attnctl bridge runs, unless python3.", out);
    page_print_exit_status(NULL, false, out);
    fputs(".SH EXAMPLES\n.EX\nattnctl jobs\nattnctl summary gpt\\-small \\-\\-metric entropy\n"
          ".EE\n.SH SEE ALSO\n.BR attnd (8)\n",
          out);
}

/* attnctl-COMMAND(1) ----------------------------------------------------------------------------
 */

void page_of_command(const struct command *command, FILE *out)
{
    char title[80], name[80];
    snprintf(name, sizeof name, "attnctl-%s", command->name);
    snprintf(title, sizeof title, "%s", name);
    for (char *c = title; *c; c++) {
        *c = (char)toupper((unsigned char)*c);
    }
    roff_head(title, 1, name, command->help, out);
    fputs(".SH SYNOPSIS\n\\fBattnctl ", out);
    roff_text(command->name, strlen(command->name), out);
    fputs("\\fR ", out);
    roff_arguments(command->arguments, out);
    fputs(*command->arguments ? " [\\fIOPTIONS\\fR]\n" : "[\\fIOPTIONS\\fR]\n", out);
    char help[128];
    snprintf(help, sizeof help, "%s.", command->help);
    help[0] = (char)toupper((unsigned char)help[0]);
    fputs(".SH DESCRIPTION\n", out);
    roff_line(help, out);
    if (command->text) {
        fputs(".PP\n", out);
        roff_line(command->text, out);
    }
    print_lines(command->print_before, false, out);
    fputs(".SH OPTIONS\n", out);
    command_each_option(command, page_print_option, out);
    if (command->print_after) {
        fputs(".SH NOTES\n", out);
    }
    print_lines(command->print_after, true, out);
    if (!command->offline) {
        print_environment(out);
    }
    char finding[128] = "";
    if (command->finding) {
        snprintf(finding, sizeof finding, "%s; or ", command->finding);
    }
    page_print_exit_status(command->finding ? finding : NULL, command->offline, out);
    fputs(".SH EXAMPLES\n.EX\n", out);
    for (int i = 0; i < COMMAND_EXAMPLES_MAX && command->examples[i]; i++) {
        const char *line = command->examples[i];
        roff_text(line, strlen(line), out);
        putc('\n', out);
    }
    fputs(".EE\n", out);
    fputs(".SH SEE ALSO\n.BR attnctl (1),\n.BR attnd (8)\n", out);
}

/* attnd(8) --------------------------------------------------------------------------------------
 */

void page_of_help(const char *help, FILE *out)
{
    static const char usage[] = "usage: ";
    size_t length = strcspn(help, "\n");
    const char *rest = help + length;
    roff_head("ATTND", 8, "attnd", "watch the attention heads of transformers while they train",
              out);
    fputs(".SH SYNOPSIS\n", out);
    size_t skip = strncmp(help, usage, strlen(usage)) == 0 ? strlen(usage) : 0;
    roff_text(help + skip, length - skip, out);
    fputs("\n.SH DESCRIPTION\n", out);
    roff_lines(rest + strspn(rest, "\n"), true, out);
    fputs(".SH SEE ALSO\n.BR attnctl (1)\n", out);
}
