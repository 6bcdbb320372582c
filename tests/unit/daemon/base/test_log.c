/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include "daemon/base/log.h"

#include <unistd.h>

/* Runs log_event with stderr redirected, and gives what was written. */
static void test_log_capture(enum log_level level, const char *value, char *text, size_t size)
{
    int ends[2], saved = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    log_event(level, "thing", LOG_STR("value", value), LOG_NUM("count", 7));
    dup2(saved, STDERR_FILENO);
    close(ends[1]);
    close(saved);
    ssize_t length = read(ends[0], text, size - 1);
    text[length > 0 ? length : 0] = '\0';
    close(ends[0]);
}

TEST(text_lines_are_key_value)
{
    char text[2048];
    log_setup(LOG_INFO, false);
    test_log_capture(LOG_WARNING, "plain", text, sizeof text);
    assert_non_null(strstr(text, " level=warning event=thing value=plain count=7\n"));
    test_log_capture(LOG_WARNING, "ends{", text, sizeof text); /* as keys may */
    assert_non_null(strstr(text, " value=ends{ count=7\n"));
}

TEST(a_hostile_value_cannot_forge_a_line)
{
    char text[2048];
    log_setup(LOG_INFO, false);
    test_log_capture(LOG_INFO, "a\nlevel=error \"b\"", text, sizeof text);
    assert_non_null(strstr(text, "value=\"a\\u000alevel=error \\\"b\\\"\" count=7\n"));
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
}

TEST(json_lines)
{
    char text[2048];
    log_setup(LOG_INFO, true);
    test_log_capture(LOG_INFO, "x", text, sizeof text);
    assert_non_null(strstr(text, "\"event\": \"thing\", \"value\": \"x\", \"count\": 7}\n"));
    assert_int_equal(text[0], '{');
}

TEST(lower_levels_are_silent)
{
    char text[64];
    log_setup(LOG_WARNING, false);
    test_log_capture(LOG_INFO, "x", text, sizeof text);
    assert_string_equal(text, "");
}

TEST(a_field_that_does_not_fit_is_left_out)
{
    char text[4096], value[3000];
    memset(value, 'v', sizeof value - 1);
    value[sizeof value - 1] = '\0';
    log_setup(LOG_INFO, false);
    test_log_capture(LOG_INFO, value, text, sizeof text);
    assert_non_null(strstr(text, " event=thing cut=true\n"));
    log_setup(LOG_INFO, true);
    test_log_capture(LOG_INFO, value, text, sizeof text);
    assert_non_null(strstr(text, "\"event\": \"thing\", \"cut\": true}\n"));
}

TEST(bytes_that_are_not_ascii_are_escaped)
{
    char text[2048];
    log_setup(LOG_INFO, true);
    test_log_capture(LOG_INFO, "\xff\x80", text, sizeof text);
    assert_non_null(strstr(text, "\"value\": \"\\u00ff\\u0080\""));
}
