/* SPDX-License-Identifier: MIT */
/* PROTOCOL.md is the contract, so it must not lag behind the lists it describes. */
#include "tests/unit/proto/support.h"

#include "proto/err.h"
#include "proto/header.h"
#include "proto/metric.h"
#include <ctype.h>

/* The document as a string. */
static char *document(void)
{
    struct bytes bytes = bytes_file(PROTOCOL_MD);
    char *text = realloc(bytes.data, bytes.len + 1);

    assert_non_null(text);
    text[bytes.len] = '\0';
    return text;
}

static void expect_mention(const char *text, const char *word)
{
    char quoted[128];

    snprintf(quoted, sizeof quoted, "`%s`", word);
    if (!strstr(text, quoted)) {
        fail_msg("PROTOCOL.md does not mention %s", quoted);
    }
}

TEST(every_reason_is_listed)
{
    char *text = document();

    for (int i = 0; i < ERR_COUNT; i++) {
        expect_mention(text, err_slug(ERR_BASE - i));
    }
    free(text);
}

TEST(every_metric_is_listed)
{
    char *text = document();

    for (unsigned i = 0; i < METRIC_COUNT; i++) {
        expect_mention(text, metric_info[i].name);
    }
    free(text);
}

/* Reads the hex digits of the fenced block after `<!-- golden: name -->`; other characters before
 * the first two-digit pair of a line are not hex there, so a block holds hex only. */
static size_t read_hex(const char *text, const char *name, unsigned char *ret_bytes, size_t max)
{
    char mark[128];
    const char *at;
    size_t count = 0;

    snprintf(mark, sizeof mark, "<!-- golden: %s -->", name);
    at = strstr(text, mark);
    if (!at) {
        fail_msg("no example %s", name);
    }
    at = strchr(strstr(at, "```"), '\n');
    for (; *at != '`' && count < max; at++) {
        if (isxdigit((unsigned char)at[0]) && isxdigit((unsigned char)at[1])) {
            char digits[3] = {at[0], at[1], '\0'};

            ret_bytes[count++] = (unsigned char)strtoul(digits, NULL, 16);
            at++;
        }
    }
    return count;
}

TEST(the_byte_examples_are_the_golden_files)
{
    static const char *const names[] = {
        "attention",          "qk",         "weights", "state", "epoch_end", "log",
        "epoch_end_reliable", "lane_answer"};
    char *text = document();

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        unsigned char example[4096];
        char path[512];
        OWNED(bytes_free) struct bytes golden;

        snprintf(path, sizeof path, "%s/%s.msgpack", GOLDEN_DIR, names[i]);
        golden = bytes_file(path);
        assert_int_equal(read_hex(text, names[i], example, sizeof example), golden.len);
        assert_memory_equal(example, golden.data, golden.len);
    }
    free(text);
}
