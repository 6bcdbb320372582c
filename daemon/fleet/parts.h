/* SPDX-License-Identifier: MIT */
/* parts: HISTORY.parts, the file in which a hub keeps what its nodes have sent. It is all that a
 * hub has to remember, and nothing that the nodes could not send again: a file that cannot be used
 * is removed and begun anew. The hub's thread writes; questions may read beside it.
 *
 * A query binds its parameters in order and runs; what goes wrong is kept, and said once, at the
 * end of the transaction: parts_commit. */
#ifndef DAEMON_FLEET_PARTS_H
#define DAEMON_FLEET_PARTS_H

#include "proto/fleet.h"

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum parts_statement {
#define STATEMENT(symbol, text) PARTS_##symbol,
#include "daemon/fleet/parts.def"
#undef STATEMENT
    PARTS_STATEMENT_COUNT
};

struct parts {
    sqlite3 *db;
    sqlite3_stmt *statement[PARTS_STATEMENT_COUNT];
    bool open;            /* a transaction is */
    int code;             /* the first SQLite code that was none of success, since it began */
    uint64_t rows, bytes; /* of parts */
};

/* Opens HISTORY.parts, or begins it. Returns 0, or -1 with a sentence (CONFIG_ERROR_MAX). */
int parts_open(struct parts *parts, const char *history_path, char *reterr);
/* The same with an empty file, whatever there was; `code`: why. */
int parts_open_anew(struct parts *parts, const char *history_path, int code, char *reterr);
void parts_close(struct parts *parts);
/* Whether a code of SQLite says that the file is none, or has lost some of itself. */
bool parts_is_damage(int code);

/* Begins a transaction unless there is one, or something has gone wrong since the last. */
void parts_begin(struct parts *parts);
/* Commits. Returns 0, or SQLite's first code since it began: then all of it is undone. */
int parts_commit(struct parts *parts);

/* Resets a statement and binds what the format says, a letter each: i an int64_t, t a text (NULL
 * allowed), b a const void * and a size_t. */
sqlite3_stmt *parts_bind(struct parts *parts, enum parts_statement statement, const char *format,
                         ...);
/* The next row; false after the last, or when something goes wrong. */
bool parts_row(struct parts *parts, sqlite3_stmt *statement);
/* Runs to the end; returns the integer in the first row and column, or -1. */
int64_t parts_run(struct parts *parts, sqlite3_stmt *statement);

#endif
