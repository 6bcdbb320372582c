/* SPDX-License-Identifier: MIT */
/* ask: a question about the past: parameters collected one by one, and an answer that may take its
 * time. */
#ifndef CLIENTS_CLI_BASE_ASK_H
#define CLIENTS_CLI_BASE_ASK_H

#include "clients/cli/base/cli.h"

struct ask {
    struct mpk_writer pairs;
    uint32_t count;
};

void ask_init(struct ask *ask);
/* Each adds a parameter; text NULL: it is left out. */
void ask_text(struct ask *ask, const char *key, const char *text);
void ask_number(struct ask *ask, const char *key, uint64_t number);
void ask_flag(struct ask *ask, const char *key, bool value);
/* stack, layer, site; run; window; from, to: those that the command line has. */
void ask_layer(struct ask *ask, const struct args *args);
void ask_range(struct ask *ask, const struct args *args);

/* The parameters as a map, for rpc_send; frees what was collected. mpk_writer_clear is the
 * caller's. */
void ask_write(struct ask *ask, struct mpk_writer *ret_params);

/* Calls the method and frees the parameters. Looking something up takes longer than other answers,
 * so it is waited for as attnd allows itself; whether attnd is there at all shows at once. As
 * cli_call. */
int ask_call(struct cli *cli, const char *method, struct ask *ask, struct rpc_reply *ret_reply);

/* The same, but that there is nothing is an answer, too: then *ret_any is false and the reply is
 * not to be cleared. */
int ask_for_any(struct cli *cli, const char *method, struct ask *ask, struct rpc_reply *ret_reply,
                bool *ret_any);

/* Waits longer for answers from here on, unless --timeout says how long. Returns CLI_OK or, when
 * attnd is not there, the exit code. */
int ask_patiently(struct cli *cli);

#endif
