/* SPDX-License-Identifier: MIT */
/* option: an option as it is shown: by --help, in the man pages and to who presses Tab. Each is
 * described once, in the table that also drives its parser. Strings are static. */
#ifndef CLI_OPTION_H
#define CLI_OPTION_H

struct option_text {
    const char *name;
    const char *argument; /* NULL = none */
    const char *help;     /* NULL: this is no option but the title of those that follow */
    const char *values;   /* what its value may be, in the words of complete.h; NULL = anything */
};

/* Called once per option, in the order of the help. */
typedef void option_visitor(const struct option_text *option, void *data);

#endif
