/* SPDX-License-Identifier: MIT */
/* helpers: what every config test needs. Includes cmocka with its prerequisites. */
#ifndef TESTS_UNIT_CONFIG_HELPERS_H
#define TESTS_UNIT_CONFIG_HELPERS_H

#include "tests/unit/unit.h"

#include "config/config.h"
#include "config/table.h"

#include <unistd.h>

/* The whole content of a stream that was written to, as a malloc'ed string. */
static inline char *printed(const struct config *config)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    config_print(config, out);
    fclose(out);
    return text;
}

/* Whether both hold the same values: their dumps are equal. */
static inline void assert_same_config(const struct config *a, const struct config *b)
{
    char *text_a = printed(a), *text_b = printed(b);
    assert_string_equal(text_a, text_b);
    free(text_a);
    free(text_b);
}

static inline struct config defaults(void)
{
    struct config config;
    config_defaults(&config);
    return config;
}

/* Loads `text` as the file attnd.yaml of a fresh directory; the message then starts with
 * "attnd.yaml:". Returns what config_load returned. */
static inline int load_bytes(struct config *config, const void *text, size_t size, char *reterr)
{
    char directory[] = "/tmp/attnd-test-XXXXXX", start[4096];
    assert_non_null(getcwd(start, sizeof start));
    assert_non_null(mkdtemp(directory));
    assert_int_equal(chdir(directory), 0);
    FILE *file = fopen("attnd.yaml", "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, size, file), size);
    fclose(file);
    int result = config_load(config, "attnd.yaml", reterr);
    unlink("attnd.yaml");
    assert_int_equal(chdir(start), 0);
    rmdir(directory);
    return result;
}

static inline int load_text(struct config *config, const char *text, char *reterr)
{
    return load_bytes(config, text, strlen(text), reterr);
}

/* The defaults and what `text` says, which is sound. */
static inline struct config loaded(const char *text)
{
    struct config config = defaults();
    char error[CONFIG_ERROR_MAX] = "";
    int result = load_text(&config, text, error);
    assert_string_equal(error, "");
    assert_int_equal(result, 0);
    return config;
}

/* Loading `text` fails with exactly this message and leaves the configuration as it was. */
static inline void assert_refused(const char *text, const char *message)
{
    struct config config = defaults(), before = config;
    char error[CONFIG_ERROR_MAX] = "";
    int result = load_text(&config, text, error);
    if (result != -1 || strcmp(error, message) != 0) {
        fail_msg("%s\nreturned %d: %s\nand not -1: %s", text, result, error, message);
    }
    assert_same_config(&config, &before);
}

/* A test that is such files alone: REFUSED(its name, {text, message}...); */
#define REFUSED(name, ...)                                                                         \
    TEST(name)                                                                                     \
    {                                                                                              \
        static const char *const cases[][2] = {__VA_ARGS__};                                       \
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {                              \
            assert_refused(cases[i][0], cases[i][1]);                                              \
        }                                                                                          \
    }                                                                                              \
    struct config

/* --set fails with exactly this message. */
static inline void assert_set_refused(const char *assignment, const char *message)
{
    struct config config = defaults(), before = config;
    char error[CONFIG_ERROR_MAX] = "";
    assert_int_equal(config_set(&config, assignment, error), -1);
    assert_string_equal(error, message);
    assert_same_config(&config, &before);
}

static inline void set(struct config *config, const char *assignment)
{
    char error[CONFIG_ERROR_MAX] = "";
    int result = config_set(config, assignment, error);
    assert_string_equal(error, "");
    assert_int_equal(result, 0);
}

#endif
