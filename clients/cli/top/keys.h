/* SPDX-License-Identifier: MIT */
/* keys: the effect of each key. Pure: a key is a number, the model changes. */
#ifndef CLIENTS_CLI_TOP_KEYS_H
#define CLIENTS_CLI_TOP_KEYS_H

#include "clients/cli/top/model.h"

/* Keys that are no characters; others are their ASCII code. */
enum key {
    KEY_OF_TAB = '\t',
    KEY_OF_ENTER = '\n',
    KEY_OF_ESCAPE = 27,
    KEY_OF_ERASE = 127,
    KEY_OF_UP = 256,
    KEY_OF_DOWN,
    KEY_OF_LEFT,
    KEY_OF_RIGHT,
    KEY_OF_PAGE_UP,
    KEY_OF_PAGE_DOWN,
    KEY_OF_HOME,
    KEY_OF_END,
};

/* Keys without a meaning where the user is do nothing. */
void keys_press(struct model *model, int key);

/* The rows of the list that is on top, and that list; NULL: there is none. */
struct list *keys_list(struct model *model, uint32_t *ret_count);

/* The lines that `?` shows, a pair each: keys and their effect. */
struct key_help {
    const char *keys, *text;
};
extern const struct key_help key_help[];
extern const int key_help_count;

/* The list of metrics to sort by begins with these. */
#define KEYS_SORTS 4
extern const char *const keys_sorts[KEYS_SORTS];

#endif
