/* SPDX-License-Identifier: MIT */
/* pages: writes the manual, for the build. Every page is replaced, which changes its directory, and
 * so tells the build that it is new. */
#include "clients/cli/help/pages/page.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PATH_BYTES 4096
#define HELP_MAX   65536

static int main_fail(const char *path)
{
    fprintf(stderr, "pages: %s: %s\n", path, strerror(errno));
    return EXIT_FAILURE;
}

/* The subject of a page, and the function that writes it. */
struct subject {
    const struct command *command; /* NULL = another */
    const char *help;              /* NULL = attnctl */
};

/* Through another name, so that a page is there as a whole or not at all. */
static int write_page(const char *directory, const char *name, const struct subject *subject)
{
    char path[PATH_BYTES], other[PATH_BYTES + 8];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    snprintf(other, sizeof other, "%s.new", path);
    FILE *out = fopen(other, "w");
    if (!out) {
        return main_fail(other);
    }
    if (subject->command) {
        page_of_command(subject->command, out);
    } else if (subject->help) {
        page_of_help(subject->help, out);
    } else {
        page_of_attnctl(out);
    }
    bool failed = ferror(out);
    if (fclose(out) != 0 || failed || rename(other, path) != 0) {
        return main_fail(path);
    }
    return EXIT_SUCCESS;
}

static int main_make_directory(const char *path)
{
    return mkdir(path, 0777) == 0 || errno == EEXIST ? EXIT_SUCCESS : main_fail(path);
}

static int write_attnctl(const char *directory)
{
    int code = main_make_directory(directory);
    if (code == EXIT_SUCCESS) {
        code = write_page(directory, "attnctl.1", &(struct subject){0});
    }
    for (int i = 0; i < command_count && code == EXIT_SUCCESS; i++) {
        char name[80];
        snprintf(name, sizeof name, "attnctl-%s.1", commands[i].name);
        code = write_page(directory, name, &(struct subject){.command = &commands[i]});
    }
    return code;
}

static int write_attnd(const char *directory, const char *path)
{
    static char help[HELP_MAX];
    FILE *in = fopen(path, "r");
    if (!in) {
        return main_fail(path);
    }
    size_t size = fread(help, 1, sizeof help - 1, in);
    fclose(in);
    if (size == 0) {
        return main_fail(path);
    }
    int code = main_make_directory(directory);
    return code == EXIT_SUCCESS ? write_page(directory, "attnd.8", &(struct subject){.help = help})
                                : code;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fputs("usage: pages MAN1-DIRECTORY MAN8-DIRECTORY HELP-OF-ATTND\n", stderr);
        return EXIT_FAILURE;
    }
    int code = write_attnctl(argv[1]);
    return code == EXIT_SUCCESS ? write_attnd(argv[2], argv[3]) : code;
}
