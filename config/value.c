/* SPDX-License-Identifier: MIT */
/* value: typed text.
 *
 *   BYTES     a whole number and a unit: 65536, 512MiB, 1GiB, 10MB
 *   DURATION  a whole number and a unit: 500ms, 5s, 2m or 2min, 1h, 1d; stored in nanoseconds
 *   COUNT     a whole number
 *   REAL      a number: 0.05, 1e-3
 *   NUMBERS   a list of numbers: [1, 0.5], or 1,0.5 or 1 0.5
 *   TEXT      printable ASCII, or nothing
 *   WINDOWS   a list of windows: [100 steps every 10, 10 epochs]
 *   LAYERS    patterns of layers: decoder.*.self encoder.0.cross
 *   HEADS     * or numbers and ranges: 0-3,7
 *   BOOL, UNIT, ... one word of a list
 *   ENDPOINT  tcp://host:port or ipc://path, as ZeroMQ binds them, or nothing
 *
 * Sizes and durations have no fractions: 1536MiB says what 1.5GiB would. Every value prints back
 * exactly. */
#include "config/value.h"

#include "config/capture.h"
#include "config/servers.h"
#include "config/config.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

/* Scales of a type, largest first. A value is printed in the first unit that has `print` set and
 * divides it. */
struct scale {
    const char *unit;
    uint64_t factor;
    bool print;
};

static const struct scale byte_scales[] = {
    {"TiB", UINT64_C(1) << 40, true},
    {"TB", UINT64_C(1000000000000), false},
    {"GiB", UINT64_C(1) << 30, true},
    {"GB", UINT64_C(1000000000), false},
    {"MiB", UINT64_C(1) << 20, true},
    {"MB", UINT64_C(1000000), false},
    {"KiB", UINT64_C(1) << 10, true},
    {"KB", UINT64_C(1000), false},
    {"kB", UINT64_C(1000), false},
    {"B", 1, false},
    {"", 1, true},
    {NULL, 0, false},
};

static const struct scale duration_scales[] = {
    {"d", UINT64_C(86400000000000), true},
    {"h", UINT64_C(3600000000000), true},
    {"min", UINT64_C(60000000000), true},
    {"m", UINT64_C(60000000000), false},
    {"s", UINT64_C(1000000000), true},
    {"ms", UINT64_C(1000000), true},
    {"us", UINT64_C(1000), true},
    {"ns", 1, true},
    {NULL, 0, false},
};

static const struct scale count_scales[] = {
    {"", 1, true},
    {NULL, 0, false},
};

/* The words of a type; a word's position is the value. */
static const char *const bool_words[] = {"false", "true", NULL};
static const char *const unit_words[] = {"epoch", "step", "second", "auto", NULL};
static const char *const level_words[] = {"error", "warning", "info", "debug", NULL};
static const char *const format_words[] = {"text", "json", NULL};
static const char *const effort_words[] = {"norm", "leading", "full", "eigenvalues", NULL};
static const char *const tier_words[] = {"auto", "raw", "rows", NULL};
static const char *const role_words[] = {"off", "node", "hub", NULL};
static const char *const isa_words[] = {"auto", "scalar", "portable", "avx2", "avx512", NULL};

#define IS_UNSIGNED(tag) (sizeof(enum tag) == sizeof(unsigned))
static_assert(IS_UNSIGNED(config_unit) && IS_UNSIGNED(config_level) && IS_UNSIGNED(config_format) &&
                  IS_UNSIGNED(config_effort) && IS_UNSIGNED(config_tier) &&
                  IS_UNSIGNED(config_isa) && IS_UNSIGNED(config_role),
              "choices are stored as unsigned");

const char *config_isa_name(enum config_isa isa)
{
    return isa_words[isa];
}

const char *config_role_name(enum config_role role)
{
    return role_words[role];
}

const char *config_tier_name(enum config_tier tier)
{
    return tier_words[tier];
}

/* Numbers */

enum number_result { NUMBER_OK, NUMBER_SYNTAX, NUMBER_RANGE };

/* Reads leading digits; *text moves behind them. A number beyond 64 bits is NUMBER_RANGE. */
static enum number_result parse_digits(const char **text, uint64_t *ret_number)
{
    const char *at = *text;
    uint64_t number = 0;
    bool overflow = false;
    for (; *at >= '0' && *at <= '9'; at++) {
        uint64_t digit = (uint64_t)(*at - '0');
        overflow = overflow || number > (UINT64_MAX - digit) / 10;
        number = number * 10 + digit;
    }
    if (at == *text) {
        return NUMBER_SYNTAX;
    }
    *text = at;
    *ret_number = number;
    return overflow ? NUMBER_RANGE : NUMBER_OK;
}

static const struct scale *find_scale(const struct scale *scales, const char *unit)
{
    for (const struct scale *scale = scales; scale->unit; scale++) {
        if (strcmp(scale->unit, unit) == 0) {
            return scale;
        }
    }
    return NULL;
}

/* "512MiB", "512 MiB", and 0 without a unit whatever the type. */
static enum number_result parse_scaled(const struct scale *scales, const char *text,
                                       uint64_t *ret_number)
{
    uint64_t number = 0;
    enum number_result result = parse_digits(&text, &number);
    if (result == NUMBER_SYNTAX) {
        return result;
    }
    if (*text == ' ' && text[1] != '\0') {
        text++;
    }
    const struct scale *scale = find_scale(scales, text);
    if (!scale && !(result == NUMBER_OK && number == 0 && *text == '\0')) {
        return NUMBER_SYNTAX;
    }
    uint64_t factor = scale ? scale->factor : 1;
    if (result == NUMBER_RANGE || number > UINT64_MAX / factor) {
        return NUMBER_RANGE;
    }
    *ret_number = number * factor;
    return NUMBER_OK;
}

static void number_print(const struct scale *scale, uint64_t number, char *ret_text)
{
    bool is_duration = scale == duration_scales;
    while (scale[1].unit && (!scale->print || number % scale->factor != 0 || number == 0)) {
        scale++;
    }
    const char *unit = number == 0 && is_duration ? "s" : scale->unit;
    snprintf(ret_text, VALUE_TEXT_MAX, "%" PRIu64 "%s", number / scale->factor, unit);
}

/* Real numbers */

/* Reads one finite number in decimal; *text moves behind it. Further notations of strtod (nan, inf,
 * hexadecimal, leading space) are refused. */
static bool parse_decimal(const char **text, double *ret_number)
{
    size_t len = strspn(*text, "+-.0123456789eE");
    char *end;
    if (len == 0 || strspn(*text, "+-eE") == len) {
        return false;
    }
    *ret_number = strtod(*text, &end);
    bool whole = end == *text + len;
    *text += len;
    return whole && isfinite(*ret_number);
}

bool value_decimal(const char *text, double *ret_number)
{
    double number;
    if (!parse_decimal(&text, &number) || *text != '\0') {
        return false;
    }
    *ret_number = number;
    return true;
}

int value_decimal_print(double number, char ret_text[VALUE_DECIMAL_MAX])
{
    int best = VALUE_DECIMAL_MAX;
    for (int digits = 1; digits <= 17; digits++) {
        char text[VALUE_DECIMAL_MAX];
        int len = snprintf(text, sizeof text, "%.*g", digits, number);
        if (len >= best || strtod(text, NULL) != number) {
            continue;
        }
        best = len;
        memcpy(ret_text, text, (size_t)len + 1);
    }
    return best;
}

static const char *skip_spaces(const char *text)
{
    return text + strspn(text, " ");
}

/* Numbers between commas or spaces, as far as `end`. */
static bool value_parse_list(const char *text, const char *end, config_numbers *ret_numbers)
{
    for (text = skip_spaces(text); text < end;) {
        if (ret_numbers->count == CONFIG_NUMBERS_MAX ||
            !parse_decimal(&text, &ret_numbers->number[ret_numbers->count])) {
            return false;
        }
        ret_numbers->count++;
        const char *next = skip_spaces(text);
        bool comma = *next == ',';
        next = comma ? skip_spaces(next + 1) : next;
        if (next < end ? next == text : comma) {
            return false;
        }
        text = next;
    }
    return text == end;
}

static bool numbers_parse(const char *text, void *ret_value)
{
    config_numbers numbers = {.count = 0};
    const char *end = text + strlen(text);
    bool brackets = *text == '[' && end[-1] == ']';
    if (!value_parse_list(text + brackets, end - brackets, &numbers)) {
        return false;
    }
    memcpy(ret_value, &numbers, sizeof numbers);
    return true;
}

static void numbers_print(const void *value, char *ret_text)
{
    const config_numbers *numbers = value;
    size_t used = 0;
    ret_text[used++] = '[';
    for (uint32_t i = 0; i < numbers->count; i++) {
        used += (size_t)snprintf(ret_text + used, VALUE_TEXT_MAX - used, "%s", i > 0 ? ", " : "");
        used += (size_t)value_decimal_print(numbers->number[i], ret_text + used);
    }
    strcpy(ret_text + used, "]");
}

/* "-1.7976931348623157e+308, " is 26 bytes. */
static_assert(CONFIG_NUMBERS_MAX * 26 + VALUE_DECIMAL_MAX <= VALUE_TEXT_MAX,
              "the longest list fits");

/* Texts */

/* Longest path that fits a Unix socket's address with its NUL. */
#define IPC_PATH_MAX (sizeof(((struct sockaddr_un *)0)->sun_path) - 1)

static bool is_printable(const char *text)
{
    while (*text >= ' ' && *text <= '~') {
        text++;
    }
    return !*text;
}

/* The host of tcp://: a name, an address, an interface, or `*`. */
static const char *tcp_host_reason(const char *host, size_t len)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "0123456789.-_";
    if (len == 0) {
        return "the host is missing";
    }
    if (len == 1 && host[0] == '*') {
        return NULL;
    }
    if (host[0] == '[' && host[len - 1] == ']') {
        return strspn(host + 1, "0123456789abcdefABCDEF:.") == len - 2 && len > 3
                   ? NULL
                   : "the host is not an IPv6 address in [ ]";
    }
    return strspn(host, allowed) >= len ? NULL : "the host is not a name, an address, [IPv6] or *";
}

/* NULL when `text` is an endpoint, else what is wrong with it. */
static const char *endpoint_reason(const char *text)
{
    if (!*text) {
        return NULL;
    }
    if (strlen(text) >= ENDPOINT_MAX) {
        return "longer than 255 bytes";
    }
    if (strncmp(text, "tcp://", 6) == 0) {
        const char *address = text + 6;
        const char *colon = strrchr(address, ':');
        if (!colon) {
            return "the port is missing";
        }
        const char *reason = tcp_host_reason(address, (size_t)(colon - address));
        if (reason) {
            return reason;
        }
        const char *port = colon + 1;
        if (strcmp(port, "*") == 0) {
            return NULL;
        }
        uint64_t number = 0;
        bool valid = parse_digits(&port, &number) == NUMBER_OK && *port == '\0' && number >= 1 &&
                     number <= UINT16_MAX;
        return valid ? NULL : "the port is not 1 to 65535 or *";
    }
    if (strncmp(text, "ipc://", 6) == 0) {
        const char *path = text + 6;
        if (*path == '\0') {
            return "the path is missing";
        }
        if (strlen(path) > IPC_PATH_MAX) {
            return "the path is longer than a socket's name may be (107 bytes)";
        }
        return is_printable(path) ? NULL : "the path holds something other than printable ASCII";
    }
    return "not an endpoint";
}

static const char *text_reason(const char *text)
{
    if (strlen(text) >= CONFIG_TEXT_MAX) {
        return "too long";
    }
    return is_printable(text) ? NULL : "holds something other than printable ASCII";
}

/* Windows */

/* Reads "epoch" or "epochs"; *text moves behind it. */
static bool parse_unit(const char **text, enum config_unit *ret_unit)
{
    for (unsigned i = 0; i < CONFIG_UNIT_AUTO; i++) {
        size_t len = strlen(unit_words[i]);
        if (strncmp(*text, unit_words[i], len) != 0) {
            continue;
        }
        *text += len + ((*text)[len] == 's');
        *ret_unit = (enum config_unit)i;
        return true;
    }
    return false;
}

static bool parse_units(const char **text, uint64_t *ret_number)
{
    bool valid = parse_digits(text, ret_number) == NUMBER_OK && *ret_number >= 1 &&
                 *ret_number <= CONFIG_WINDOW_UNITS_MAX;
    *text = skip_spaces(*text);
    return valid;
}

/* "100 steps every 10"; *text moves behind it. */
static bool parse_window(const char **text, config_windows *windows)
{
    uint64_t length, every;
    enum config_unit unit;
    if (windows->count == CONFIG_WINDOWS_MAX || !parse_units(text, &length) ||
        !parse_unit(text, &unit)) {
        return false;
    }
    every = length;
    *text = skip_spaces(*text);
    if (strncmp(*text, "every ", 6) == 0) {
        *text = skip_spaces(*text + 6);
        if (!parse_units(text, &every)) {
            return false;
        }
    }
    windows->window[windows->count].unit = unit;
    windows->window[windows->count].length = length;
    windows->window[windows->count++].every = every;
    return true;
}

static bool windows_parse(const char *text, void *ret_value)
{
    config_windows windows = {.count = 0};
    const char *end = text + strlen(text);
    bool brackets = *text == '[' && end[-1] == ']';
    end -= brackets;
    text = skip_spaces(text + brackets);
    bool more = text < end;
    while (more) {
        bool valid = parse_window(&text, &windows);
        more = text < end;
        if (!valid || (more && *text++ != ',')) {
            return false;
        }
        text = skip_spaces(text);
    }
    memcpy(ret_value, &windows, sizeof windows);
    return true;
}

static void windows_print(const void *value, char *ret_text)
{
    const config_windows *windows = value;
    size_t used = (size_t)snprintf(ret_text, VALUE_TEXT_MAX, "[");
    for (uint32_t i = 0; i < windows->count; i++) {
        uint64_t length = windows->window[i].length, every = windows->window[i].every;
        used += (size_t)snprintf(ret_text + used, VALUE_TEXT_MAX - used, "%s%" PRIu64 " %s%s",
                                 i > 0 ? ", " : "", length, unit_words[windows->window[i].unit],
                                 length == 1 ? "" : "s");
        if (every != length) {
            used +=
                (size_t)snprintf(ret_text + used, VALUE_TEXT_MAX - used, " every %" PRIu64, every);
        }
    }
    snprintf(ret_text + used, VALUE_TEXT_MAX - used, "]");
}

/* By type */

/* A value is of `scales`, a word of `words`, a text of which `why_not` says what is wrong, or a
 * list that has functions of its own; else a real number. */
static const struct type_info {
    const char *name;
    const char *reason; /* completes "'x': " */
    const struct scale *scales;
    const char *const *words;
    const char *(*why_not)(const char *text); /* NULL: nothing */
    bool (*parse)(const char *text, void *ret_value);
    void (*print)(const void *value, char *ret_text);
    const char *valid; /* NULL: scales, words or bounds tell */
} type_info[] = {
    [VALUE_ENDPOINT] = {.name = "endpoint",
                        .why_not = endpoint_reason,
                        .valid = "tcp://host:port, ipc://path"},
    [VALUE_BYTES] = {"size", "not a size such as 65536, 512MiB or 10MB", .scales = byte_scales},
    [VALUE_COUNT] = {"count", "not a whole number", .scales = count_scales},
    [VALUE_DURATION] = {"duration", "not a duration such as 500ms, 5s, 2min or 1h",
                        .scales = duration_scales},
    [VALUE_REAL] = {.name = "number", .reason = "not a number such as 0.05"},
    [VALUE_NUMBERS] = {"list", "not a list of numbers such as [1, 0.5]", .parse = numbers_parse,
                       .print = numbers_print, .valid = "at most 256 numbers"},
    [VALUE_TEXT] = {.name = "text",
                    .why_not = text_reason,
                    .valid = "at most 1023 printable characters"},
    [VALUE_WINDOWS] = {"list", "not a list of windows such as [10 epochs, 100 steps every 10]",
                       .parse = windows_parse, .print = windows_print,
                       .valid = "at most 7 windows of 1 to 1000000 epochs, steps or seconds"},
    [VALUE_LAYERS] = {.name = "layers",
                      .why_not = capture_layers_reason,
                      .valid = "decoder.3.self, * ? [ ] as in file names, several between blanks; "
                               "at most 511 characters"},
    [VALUE_HEADS] = {.name = "heads",
                     .why_not = capture_heads_reason,
                     .valid = "* or numbers and ranges such as 0-3,7; at most 255 characters"},
    [VALUE_SERVERS] = {.name = "servers",
                       .why_not = servers_reason,
                       .valid = "nats://host:4222 or tls://host:4222, at most 32 between commas"},
    [VALUE_DOMAINS] = {.name = "domains",
                       .why_not = servers_domains_reason,
                       .valid = "at most 64 names of letters, digits, - and _ between single "
                                "blanks"},
    [VALUE_BOOL] = {"boolean", .words = bool_words},
    [VALUE_UNIT] = {"choice", .words = unit_words},
    [VALUE_LEVEL] = {"choice", .words = level_words},
    [VALUE_FORMAT] = {"choice", .words = format_words},
    [VALUE_EFFORT] = {"choice", .words = effort_words},
    [VALUE_TIER] = {"choice", .words = tier_words},
    [VALUE_ISA] = {"choice", .words = isa_words},
    [VALUE_ROLE] = {"choice", .words = role_words},
};
static_assert(CONFIG_NUMBERS_MAX == 256 && CONFIG_TEXT_MAX == 1024 && CONFIG_WINDOWS_MAX == 7 &&
                  CONFIG_WINDOW_UNITS_MAX == 1000000 && CONFIG_LAYERS_MAX == 512 &&
                  CONFIG_HEADS_MAX == 256 && CONFIG_SERVERS_MAX == 32 && CONFIG_DOMAINS_MAX == 64,
              "type_info says so");

const char *value_type_name(enum value_type type)
{
    return type_info[type].name;
}

/* Writes "reason (valid: ...)". Always returns -1, so that callers can return it. */
static int value_refuse(const struct value_rule *rule, const char *reason, char *reterr_reason)
{
    char valid[VALUE_VALID_MAX];
    value_valid(rule, valid);
    snprintf(reterr_reason, VALUE_REASON_MAX, "%s (valid: %s)", reason, valid);
    return -1;
}

int value_parse(const struct value_rule *rule, const char *text, void *ret_value,
                char reterr_reason[VALUE_REASON_MAX])
{
    const struct type_info *type = &type_info[rule->type];
    if (type->scales) {
        uint64_t number = 0;
        enum number_result result = parse_scaled(type->scales, text, &number);
        if (result == NUMBER_SYNTAX) {
            return value_refuse(rule, type->reason, reterr_reason);
        }
        if (result == NUMBER_RANGE || number < rule->minimum || number > rule->maximum) {
            return value_refuse(rule, "out of range", reterr_reason);
        }
        memcpy(ret_value, &number, sizeof number);
    } else if (type->words) {
        unsigned index = 0;
        while (type->words[index] && strcmp(type->words[index], text) != 0) {
            index++;
        }
        if (!type->words[index]) {
            return value_refuse(rule, "not one of the choices", reterr_reason);
        }
        if (rule->type == VALUE_BOOL) {
            *(bool *)ret_value = index == 1;
        } else {
            memcpy(ret_value, &index, sizeof index);
        }
    } else if (type->why_not) {
        const char *reason = type->why_not(text);
        if (reason) {
            return value_refuse(rule, reason, reterr_reason);
        }
        strcpy(ret_value, text);
    } else if (type->parse) {
        return type->parse(text, ret_value) ? 0 : value_refuse(rule, type->reason, reterr_reason);
    } else {
        double number;
        if (!value_decimal(text, &number)) {
            return value_refuse(rule, type->reason, reterr_reason);
        }
        if (number < (double)rule->minimum || number > (double)rule->maximum) {
            return value_refuse(rule, "out of range", reterr_reason);
        }
        memcpy(ret_value, &number, sizeof number);
    }
    return 0;
}

void value_print(const struct value_rule *rule, const void *value, char ret_text[VALUE_TEXT_MAX])
{
    const struct type_info *type = &type_info[rule->type];
    if (type->scales) {
        uint64_t number;
        memcpy(&number, value, sizeof number);
        number_print(type->scales, number, ret_text);
    } else if (type->words) {
        unsigned index;
        if (rule->type == VALUE_BOOL) {
            index = *(const bool *)value ? 1 : 0;
        } else {
            memcpy(&index, value, sizeof index);
        }
        strcpy(ret_text, type->words[index]);
    } else if (type->why_not) {
        strcpy(ret_text, value); /* the value begins with it */
    } else if (type->print) {
        type->print(value, ret_text);
    } else {
        double number;
        memcpy(&number, value, sizeof number);
        value_decimal_print(number, ret_text);
    }
}

void value_valid(const struct value_rule *rule, char ret_text[VALUE_VALID_MAX])
{
    const struct type_info *type = &type_info[rule->type];
    if (type->scales) {
        char minimum[VALUE_TEXT_MAX], maximum[VALUE_TEXT_MAX];
        number_print(type->scales, rule->minimum, minimum);
        number_print(type->scales, rule->maximum, maximum);
        snprintf(ret_text, VALUE_VALID_MAX, "%.60s to %.60s", minimum, maximum);
    } else if (type->words) {
        size_t used = 0;
        for (const char *const *word = type->words; *word; word++) {
            used += (size_t)snprintf(ret_text + used, VALUE_VALID_MAX - used, "%s%s",
                                     used ? ", " : "", *word);
        }
    } else if (type->valid) {
        strcpy(ret_text, type->valid);
    } else {
        snprintf(ret_text, VALUE_VALID_MAX, "%" PRIu64 " to %" PRIu64, rule->minimum,
                 rule->maximum);
    }
}
