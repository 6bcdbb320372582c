/* SPDX-License-Identifier: MIT */
/* access: the list of public keys that attnd lets in over TCP, and what each may do.
 *
 * One line per key: `public-key  role  job-pattern  # comment`. The roles are publish (send the
 * messages of jobs), read (ask, subscribe and record), plan (read, and change capture plans) and
 * admin (everything). plan includes read, and admin all others; publish and read do not include
 * each other. A key on several lines may do what any of them says. Immutable once read; any
 * thread. */
#ifndef CONFIG_ACCESS_H
#define CONFIG_ACCESS_H

#include "proto/key.h"

#include <stdint.h>

enum access_role { ACCESS_PUBLISH, ACCESS_READ, ACCESS_PLAN, ACCESS_ADMIN, ACCESS_ROLES };
/* "publish", "read", "plan", "admin" */
extern const char *const access_role_name[ACCESS_ROLES];

/* Lines with a key; more are an error. */
#define ACCESS_KEYS_MAX 1024

struct access;

/* Reads the file, which nobody but its owner may be able to write. Returns 0, and *ret_access is
 * the caller's; or -1 with a sentence in reterr (CONFIG_ERROR_MAX bytes): "path:line: ...: reason".
 */
int access_load(const char *path, struct access **ret_access, char *reterr);
/* The same from text, which `path` is the name of. */
int access_parse(const char *text, size_t size, const char *path, struct access **ret_access,
                 char *reterr);
/* Accepts NULL. */
void access_free(struct access **access);

uint32_t access_count(const struct access *access);
/* Whether the list has every line of the other one; comments do not count. */
bool access_covers(const struct access *access, const struct access *other);

/* Whether the list knows this public key (KEY_LENGTH characters). */
bool access_knows(const struct access *access, const char *key);
/* Whether this key has a role for the job; NULL: for all jobs ("*"). */
bool access_allows(const struct access *access, const char *key, enum access_role role,
                   const char *job);
/* Whether it has the role for some jobs at least. */
bool access_allows_some(const struct access *access, const char *key, enum access_role role);

#endif
