/* SPDX-License-Identifier: MIT */
#include "daemon/http/route.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VALUE_MAX 512
#define LIST_MAX  32

const struct argument arguments[ARG_COUNT] = {
#define ARGUMENT(name, type, help) {#name, ARGUMENT_##type, help},
#include "daemon/http/argument.def"
#undef ARGUMENT
};

enum method_parameter argument_use(const struct route *route, int argument)
{
    const char *name = arguments[argument].name;
    enum method_parameter use = method_parameter_find(route->takes, name, strlen(name));
    return use ? use : method_parameter_find(route->more, name, strlen(name));
}

void argument_reader_init(struct argument_reader *reader, const struct route *route)
{
    memset(reader, 0, sizeof *reader);
    reader->route = route;
    mpk_writer_init(&reader->pairs);
}

void argument_reader_clear(struct argument_reader *reader)
{
    mpk_writer_clear(&reader->pairs);
}

/* Names come from anywhere: only a short, printable one is repeated. */
static const char *shown(const char *name)
{
    size_t length = strlen(name);
    return length <= 32 &&
                   strspn(name,
                          "abcdefghijklmnopqrstuvwxyz_0123456789.-ABCDEFGHIJKLMNOPQRSTUVWXYZ") ==
                       length
               ? name
               : "(not printable)";
}

/* Nothing that is asked for is called anything else, and errors repeat it. */
static bool is_value(const char *value)
{
    if (!value || strlen(value) >= VALUE_MAX) {
        return false;
    }
    while (*value >= ' ' && *value <= '~') {
        value++;
    }
    return !*value;
}

static int argument_find(const struct argument_reader *reader, const char *name)
{
    for (int i = 0; i < ARG_COUNT; i++) {
        if (strcmp(arguments[i].name, name) == 0 && argument_use(reader->route, i)) {
            return i;
        }
    }
    return -1;
}

static bool argument_read_flag(const char *value, bool *ret_flag)
{
    *ret_flag = strcmp(value, "1") == 0 || strcmp(value, "true") == 0;
    return *ret_flag || strcmp(value, "0") == 0 || strcmp(value, "false") == 0;
}

static bool argument_put_list(struct mpk_writer *writer, const char *value)
{
    uint32_t count = 1;
    for (const char *at = value; *at; at++) {
        count += *at == ',';
    }
    if (count > LIST_MAX) {
        return false;
    }
    mpk_put_array(writer, count);
    for (; count > 0; count--) {
        char word[VALUE_MAX];
        size_t length = strcspn(value, ",");
        snprintf(word, sizeof word, "%.*s", (int)length, value);
        mpk_put_str(writer, word);
        value += length + 1;
    }
    return true;
}

static bool argument_put_value(struct mpk_writer *writer, enum argument_type type,
                               const char *value)
{
    switch (type) {
    case ARGUMENT_NUMBER: {
        char *end;
        errno = 0;
        uint64_t number = strtoull(value, &end, 10);
        if (*value < '0' || *value > '9' || *end != '\0' || errno) {
            return false;
        }
        mpk_put_u64(writer, number);
        return true;
    }
    case ARGUMENT_FLAG: {
        bool flag, valid = argument_read_flag(value, &flag);
        mpk_put_bool(writer, flag);
        return valid;
    }
    case ARGUMENT_LIST:
        return argument_put_list(writer, value);
    case ARGUMENT_TEXT:
        mpk_put_str(writer, value);
    }
    return true;
}

/* Another one: what is left out of an answer (api.c). */
static bool read_metrics(struct argument_reader *reader, const char *value)
{
    for (const char *at = value;; at++) {
        char name[VALUE_MAX];
        size_t length = strcspn(at, ",");
        snprintf(name, sizeof name, "%.*s", (int)length, at);
        unsigned m = metric_find(name);
        if (m == METRIC_COUNT) {
            snprintf(reader->reterr, sizeof reader->reterr,
                     "metrics: %.32s: no such metric (valid: those of /api/v1/metrics)", name);
            return false;
        }
        reader->metrics[m] = true;
        at += length;
        if (!*at) {
            return true;
        }
    }
}

bool argument_read(struct argument_reader *reader, const char *name, const char *value)
{
    static const char *const wanted[] = {"text", "a whole number", "1 or 0",
                                         "words between commas"};
    char valid[160] = "";
    int i = argument_find(reader, name);
    for (int j = 0; j < ARG_COUNT; j++) {
        if (argument_use(reader->route, j)) {
            size_t used = strlen(valid);
            snprintf(valid + used, sizeof valid - used, "%s%s", used ? ", " : "",
                     arguments[j].name);
        }
    }
    if (i < 0) {
        snprintf(reader->reterr, sizeof reader->reterr, "%s: no such parameter (valid: %s)",
                 shown(name), *valid ? valid : "none");
    } else if (reader->given & UINT64_C(1) << i) {
        snprintf(reader->reterr, sizeof reader->reterr, "%s: given twice", name);
    } else if (!is_value(value)) {
        snprintf(reader->reterr, sizeof reader->reterr,
                 "%s: a value of at most %d printable ASCII characters is needed", name,
                 VALUE_MAX - 1);
    }
    if (*reader->reterr) {
        return false;
    }
    reader->given |= UINT64_C(1) << i;
    if (i == ARG_or_null) {
        /* A parameter of the API itself: the method does not know it. */
        if (!argument_read_flag(value, &reader->or_null)) {
            snprintf(reader->reterr, sizeof reader->reterr,
                     "or_null: 1 or 0 is needed, not '%.32s'", value);
        }
        return !*reader->reterr;
    }
    if (i == ARG_metrics) {
        return read_metrics(reader, value);
    }
    reader->count++;
    mpk_put_str(&reader->pairs, name);
    if (argument_put_value(&reader->pairs, arguments[i].type, value)) {
        return true;
    }
    snprintf(reader->reterr, sizeof reader->reterr, "%s: %s is needed, not '%.32s'", name,
             wanted[arguments[i].type], value);
    return false;
}

void argument_put_map(const struct argument_reader *reader, const char *jobs,
                      struct mpk_writer *params)
{
    mpk_put_map(params, reader->count + (jobs ? 1 : 0));
    if (jobs) {
        mpk_pair_str(params, "jobs", jobs);
    }
    mpk_put_raw(params, reader->pairs.buffer.data, reader->pairs.buffer.size);
    if (!mpk_writer_ok(&reader->pairs)) {
        params->failed = true;
    }
}

bool arguments_complete(struct argument_reader *reader)
{
    for (int i = 0; i < ARG_COUNT; i++) {
        if (!(reader->given & UINT64_C(1) << i) && argument_use(reader->route, i) == METHOD_NEEDS) {
            snprintf(reader->reterr, sizeof reader->reterr, "%s is needed: %s", arguments[i].name,
                     arguments[i].help);
            return false;
        }
    }
    return true;
}
