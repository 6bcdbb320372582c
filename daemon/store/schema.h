/* SPDX-License-Identifier: MIT */
/* store_schema: the tables of the history, and how a database of an older version becomes one of
 * this version.
 *
 * The database says what it is: application_id is SCHEMA_APPLICATION, user_version the number of
 * migrations that it went through. Version 0 is an empty file.
 *
 * For readers
 *
 *   - Open read-only, and set a busy_timeout. All integers are below 2^63; NaN is NULL.
 *
 *   - The windows of one layer and track are the rows of `windows`. The numbers of the older ones
 *     (chunk_id is not NULL) are in `series`, 64 windows of one head's metric a row; those of the
 *     newer ones come from their state (`states`). The states of old windows are thinned out.
 *
 *   - A chunk describes its windows itself (chunks.windows), so that a series is read without the
 *     rows of `windows`.
 *
 *   - A window that came again after its chunk was written has a row in `windows` with chunk_id
 *     NULL, which is right, while the chunk's numbers for the same `last` are old. When the
 *     window is in a later chunk, the greater chunk_id is right.
 *
 *   - A run whose job is '' is being deleted.
 *
 *   - A corrupt database is renamed while attnd runs, and another one is in its place: a reader
 *     that stays compares the inode behind the path with that of the file it has open. */
#ifndef DAEMON_STORE_SCHEMA_H
#define DAEMON_STORE_SCHEMA_H

#include <sqlite3.h>
#include <stdint.h>

#define SCHEMA_APPLICATION 0x61746e64 /* "atnd" */

/* The statements that lead from version i to i + 1, for each i. */
struct schema {
    const char *const *migration;
    int version; /* number of migrations */
};

extern const struct schema schema_current;

enum schema_verdict {
    SCHEMA_READY,   /* is, or was made, of this version */
    SCHEMA_NEWER,   /* a newer attnd wrote it */
    SCHEMA_FOREIGN, /* a database, but of another program */
    SCHEMA_FAILED,  /* SQLite says why: *reterr_code */
};

/* Creates the tables of an empty database, or migrates an older one, in one transaction; leaves
 * newer and foreign ones alone. First thing after opening, as the page size and incremental vacuum
 * of a new file are set here. */
enum schema_verdict schema_apply(sqlite3 *db, const struct schema *schema, int *reterr_code);

#endif
