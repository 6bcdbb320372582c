/* SPDX-License-Identifier: MIT */
/* Any bytes as a config file, and its lines as --set: an error is a sentence that names the file;
 * a configuration that was read is printed as a file that gives the same configuration. */
#include "tests/fuzz/fuzz.h"

#include "config/config.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A file without a name on any disk. */
static int fuzz_config_file_of(const void *data, size_t size, char ret_path[32])
{
    int fd = memfd_create("fuzz", 0);
    REQUIRE(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(ret_path, 32, "/proc/self/fd/%d", fd);
    return fd;
}

static char *fuzz_config_print(const struct config *config, size_t *ret_size)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, ret_size);
    REQUIRE(out);
    config_print(config, out);
    REQUIRE(fclose(out) == 0);
    return text;
}

static void fuzz_config_see(void *data, const char *section, const char *name, const char *value)
{
    char buffer[CONFIG_PUBLIC_MAX];
    *(size_t *)data += strlen(section) + strlen(name);
    *(size_t *)data += strlen(config_public(section, name, value, buffer));
}

static void see_difference(void *data, const char *section, const char *name)
{
    *(size_t *)data += strlen(section) + (name ? strlen(name) : 0);
}

static void check_printed(const struct config *config)
{
    char error[CONFIG_ERROR_MAX] = "", path[32];
    struct config again;
    size_t size, size_again, sum = 0;
    char *text = fuzz_config_print(config, &size), *text_again;
    int fd = fuzz_config_file_of(text, size, path);
    config_defaults(&again);
    REQUIRE(config_load(&again, path, error) == 0);
    text_again = fuzz_config_print(&again, &size_again);
    REQUIRE(size == size_again && memcmp(text, text_again, size) == 0);
    config_each_difference(config, &again, see_difference, &sum);
    REQUIRE(sum == 0);
    config_clear(&again);
    free(text);
    free(text_again);
    close(fd);
}

static void set_lines(const uint8_t *data, size_t len)
{
    char error[CONFIG_ERROR_MAX], line[2048];
    struct config config;
    config_defaults(&config);
    while (len > 0) {
        const uint8_t *end = memchr(data, '\n', len);
        size_t length = end ? (size_t)(end - data) : len;
        snprintf(line, sizeof line, "%.*s", (int)(length < 2000 ? length : 2000),
                 (const char *)data);
        error[0] = '\0';
        if (config_set(&config, line, error) != 0) {
            REQUIRE(strncmp(error, "--set: ", 7) == 0 && !strchr(error, '\n'));
        }
        data += length + (end != NULL);
        len -= length + (end != NULL);
    }
    config_check(&config, error);
    config_clear(&config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    char error[CONFIG_ERROR_MAX] = "", path[32];
    struct config config;
    size_t sum = 0;
    int fd = fuzz_config_file_of(data, len, path);
    config_defaults(&config);
    if (config_load(&config, path, error) == 0) {
        config_each(&config, fuzz_config_see, &sum);
        REQUIRE(sum > 0);
        check_printed(&config);
        REQUIRE(config_check(&config, error) == 0 || (*error && !strchr(error, '\n')));
    } else {
        REQUIRE(strncmp(error, path, strlen(path)) == 0 && !strchr(error, '\n'));
    }
    config_clear(&config);
    close(fd);
    set_lines(data, len);
    return 0;
}
