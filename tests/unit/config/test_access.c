/* SPDX-License-Identifier: MIT */
/* The access list: its errors, and what its lines allow. */
#include "tests/unit/config/helpers.h"

#include "config/access.h"

#include <sys/stat.h>

#define ALICE "QCqOhHeiYrA@(c>zYKtZxY8L9IFv3D@Z[2lh#2p5"
#define BOB   "ygC!lJ}$#xjTDn^bF=qQ69}.E!@WqTcyN<5io<0+"

static struct access *read_list(const char *text)
{
    char error[CONFIG_ERROR_MAX] = "";
    struct access *access = NULL;
    int result = access_parse(text, strlen(text), "access", ACCESS_KEYS, &access, error);
    assert_string_equal(error, "");
    assert_int_equal(result, 0);
    return access;
}

static void assert_list_refused(const char *text, const char *message)
{
    char error[CONFIG_ERROR_MAX] = "";
    struct access *access = NULL;
    assert_int_equal(access_parse(text, strlen(text), "access", ACCESS_KEYS, &access, error), -1);
    assert_string_equal(error, message);
    assert_null(access);
}

TEST(comments_and_blanks_do_not_count)
{
    struct access *access = read_list("# all of us\n\n  \t\n#" BOB " admin *\n" ALICE
                                      "\tread   *   # alice\r\n" BOB " publish gpt-* #bob");
    assert_int_equal(access_count(access), 2);
    assert_true(access_knows(access, ALICE) && access_knows(access, BOB));
    assert_false(access_allows_some(access, BOB, ACCESS_ADMIN));
    access_free(&access);
    access = read_list("");
    assert_int_equal(access_count(access), 0);
    assert_false(access_knows(access, ALICE));
    access_free(&access);
}

TEST(a_mistake_names_its_line)
{
    assert_list_refused("# first\nabc read *\n",
                        "access:2: public-key: 'abc': not a key of 40 characters (attnctl key show "
                        "FILE prints it)");
    assert_list_refused(ALICE "\n",
                        "access:1: role: '': not a role (valid: publish, read, plan, admin)");
    assert_list_refused(ALICE " write *\n",
                        "access:1: role: 'write': not a role (valid: publish, read, plan, admin)");
    assert_list_refused(ALICE " read # all\n",
                        "access:1: job-pattern: '#': not a pattern of job names (valid: * for all "
                        "jobs, or 1 to 128 of A-Z a-z 0-9 . _ - * ? [ ] !)");
    assert_list_refused(ALICE " read * please\n",
                        "access:1: 'please': only a # comment may follow the job-pattern");
    assert_list_refused(ALICE " read *\n" BOB " read *\n" ALICE " read * # again\n",
                        "access:3: given twice (first on line 1)");
}

/* The roles that a key has for a job, as letters: p r l(plan) a. */
static void assert_may(const struct access *access, const char *key, const char *job,
                       const char *letters)
{
    char found[ACCESS_ROLES + 1] = "";
    for (int i = 0; i < ACCESS_ROLES; i++) {
        if (access_allows(access, key, (enum access_role)i, job)) {
            found[strlen(found)] = "prla"[i];
        }
    }
    assert_string_equal(found, letters);
}

TEST(a_role_includes_what_is_less)
{
    static const char *const lines[ACCESS_ROLES] = {ALICE " publish *", ALICE " read *",
                                                    ALICE " plan *", ALICE " admin *"};
    static const char *const may[ACCESS_ROLES] = {"p", "r", "rl", "prla"};
    for (int i = 0; i < ACCESS_ROLES; i++) {
        OWNED(access_free) struct access *access = read_list(lines[i]);
        assert_may(access, ALICE, "any", may[i]);
        assert_may(access, ALICE, NULL, may[i]);
        assert_may(access, BOB, "any", "");
    }
}

TEST(a_pattern_bounds_a_role)
{
    struct access *access = read_list(ALICE " publish gpt-*\n" ALICE " plan bert\n");
    assert_may(access, ALICE, "gpt-small", "p");
    assert_may(access, ALICE, "bert", "rl");
    assert_may(access, ALICE, "gpt", "");
    assert_may(access, ALICE, NULL, "");
    assert_true(access_allows_some(access, ALICE, ACCESS_READ));
    assert_false(access_allows_some(access, ALICE, ACCESS_ADMIN));
    access_free(&access);
}

TEST(a_list_covers_what_it_has_all_lines_of)
{
    OWNED(access_free) struct access *a = read_list(ALICE " read *\n" BOB " read *\n");
    OWNED(access_free) struct access *b = read_list("#\n" BOB " read * # bob\n" ALICE " read *\n");
    OWNED(access_free) struct access *c = read_list(ALICE " read *\n");
    OWNED(access_free) struct access *d = read_list(ALICE " plan *\n" BOB " read *\n");
    assert_true(access_covers(a, b) && access_covers(b, a));
    assert_true(access_covers(a, c));
    assert_false(access_covers(c, a));
    assert_false(access_covers(d, a));
}

#define TOKEN "0123456789abcdef"

static int read_visitors(const char *text, struct access **ret_access, char *reterr)
{
    return access_parse(text, strlen(text), "tokens", ACCESS_VISITORS, ret_access, reterr);
}

static void assert_sees(const struct access *access, const char *who, bool is_user,
                        const char *expected)
{
    char jobs[ACCESS_JOBS_MAX];
    assert_int_equal(access_read_jobs(access, who, is_user, jobs), expected != NULL);
    assert_string_equal(jobs, expected ? expected : "");
}

TEST(visitors_see_the_jobs_of_their_lines)
{
    char error[CONFIG_ERROR_MAX] = "";
    OWNED(access_free) struct access *access = NULL;
    int rc = read_visitors(TOKEN "\n0123456789abcdeF read a # ann\n0123456789abcdeF plan b*\n"
                                 "user:ann@example.org read a\nuser:*@example.org read b\n"
                                 "user:root admin *\n",
                           &access, error);
    assert_string_equal(error, "");
    assert_int_equal(rc, 0);
    assert_sees(access, TOKEN, false, "*");
    assert_sees(access, "0123456789abcdeF", false, "a b*");
    assert_sees(access, TOKEN "f", false, NULL);
    assert_sees(access, "", false, NULL);
    assert_sees(access, "user:ann@example.org", true, "a b");
    assert_sees(access, "user:bob@example.org", true, "b");
    assert_sees(access, "user:root", true, "*");
    assert_sees(access, "user:root", false, NULL);
    assert_sees(access, TOKEN, true, NULL);
    assert_sees(access, "user:*", true, NULL);
}

TEST(visitors_may_do_what_one_of_their_lines_says)
{
    char error[CONFIG_ERROR_MAX];
    OWNED(access_free) struct access *access = NULL;
    int rc = read_visitors(TOKEN "\n0123456789abcdeF plan a # ann\n0123456789abcdeF admin b*\n"
                                 "user:ann@example.org admin a\n",
                           &access, error);
    static const char ann[] = "0123456789abcdeF", user[] = "user:ann@example.org";
    assert_int_equal(rc, 0);
    assert_true(access_visitor_may(access, TOKEN, false, ACCESS_READ, "a"));
    assert_false(access_visitor_may(access, TOKEN, false, ACCESS_PLAN, "a"));
    assert_true(access_visitor_may(access, ann, false, ACCESS_PLAN, "a"));
    assert_false(access_visitor_may(access, ann, false, ACCESS_ADMIN, "a"));
    assert_true(access_visitor_may(access, ann, false, ACCESS_ADMIN, "bert"));
    assert_false(access_visitor_may(access, ann, false, ACCESS_READ, "c"));
    assert_true(access_visitor_may(access, user, true, ACCESS_ADMIN, "a"));
    assert_false(access_visitor_may(access, user, true, ACCESS_PLAN, "b"));
    assert_false(access_visitor_may(access, user, false, ACCESS_READ, "a"));
    assert_false(access_visitor_may(access, "", false, ACCESS_READ, "a"));
}

TEST(patterns_between_blanks_let_jobs_through)
{
    assert_true(access_jobs_match("*", "x") && access_jobs_match("*", NULL));
    assert_true(access_jobs_match("a b*", "a") && access_jobs_match("a b*", "bert"));
    assert_false(access_jobs_match("a b*", "ab") || access_jobs_match("a b*", NULL));
    assert_false(access_jobs_match("", "a") || access_jobs_match("", NULL));
}

TEST(a_mistake_in_a_list_of_visitors_names_its_line)
{
    static const char *const wrong[][2] = {
        {"\nshort read *\n",
         "tokens:2: token: what the line begins with is none (valid: 16 to 200 of A-Z a-z 0-9 - . "
         "_ ~ + / =, or user:NAME)"},
        {"user: read *",
         "tokens:1: token: what the line begins with is none (valid: 16 to 200 of A-Z a-z 0-9 - . "
         "_ ~ + / =, or user:NAME)"},
        {TOKEN " publish *",
         "tokens:1: role: 'publish': not a role over HTTP (valid: read, plan, admin)"},
        {TOKEN " read", "tokens:1: job-pattern: '': not a pattern of job names (valid: * for all "
                        "jobs, or 1 to 128 of A-Z a-z 0-9 . _ - * ? [ ] !)"},
        {TOKEN "\n" TOKEN " read *\n", "tokens:2: given twice (first on line 1)"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char error[CONFIG_ERROR_MAX] = "";
        struct access *access = NULL;
        assert_int_equal(read_visitors(wrong[i][0], &access, error), -1);
        assert_string_equal(error, wrong[i][1]);
    }
}

TEST(the_patterns_of_one_visitor_have_a_limit)
{
    size_t size = 0;
    char *text = NULL, error[CONFIG_ERROR_MAX] = "";
    struct access *access = NULL;
    FILE *out = open_memstream(&text, &size);
    for (int i = 0; i < 17; i++) { /* 121 characters, and a blank */
        fprintf(out, TOKEN " read %0120d%c\n", 7, 'a' + i);
    }
    fclose(out);
    assert_int_equal(read_visitors(text, &access, error), -1);
    assert_string_equal(error, "tokens:17: more than 2047 characters of job-patterns for one");
    free(text);
}

TEST(a_list_has_a_limit)
{
    size_t size = 0;
    char *text = NULL, error[CONFIG_ERROR_MAX] = "";
    struct access *access = NULL;
    FILE *out = open_memstream(&text, &size);
    for (int i = 0; i <= ACCESS_LINES_MAX; i++) {
        fprintf(out, ALICE " read job-%d\n", i);
    }
    fclose(out);
    assert_int_equal(access_parse(text, size, "access", ACCESS_KEYS, &access, error), -1);
    assert_string_equal(error, "access:1025: more than 1024 keys");
    free(text);
}

/* Writes the list with this owner and mode; access_load then says `message`, NULL = takes it. */
static void assert_loads(uid_t owner, mode_t mode, const char *message)
{
    char path[] = "/tmp/attnd-access-XXXXXX", error[CONFIG_ERROR_MAX] = "";
    char expected[CONFIG_ERROR_MAX];
    struct access *access = NULL;
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, ALICE " read *\n", 48) == 48 && fchmod(fd, mode) == 0);
    assert_int_equal(fchown(fd, owner, (gid_t)-1), 0);
    close(fd);
    assert_int_equal(access_load(path, ACCESS_KEYS, &access, error), message ? -1 : 0);
    snprintf(expected, sizeof expected, "%s%s", message ? path : "", message ? message : "");
    assert_string_equal(error, expected);
    access_free(&access);
    unlink(path);
    assert_int_equal(access_load(path, ACCESS_KEYS, &access, error), -1);
    assert_non_null(strstr(error, ": No such file or directory"));
}

TEST(a_list_that_others_can_write_is_refused)
{
    assert_loads(geteuid(), 0644, NULL);
    assert_loads(geteuid(), 0664, ": others can write to it, and let themselves in (chmod go-w)");
    assert_loads(geteuid(), 0602, ": others can write to it, and let themselves in (chmod go-w)");
}

TEST(a_list_of_another_user_is_refused)
{
    if (geteuid() != 0) {
        skip(); /* only root gives files away */
    }
    assert_loads(65534, 0644, ": belongs to another user, who can let anybody in (chown it)");
}
