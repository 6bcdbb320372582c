/* SPDX-License-Identifier: MIT */
/* access: the lists of who may come to attnd, and what each may do: the public keys of those who
 * come over TCP (keys.access), and those who ask over HTTP (http.token_file), by a token, or by the
 * name that a proxy has found out.
 *
 * One line each: `WHO  role  job-pattern  # comment`, where WHO is a public key; for HTTP a token
 * or `user:NAME`, in which * ? [ ] stand for others, and a token alone may read all jobs. The roles
 * are publish (send the messages of jobs; not over HTTP), read (ask, subscribe and record), plan
 * (read, and change capture plans, and what people say of runs) and admin (everything). plan
 * includes read, and admin all others; publish and read do not include each other. Somebody on
 * several lines may do what any of them says. Immutable once read; any thread.
 *
 * Tokens are in the file as they are sent, which nobody else can read: who could read it is attnd's
 * user, whom attnd answers without a token, and a hash would not hide the history from them. */
#ifndef CONFIG_ACCESS_H
#define CONFIG_ACCESS_H

#include "proto/key.h"

#include <stdint.h>

enum access_kind { ACCESS_KEYS, ACCESS_VISITORS };
enum access_role { ACCESS_PUBLISH, ACCESS_READ, ACCESS_PLAN, ACCESS_ADMIN, ACCESS_ROLES };
/* "publish", "read", "plan", "admin" */
extern const char *const access_role_name[ACCESS_ROLES];

/* Lines that name somebody; more are an error. */
#define ACCESS_LINES_MAX 1024
/* Characters of a token, or of "user:" and a name; a token has 16 at least. */
#define ACCESS_WHO_MAX 200
/* Bytes of the job patterns of one visitor, with blanks between and a NUL; more are an error, or,
 * where several lines with * fit one name, do not count. */
#define ACCESS_JOBS_MAX 2048

struct access;

/* Reads the file, which nobody but its owner may be able to write, nor, if it has tokens, to read.
 * Returns 0, and *ret_access is the caller's; or -1 with a sentence in reterr (CONFIG_ERROR_MAX
 * bytes): "path:line: ...: reason". */
int access_load(const char *path, enum access_kind kind, struct access **ret_access, char *reterr);
/* The same from text, which `path` is the name of. */
int access_parse(const char *text, size_t size, const char *path, enum access_kind kind,
                 struct access **ret_access, char *reterr);
/* Accepts NULL. */
void access_free(struct access **access);

uint32_t access_count(const struct access *access);
/* One of its lines, for people. */
#define ACCESS_COMMENT_MAX 64
struct access_line {
    const char *who, *pattern, *comment; /* as long as the list; "" = none */
    enum access_role role;
};
struct access_line access_line(const struct access *access, uint32_t index);
/* The first line of this key, or -1. */
int access_find_key(const struct access *access, const char *key);
/* Whether the list has every line of the other one; comments do not count. */
bool access_covers(const struct access *access, const struct access *other);

/* Whether a list of keys knows this public key (KEY_LENGTH characters). */
bool access_knows(const struct access *access, const char *key);
/* Whether this key has a role for the job; NULL: for all jobs ("*"). */
bool access_allows(const struct access *access, const char *key, enum access_role role,
                   const char *job);
/* Whether it has the role for some jobs at least. */
bool access_allows_some(const struct access *access, const char *key, enum access_role role);

/* Writes, for a list of visitors, the patterns of the jobs that this token may read, or this user
 * ("user:NAME"), "*" for all. Returns false when the list does not know it. The time does not
 * depend on how much of a token is right. */
bool access_read_jobs(const struct access *access, const char *who, bool is_user,
                      char ret_jobs[ACCESS_JOBS_MAX]);
/* Whether they have a role for the job: as above. */
bool access_visitor_may(const struct access *access, const char *who, bool is_user,
                        enum access_role role, const char *job);
/* Whether such patterns let a job through; NULL: all jobs. */
bool access_jobs_match(const char *jobs, const char *job);

#endif
