/* SPDX-License-Identifier: MIT */
/* parts: HISTORY.parts, the file in which a hub keeps what its nodes have sent. It is all that a
 * hub has to remember, and nothing that the nodes could not send again: a file that cannot be used
 * is removed and begun anew. The hub's thread writes; questions may read beside it.
 *
 * An error of a statement is kept, and returned once, at the end of the transaction:
 * parts_commit. */
#ifndef DAEMON_FLEET_PARTS_H
#define DAEMON_FLEET_PARTS_H

#include "daemon/store/sql.h"
#include "proto/fleet.h"

enum parts_statement {
#define STATEMENT(symbol, text) PARTS_##symbol,
#include "daemon/fleet/parts.def"
#undef STATEMENT
    PARTS_STATEMENT_COUNT
};

struct parts {
    struct sql sql;       /* sql.db NULL: not open */
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

/* Counts its rows and bytes. */
void parts_sum(struct parts *parts);

/* Begins a transaction unless there is one, or something has gone wrong since the last. */
void parts_begin(struct parts *parts);
/* Commits. Returns 0, or SQLite's first code since it began: then all of it is undone. */
int parts_commit(struct parts *parts);

/* Resets a statement and binds its values (store/sql.h). */
sqlite3_stmt *parts_bind(struct parts *parts, enum parts_statement statement,
                         const struct sql_value *values);
/* The next row; false after the last, or when something goes wrong. */
bool parts_row(struct parts *parts, sqlite3_stmt *statement);
/* The rule in three columns of a row. */
struct fleet_rule parts_rule(sqlite3_stmt *row, int column);
/* Binds and runs to the end; returns the integer in the last row's first column, or -1. */
int64_t parts_run(struct parts *parts, enum parts_statement statement,
                  const struct sql_value *values);

#endif
