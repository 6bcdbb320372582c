/* SPDX-License-Identifier: MIT */
/* Words between blanks: a key may contain #, but does not begin with it, nor does a role or a
 * pattern; so a word that begins with # begins a comment. */
#include "config/access.h"

#include "config/table.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Bytes of a file, and of a job pattern. */
#define ACCESS_FILE_MAX (1 << 20)
#define PATTERN_MAX     128
#define TOKEN_MIN       16

const char *const access_role_name[ACCESS_ROLES] = {"publish", "read", "plan", "admin"};

/* The roles that a role includes. */
#define BIT(role) (1U << ACCESS_##role)
static const unsigned includes[ACCESS_ROLES] = {
    [ACCESS_PUBLISH] = BIT(PUBLISH),
    [ACCESS_READ] = BIT(READ),
    [ACCESS_PLAN] = BIT(READ) | BIT(PLAN),
    [ACCESS_ADMIN] = BIT(PUBLISH) | BIT(READ) | BIT(PLAN) | BIT(ADMIN),
};

struct access_entry {
    char who[ACCESS_WHO_MAX + 1]; /* with zeros to its end */
    enum access_role role;
    char pattern[PATTERN_MAX + 1];
    char comment[ACCESS_COMMENT_MAX + 1]; /* printable */
    size_t line;
};

struct access {
    enum access_kind kind;
    uint32_t count;
    struct access_entry entry[ACCESS_LINES_MAX];
};

/* Words */

struct word {
    const char *text;
    size_t length;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* The next word of a line; *at moves behind it. Its length is 0 at the end. */
static struct word access_take_word(const char **at, const char *end)
{
    while (*at < end && is_blank(**at)) {
        ++*at;
    }
    struct word word = {*at, 0};
    while (*at < end && !is_blank(**at)) {
        ++*at;
        word.length++;
    }
    return word;
}

/* For a message. */
static const char *access_quote(struct word word, char ret_text[QUOTE_MAX + 4])
{
    char text[QUOTE_MAX + 8];
    snprintf(text, sizeof text, "%.*s", (int)(word.length < INT16_MAX ? word.length : INT16_MAX),
             word.text);
    return config_quotable(text, ret_text);
}

/* Visitors */

static const char user_prefix[] = "user:";
static const char token_letters[] =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/=";

static bool access_is_user(const char *who)
{
    return strncmp(who, user_prefix, strlen(user_prefix)) == 0;
}

/* A token, or the name of a user: printable, and of a length that has room. */
static bool access_is_visitor(struct word word)
{
    char text[ACCESS_WHO_MAX + 1] = "";
    if (word.length > ACCESS_WHO_MAX) {
        return false;
    }
    memcpy(text, word.text, word.length);
    if (access_is_user(text)) {
        for (size_t i = 0; i < word.length; i++) {
            if (text[i] <= ' ' || text[i] > '~') {
                return false;
            }
        }
        return word.length > strlen(user_prefix);
    }
    return word.length >= TOKEN_MIN && strspn(text, token_letters) == word.length;
}

/* Whether two of the same length, filled up with zeros, are the same: in one time, whatever they
 * are. */
static bool access_is_same(const char *a, const char *b)
{
    unsigned char differs = 0;
    for (size_t i = 0; i <= ACCESS_WHO_MAX; i++) {
        differs |= (unsigned char)(a[i] ^ b[i]);
    }
    return !differs;
}

/* Appends a pattern. Returns false when there is no room. */
static bool access_add_job(char jobs[ACCESS_JOBS_MAX], const char *pattern)
{
    size_t used = strlen(jobs), size = ACCESS_JOBS_MAX - used;
    if (strcmp(jobs, "*") == 0 || strcmp(pattern, "*") == 0) {
        strcpy(jobs, "*");
        return true;
    }
    int length = snprintf(jobs + used, size, "%s%s", used ? " " : "", pattern);
    if (length >= 0 && (size_t)length < size) {
        return true;
    }
    jobs[used] = '\0';
    return false;
}

/* Lines */

/* The word that begins a line. */
static int access_read_who(enum access_kind kind, struct word word, char *ret_who,
                           struct origin origin, char *reterr)
{
    char quoted[QUOTE_MAX + 4];
    if (kind == ACCESS_KEYS && !key_is_text(word.text, word.length)) {
        return config_error(reterr, origin,
                            "public-key: '%s': not a key of 40 characters (attnctl key show FILE "
                            "prints it)",
                            access_quote(word, quoted));
    }
    if (kind == ACCESS_VISITORS && !access_is_visitor(word)) {
        return config_error(reterr, origin,
                            "token: what the line begins with is none (valid: %d to %d of "
                            "A-Z a-z 0-9 - . _ ~ + / =, or user:NAME)",
                            TOKEN_MIN, ACCESS_WHO_MAX);
    }
    memcpy(ret_who, word.text, word.length);
    return 0;
}

static int access_read_role(enum access_kind kind, struct word word, enum access_role *ret_role,
                            struct origin origin, char *reterr)
{
    char quoted[QUOTE_MAX + 4];
    for (int i = kind == ACCESS_KEYS ? ACCESS_PUBLISH : ACCESS_READ; i < ACCESS_ROLES; i++) {
        if (strlen(access_role_name[i]) == word.length &&
            memcmp(access_role_name[i], word.text, word.length) == 0) {
            *ret_role = (enum access_role)i;
            return 0;
        }
    }
    return config_error(reterr, origin, "role: '%s': not a role%s", access_quote(word, quoted),
                        kind == ACCESS_KEYS ? " (valid: publish, read, plan, admin)"
                                            : " over HTTP (valid: read, plan, admin)");
}

static int access_read_pattern(struct word word, char *ret_pattern, struct origin origin,
                               char *reterr)
{
    char quoted[QUOTE_MAX + 4];
    if (word.length > 0 && word.length <= PATTERN_MAX && !memchr(word.text, '\0', word.length)) {
        memcpy(ret_pattern, word.text, word.length);
        ret_pattern[word.length] = '\0';
        if (config_is_pattern(ret_pattern)) {
            return 0;
        }
    }
    return config_error(
        reterr, origin,
        "job-pattern: '%s': not a pattern of job names (valid: * for all jobs, or 1 "
        "to 128 of A-Z a-z 0-9 . _ - * ? [ ] !)",
        access_quote(word, quoted));
}

/* The line that says the same, or NULL. */
static const struct access_entry *access_find(const struct access *access,
                                              const struct access_entry *entry)
{
    for (uint32_t i = 0; i < access->count; i++) {
        const struct access_entry *other = &access->entry[i];
        if (strcmp(other->who, entry->who) == 0 && other->role == entry->role &&
            strcmp(other->pattern, entry->pattern) == 0) {
            return other;
        }
    }
    return NULL;
}

/* The text from # on, without blanks around it; what cannot be shown becomes '?'. */
static void access_read_comment(const char *at, const char *end, char *ret_comment)
{
    while (at < end && (*at == '#' || is_blank(*at))) {
        at++;
    }
    while (at < end && is_blank(end[-1])) {
        end--;
    }
    for (int i = 0; at < end && i < ACCESS_COMMENT_MAX; at++, i++) {
        ret_comment[i] = *at < ' ' || *at > '~' ? '?' : *at;
    }
}

/* One line without its end. */
static int access_read_line(struct access *access, const char *at, const char *end,
                            struct origin origin, char *reterr)
{
    char quoted[QUOTE_MAX + 4];
    struct access_entry entry = {.line = origin.line, .role = ACCESS_READ, .pattern = "*"};
    struct word who = access_take_word(&at, end);
    if (who.length == 0 || *who.text == '#') {
        return 0;
    }
    if (access_read_who(access->kind, who, entry.who, origin, reterr) != 0) {
        return -1;
    }
    struct word role = access_take_word(&at, end);
    bool is_alone = access->kind == ACCESS_VISITORS && (role.length == 0 || *role.text == '#');
    struct word rest = role;
    if (!is_alone) {
        if (access_read_role(access->kind, role, &entry.role, origin, reterr) != 0 ||
            access_read_pattern(access_take_word(&at, end), entry.pattern, origin, reterr) != 0) {
            return -1;
        }
        rest = access_take_word(&at, end);
    }
    if (rest.length > 0 && *rest.text != '#') {
        return config_error(reterr, origin, "'%s': only a # comment may follow the job-pattern",
                            access_quote(rest, quoted));
    }
    access_read_comment(rest.text, end, entry.comment);
    const struct access_entry *same = access_find(access, &entry);
    if (same) {
        return config_error(reterr, origin, "given twice (first on line %zu)", same->line);
    }
    if (access->count == ACCESS_LINES_MAX) {
        return config_error(reterr, origin, "more than %d %s", ACCESS_LINES_MAX,
                            access->kind == ACCESS_KEYS ? "keys" : "tokens and users");
    }
    access->entry[access->count++] = entry;
    if (access->kind == ACCESS_KEYS) {
        return 0;
    }
    /* The patterns of one visitor have to fit. */
    char jobs[ACCESS_JOBS_MAX] = "";
    for (uint32_t i = 0; i < access->count; i++) {
        if (strcmp(access->entry[i].who, entry.who) == 0 &&
            !access_add_job(jobs, access->entry[i].pattern)) {
            return config_error(reterr, origin, "more than %d characters of job-patterns for one",
                                ACCESS_JOBS_MAX - 1);
        }
    }
    return 0;
}

int access_parse(const char *text, size_t size, const char *path, enum access_kind kind,
                 struct access **ret_access, char *reterr)
{
    struct access *access = calloc(1, sizeof *access);
    struct origin origin = {path, 0};
    const char *end = text + size;
    if (!access) {
        return config_error(reterr, origin, "out of memory");
    }
    access->kind = kind;
    while (text < end) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        const char *line_end = newline ? newline : end;
        origin.line++;
        if (access_read_line(access, text, line_end, origin, reterr) != 0) {
            access_free(&access);
            return -1;
        }
        text = newline ? newline + 1 : end;
    }
    *ret_access = access;
    return 0;
}

/* Files */

/* Why such a file is no access list, or NULL. */
static const char *access_flaw(const struct stat *status, enum access_kind kind)
{
    const char *exposure = kind == ACCESS_KEYS ? NULL : key_exposure(status);
    if (exposure || !S_ISREG(status->st_mode)) {
        return exposure ? exposure : "not a regular file";
    }
    if (status->st_uid != geteuid() && status->st_uid != 0) {
        return "belongs to another user, who can let anybody in (chown it)";
    }
    if (status->st_mode & (S_IWGRP | S_IWOTH)) {
        return "others can write to it, and let themselves in (chmod go-w)";
    }
    return status->st_size > ACCESS_FILE_MAX ? "larger than 1 MiB, so not an access list" : NULL;
}

/* Returns the bytes read, or -1 with errno. */
static ssize_t access_read_all(int fd, char *ret_text)
{
    size_t size = 0;
    ssize_t got;
    while ((got = read(fd, ret_text + size, ACCESS_FILE_MAX - size)) > 0) {
        size += (size_t)got;
    }
    return got < 0 ? -1 : (ssize_t)size;
}

int access_load(const char *path, enum access_kind kind, struct access **ret_access, char *reterr)
{
    struct origin origin = {path, 0};
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &status) != 0) {
        int rc = config_error(reterr, origin, "%s", strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return rc;
    }
    const char *why = access_flaw(&status, kind);
    char *text = why ? NULL : malloc(ACCESS_FILE_MAX);
    ssize_t size = text ? access_read_all(fd, text) : 0;
    if (!why && !text) {
        why = "out of memory";
    } else if (size < 0) {
        why = strerror(errno);
    }
    close(fd);
    int rc = why ? config_error(reterr, origin, "%s", why)
                 : access_parse(text, (size_t)size, path, kind, ret_access, reterr);
    if (text) {
        explicit_bzero(text, ACCESS_FILE_MAX);
    }
    free(text);
    return rc;
}

void access_free(struct access **access)
{
    if (*access) {
        explicit_bzero((*access)->entry, (*access)->count * sizeof *(*access)->entry);
    }
    free(*access);
    *access = NULL;
}

/* Judging */

uint32_t access_count(const struct access *access)
{
    return access->count;
}

bool access_covers(const struct access *access, const struct access *other)
{
    for (uint32_t i = 0; i < other->count; i++) {
        if (!access_find(access, &other->entry[i])) {
            return false;
        }
    }
    return true;
}

struct access_line access_line(const struct access *access, uint32_t index)
{
    const struct access_entry *entry = &access->entry[index];
    return (struct access_line){entry->who, entry->pattern, entry->comment, entry->role};
}

int access_find_key(const struct access *access, const char *key)
{
    for (uint32_t i = 0; i < access->count; i++) {
        if (memcmp(access->entry[i].who, key, KEY_LENGTH) == 0) {
            return (int)i;
        }
    }
    return -1;
}

bool access_knows(const struct access *access, const char *key)
{
    return access_find_key(access, key) >= 0;
}

/* Whether an entry gives this key the role. */
static bool access_gives(const struct access_entry *entry, const char *key, enum access_role role)
{
    return (includes[entry->role] & (1U << role)) && memcmp(entry->who, key, KEY_LENGTH) == 0;
}

bool access_allows(const struct access *access, const char *key, enum access_role role,
                   const char *job)
{
    for (uint32_t i = 0; i < access->count; i++) {
        const struct access_entry *entry = &access->entry[i];
        bool holds = strcmp(entry->pattern, "*") == 0 || (job && !fnmatch(entry->pattern, job, 0));
        if (holds && access_gives(entry, key, role)) {
            return true;
        }
    }
    return false;
}

bool access_allows_some(const struct access *access, const char *key, enum access_role role)
{
    for (uint32_t i = 0; i < access->count; i++) {
        if (access_gives(&access->entry[i], key, role)) {
            return true;
        }
    }
    return false;
}

/* Whether an entry of visitors is of this one; `given` has zeros to its end. */
static bool access_is_of(const struct access_entry *entry, const char *given, bool is_user)
{
    bool of_users = access_is_user(entry->who);
    bool is_it = of_users ? fnmatch(entry->who, given, 0) == 0 : access_is_same(entry->who, given);
    return is_it && of_users == is_user;
}

bool access_visitor_may(const struct access *access, const char *who, bool is_user,
                        enum access_role role, const char *job)
{
    char given[ACCESS_WHO_MAX + 1] = "";
    bool may = false, fits = strlen(who) <= ACCESS_WHO_MAX;
    memcpy(given, who, fits ? strlen(who) : 0);
    for (uint32_t i = 0; fits && i < access->count; i++) {
        const struct access_entry *entry = &access->entry[i];
        bool gives = (includes[entry->role] & (1U << role)) && !fnmatch(entry->pattern, job, 0);
        may = (access_is_of(entry, given, is_user) && gives) || may;
    }
    return may;
}

/* All lines are looked at: the time does not say which one it was. */
bool access_read_jobs(const struct access *access, const char *who, bool is_user,
                      char ret_jobs[ACCESS_JOBS_MAX])
{
    char given[ACCESS_WHO_MAX + 1] = "";
    bool known = false, fits = strlen(who) <= ACCESS_WHO_MAX;
    memcpy(given, who, fits ? strlen(who) : 0);
    *ret_jobs = '\0';
    for (uint32_t i = 0; fits && i < access->count; i++) {
        const struct access_entry *entry = &access->entry[i];
        if (access_is_of(entry, given, is_user)) {
            known = true;
            access_add_job(ret_jobs, entry->pattern);
        }
    }
    return known;
}

bool access_jobs_match(const char *jobs, const char *job)
{
    char pattern[PATTERN_MAX + 1];
    if (strcmp(jobs, "*") == 0) {
        return true;
    }
    while (job && *jobs) {
        size_t length = strcspn(jobs, " ");
        snprintf(pattern, sizeof pattern, "%.*s", (int)length, jobs);
        if (fnmatch(pattern, job, 0) == 0) {
            return true;
        }
        jobs += length + strspn(jobs + length, " ");
    }
    return false;
}
