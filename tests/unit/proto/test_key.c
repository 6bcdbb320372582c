/* SPDX-License-Identifier: MIT */
#include "tests/unit/proto/support.h"

#include "proto/key.h"

#include <sys/stat.h>
#include <unistd.h>

#define SECRET "^X*zO7g]A(9Y{2p0=v*eEwqDj&R^bXT%*)rcVCLA"

TEST(a_key_is_40_characters_of_z85)
{
    assert_true(key_is_text(SECRET, 40));
    assert_true(key_is_text("%nSc0%nSc0%nSc0%nSc0%nSc0%nSc0%nSc0%nSc0", 40));
    assert_false(key_is_text("%nSc1%nSc0%nSc0%nSc0%nSc0%nSc0%nSc0%nSc0", 40)); /* 2^32 */
    assert_false(key_is_text("#0000%nSc0%nSc0%nSc0%nSc0%nSc0%nSc0%nSc0", 40));
    assert_false(key_is_text(SECRET, 39));
    assert_false(key_is_text(SECRET "A", 41));
    assert_false(key_is_text("^X*zO7g]A(9Y{2p0=v*eEwqDj&R^bXT%*)rcVC_A", 40));
    assert_false(key_is_text("^X*zO7g]A(9Y{2p0=v*eEwqDj&R^bXT%*)rcVC\0A", 40));
}

/* A file of this text and mode gives SECRET, or `message` behind its path. */
static void assert_reads(const char *text, mode_t mode, const char *message)
{
    char path[] = "/tmp/attnd-key-XXXXXX", secret[KEY_LENGTH + 1] = "", reason[KEY_REASON_MAX] = "";
    char expected[KEY_REASON_MAX];
    int fd = mkstemp(path);
    size_t size = strlen(text);
    assert_true(fd >= 0 && write(fd, text, size) == (ssize_t)size && fchmod(fd, mode) == 0);
    close(fd);
    assert_int_equal(key_read(path, secret, reason), message ? -1 : 0);
    unlink(path);
    snprintf(expected, sizeof expected, "%s%s", message ? path : "", message ? message : "");
    assert_string_equal(reason, expected);
    assert_string_equal(secret, message ? "" : SECRET);
}

TEST(a_file_has_one_key_and_comments)
{
    static const char none[] =
        ": has no line with a secret key of 40 characters (attnctl key new makes such a file)";
    static const char several[] =
        ": has more than one line that is no comment: a secret key is one, of 40 characters";
    assert_reads(KEY_TITLE "\n# of node 2\n\n" SECRET "\n", 0600, NULL);
    assert_reads(KEY_TITLE ".\r\n" SECRET "\r\n", 0400, NULL);
    assert_reads(KEY_TITLE "\n" SECRET, 0600, NULL);
    assert_reads("", 0600, none);
    assert_reads("# nothing\n", 0600, none);
    assert_reads(SECRET "\n" SECRET "\n", 0600, several);
    assert_reads(KEY_TITLE "\n" SECRET "\nof node 2\n", 0600, several);
    assert_reads(" " SECRET "\n", 0600, none);
}

/* Both are 32 bytes: only how the file begins tells. */
TEST(a_public_key_is_no_secret)
{
    static const char public[] = ": may be a public key: a file of a secret one begins with "
                                 "'# A secret key of attnd' (attnctl key new makes such a file)";
    assert_reads(SECRET "\n", 0600, public);
    assert_reads("# of node 2\n" SECRET "\n" KEY_TITLE "\n", 0600, public);
}

TEST(a_secret_that_others_can_read_is_none)
{
    static const char shown[] =
        ": others can read it, so it is no secret (chmod 600; better, make a new one)";
    assert_reads(SECRET "\n", 0640, shown);
    assert_reads(SECRET "\n", 0604, shown);
    assert_reads(SECRET "\n", 0620, shown);
}

TEST(what_is_no_file_is_named)
{
    char secret[KEY_LENGTH + 1] = "", reason[KEY_REASON_MAX] = "";
    assert_int_equal(key_read("/nonexistent/key", secret, reason), -1);
    assert_string_equal(reason, "/nonexistent/key: No such file or directory");
    assert_int_equal(key_read("/tmp", secret, reason), -1);
    assert_string_equal(reason, "/tmp: not a regular file");
}

/* The environment of a client; key_find then says `message`, NULL = takes it. */
static void assert_finds(const char *own, const char *server, const char *message)
{
    struct key_client keys = {.secret = "before"};
    char reason[KEY_REASON_MAX] = "";
    own ? setenv("ATTND_KEY", own, 1) : unsetenv("ATTND_KEY");
    server ? setenv("ATTND_SERVER_KEY", server, 1) : unsetenv("ATTND_SERVER_KEY");
    assert_int_equal(key_find(&keys, reason), message ? -1 : 0);
    assert_string_equal(reason, message ? message : "");
    assert_string_equal(keys.secret, message ? "before" : own ? own : "");
    assert_string_equal(keys.server, message ? "" : server ? server : "");
}

TEST(a_client_has_both_keys_or_none)
{
    static const char other[] = "QCqOhHeiYrA@(c>zYKtZxY8L9IFv3D@Z[2lh#2p5";
    assert_finds(NULL, NULL, NULL);
    assert_finds("", "", NULL);
    assert_finds(SECRET, other, NULL);
    assert_finds(SECRET, NULL,
                 "ATTND_SERVER_KEY: not set; it is attnd's public key, beside ATTND_KEY");
    assert_finds(
        NULL, other,
        "ATTND_KEY: not set; it is the file of this client's key, beside ATTND_SERVER_KEY");
    assert_finds(SECRET, "short", "ATTND_SERVER_KEY: not a public key of 40 characters");
    assert_finds("/nonexistent", other, "/nonexistent: No such file or directory");
}
