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
static const char *const tier_words[] = {"auto", "raw", "state", NULL};
static const char *const role_words[] = {"off", "node", "hub", NULL};
static const char *const isa_words[] = {"auto", "scalar", "portable", "avx2", "avx512", NULL};

/* Everything about a type; `scales` or `words` or neither (endpoint, numbers) is set. */
struct type_info {
    const char *name;
    const char *reason; /* completes "'x': " */
    const struct scale *scales;
    const char *const *words;
};

static const struct type_info type_info[] = {
    [VALUE_ENDPOINT] = {.name = "endpoint"},
    [VALUE_BYTES] = {"size", "not a size such as 65536, 512MiB or 10MB", byte_scales, NULL},
    [VALUE_COUNT] = {"count", "not a whole number", count_scales, NULL},
    [VALUE_DURATION] = {"duration", "not a duration such as 500ms, 5s, 2min or 1h", duration_scales,
                        NULL},
    [VALUE_REAL] = {"number", "not a number such as 0.05", NULL, NULL},
    [VALUE_NUMBERS] = {"list", "not a list of numbers such as [1, 0.5]", NULL, NULL},
    [VALUE_TEXT] = {.name = "text"},
    [VALUE_WINDOWS] = {"list", "not a list of windows such as [10 epochs, 100 steps every 10]",
                       NULL, NULL},
    [VALUE_LAYERS] = {.name = "layers"},
    [VALUE_HEADS] = {.name = "heads"},
    [VALUE_SERVERS] = {.name = "servers"},
    [VALUE_DOMAINS] = {.name = "domains"},
    [VALUE_BOOL] = {"boolean", "not one of the choices", NULL, bool_words},
    [VALUE_UNIT] = {"choice", "not one of the choices", NULL, unit_words},
    [VALUE_LEVEL] = {"choice", "not one of the choices", NULL, level_words},
    [VALUE_FORMAT] = {"choice", "not one of the choices", NULL, format_words},
    [VALUE_EFFORT] = {"choice", "not one of the choices", NULL, effort_words},
    [VALUE_TIER] = {"choice", "not one of the choices", NULL, tier_words},
    [VALUE_ISA] = {"choice", "not one of the choices", NULL, isa_words},
    [VALUE_ROLE] = {"choice", "not one of the choices", NULL, role_words},
};

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

static void number_print(enum value_type type, uint64_t number, char *ret_text)
{
    const struct scale *scale = type_info[type].scales;
    while (scale[1].unit && (!scale->print || number % scale->factor != 0 || number == 0)) {
        scale++;
    }
    const char *unit = number == 0 && type == VALUE_DURATION ? "s" : scale->unit;
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

static int real_parse(const struct value_rule *rule, const char *text, void *ret_value,
                      char *reterr_reason)
{
    double number;
    if (!value_decimal(text, &number)) {
        return value_refuse(rule, type_info[rule->type].reason, reterr_reason);
    }
    if (number < (double)rule->minimum || number > (double)rule->maximum) {
        return value_refuse(rule, "out of range", reterr_reason);
    }
    memcpy(ret_value, &number, sizeof number);
    return 0;
}

/* The shortest text that reads back as the same number (10, not 1e+01); returns its length. */
static int decimal_print(double number, char *ret_text, size_t size)
{
    int best = (int)size;
    for (int digits = 1; digits <= 17; digits++) {
        char text[32];
        int len = snprintf(text, sizeof text, "%.*g", digits, number);
        if (len >= best || strtod(text, NULL) != number) {
            continue;
        }
        best = len;
        memcpy(ret_text, text, (size_t)len + 1);
    }
    return best;
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

void value_decimal_print(double number, char ret_text[VALUE_DECIMAL_MAX])
{
    decimal_print(number, ret_text, VALUE_DECIMAL_MAX);
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

static int numbers_parse(const struct value_rule *rule, const char *text, void *ret_value,
                         char *reterr_reason)
{
    config_numbers numbers = {.count = 0};
    const char *end = text + strlen(text);
    bool brackets = *text == '[' && end[-1] == ']';
    if (!value_parse_list(text + brackets, end - brackets, &numbers)) {
        return value_refuse(rule, type_info[rule->type].reason, reterr_reason);
    }
    memcpy(ret_value, &numbers, sizeof numbers);
    return 0;
}

static void numbers_print(const config_numbers *numbers, char *ret_text)
{
    size_t used = 0;
    ret_text[used++] = '[';
    for (uint32_t i = 0; i < numbers->count; i++) {
        used += (size_t)snprintf(ret_text + used, VALUE_TEXT_MAX - used, "%s", i > 0 ? ", " : "");
        used += (size_t)decimal_print(numbers->number[i], ret_text + used, VALUE_TEXT_MAX - used);
    }
    ret_text[used++] = ']';
    ret_text[used] = '\0';
}

/* "-1.7976931348623157e+308, " is 26 bytes. */
static_assert(CONFIG_NUMBERS_MAX * 26 + 3 <= VALUE_TEXT_MAX, "the longest list fits");

/* Words */

static int word_parse(const struct value_rule *rule, const char *text, void *ret_value,
                      char *reterr_reason)
{
    const struct type_info *type = &type_info[rule->type];
    unsigned index = 0;
    while (type->words[index] && strcmp(type->words[index], text) != 0) {
        index++;
    }
    if (!type->words[index]) {
        return value_refuse(rule, type->reason, reterr_reason);
    }
    if (rule->type == VALUE_BOOL) {
        *(bool *)ret_value = index == 1;
    } else {
        memcpy(ret_value, &index, sizeof index);
    }
    return 0;
}

/* Endpoints */

/* Longest path that fits a Unix socket's address with its NUL. */
#define IPC_PATH_MAX (sizeof(((struct sockaddr_un *)0)->sun_path) - 1)

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
        for (; *path; path++) {
            if (*path < ' ' || *path > '~') {
                return "the path holds something other than printable ASCII";
            }
        }
        return NULL;
    }
    return "not an endpoint";
}

/* Text */

static int text_parse(const struct value_rule *rule, const char *text, void *ret_value,
                      char *reterr_reason)
{
    config_text *value = ret_value;
    if (strlen(text) >= CONFIG_TEXT_MAX) {
        return value_refuse(rule, "too long", reterr_reason);
    }
    for (const char *at = text; *at; at++) {
        if (*at < ' ' || *at > '~') {
            return value_refuse(rule, "holds something other than printable ASCII", reterr_reason);
        }
    }
    snprintf(value->text, sizeof value->text, "%s", text);
    return 0;
}

/* Text of which another function knows what is wrong. */
static int checked_parse(const struct value_rule *rule, const char *text, void *ret_value,
                         char *reterr_reason)
{
    static const char *(*const reason_of[])(const char *) = {
        [VALUE_ENDPOINT] = endpoint_reason,       [VALUE_LAYERS] = capture_layers_reason,
        [VALUE_HEADS] = capture_heads_reason,     [VALUE_SERVERS] = servers_reason,
        [VALUE_DOMAINS] = servers_domains_reason,
    };
    const char *reason = reason_of[rule->type](text);
    if (reason) {
        return value_refuse(rule, reason, reterr_reason);
    }
    strcpy(ret_value, text);
    return 0;
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

static int windows_parse(const struct value_rule *rule, const char *text, void *ret_value,
                         char *reterr_reason)
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
            return value_refuse(rule, type_info[rule->type].reason, reterr_reason);
        }
        text = skip_spaces(text);
    }
    memcpy(ret_value, &windows, sizeof windows);
    return 0;
}

static void windows_print(const config_windows *windows, char *ret_text)
{
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

int value_parse(const struct value_rule *rule, const char *text, void *ret_value,
                char reterr_reason[VALUE_REASON_MAX])
{
    static int (*const parse[])(const struct value_rule *, const char *, void *, char *) = {
        [VALUE_ENDPOINT] = checked_parse, [VALUE_REAL] = real_parse,
        [VALUE_NUMBERS] = numbers_parse,  [VALUE_TEXT] = text_parse,
        [VALUE_WINDOWS] = windows_parse,  [VALUE_LAYERS] = checked_parse,
        [VALUE_HEADS] = checked_parse,    [VALUE_SERVERS] = checked_parse,
        [VALUE_DOMAINS] = checked_parse,
    };
    if (type_info[rule->type].scales) {
        const struct type_info *type = &type_info[rule->type];
        uint64_t number = 0;
        enum number_result result = parse_scaled(type->scales, text, &number);
        if (result == NUMBER_SYNTAX) {
            return value_refuse(rule, type->reason, reterr_reason);
        }
        if (result == NUMBER_RANGE || number < rule->minimum || number > rule->maximum) {
            return value_refuse(rule, "out of range", reterr_reason);
        }
        memcpy(ret_value, &number, sizeof number);
        return 0;
    }
    if (type_info[rule->type].words) {
        return word_parse(rule, text, ret_value, reterr_reason);
    }
    return parse[rule->type](rule, text, ret_value, reterr_reason);
}

static void real_print(const void *value, char *ret_text)
{
    double number;
    memcpy(&number, value, sizeof number);
    decimal_print(number, ret_text, VALUE_TEXT_MAX);
}

void value_print(const struct value_rule *rule, const void *value, char ret_text[VALUE_TEXT_MAX])
{
    if (type_info[rule->type].scales) {
        uint64_t number;
        memcpy(&number, value, sizeof number);
        number_print(rule->type, number, ret_text);
    } else if (type_info[rule->type].words) {
        unsigned index;
        if (rule->type == VALUE_BOOL) {
            index = *(const bool *)value ? 1 : 0;
        } else {
            memcpy(&index, value, sizeof index);
        }
        snprintf(ret_text, VALUE_TEXT_MAX, "%s", type_info[rule->type].words[index]);
    } else if (rule->type == VALUE_REAL) {
        real_print(value, ret_text);
    } else if (rule->type == VALUE_NUMBERS) {
        numbers_print(value, ret_text);
    } else if (rule->type == VALUE_WINDOWS) {
        windows_print(value, ret_text);
    } else {
        snprintf(ret_text, VALUE_TEXT_MAX, "%s", (const char *)value); /* they begin with it */
    }
}

void value_valid(const struct value_rule *rule, char ret_text[VALUE_VALID_MAX])
{
    if (type_info[rule->type].scales) {
        char minimum[64], maximum[64], text[VALUE_TEXT_MAX];
        number_print(rule->type, rule->minimum, text);
        snprintf(minimum, sizeof minimum, "%.60s", text);
        number_print(rule->type, rule->maximum, text);
        snprintf(maximum, sizeof maximum, "%.60s", text);
        snprintf(ret_text, VALUE_VALID_MAX, "%s to %s", minimum, maximum);
    } else if (type_info[rule->type].words) {
        size_t used = 0;
        for (const char *const *word = type_info[rule->type].words; *word; word++) {
            used += (size_t)snprintf(ret_text + used, VALUE_VALID_MAX - used, "%s%s",
                                     used ? ", " : "", *word);
        }
    } else if (rule->type == VALUE_REAL) {
        snprintf(ret_text, VALUE_VALID_MAX, "%" PRIu64 " to %" PRIu64, rule->minimum,
                 rule->maximum);
    } else if (rule->type == VALUE_NUMBERS) {
        snprintf(ret_text, VALUE_VALID_MAX, "at most %d numbers", CONFIG_NUMBERS_MAX);
    } else if (rule->type == VALUE_TEXT) {
        snprintf(ret_text, VALUE_VALID_MAX, "at most %d printable characters", CONFIG_TEXT_MAX - 1);
    } else if (rule->type == VALUE_WINDOWS) {
        snprintf(ret_text, VALUE_VALID_MAX,
                 "at most %d windows of 1 to %d epochs, steps or seconds", CONFIG_WINDOWS_MAX,
                 CONFIG_WINDOW_UNITS_MAX);
    } else if (rule->type == VALUE_LAYERS) {
        snprintf(ret_text, VALUE_VALID_MAX,
                 "decoder.3.self, * ? [ ] as in file names, several between blanks; at most %d "
                 "characters",
                 CONFIG_LAYERS_MAX - 1);
    } else if (rule->type == VALUE_HEADS) {
        snprintf(ret_text, VALUE_VALID_MAX,
                 "* or numbers and ranges such as 0-3,7; at most %d characters",
                 CONFIG_HEADS_MAX - 1);
    } else if (rule->type == VALUE_SERVERS) {
        snprintf(ret_text, VALUE_VALID_MAX,
                 "nats://host:4222 or tls://host:4222, at most %d between commas",
                 CONFIG_SERVERS_MAX);
    } else if (rule->type == VALUE_DOMAINS) {
        snprintf(ret_text, VALUE_VALID_MAX,
                 "at most %d names of letters, digits, - and _ between single blanks",
                 CONFIG_DOMAINS_MAX);
    } else {
        snprintf(ret_text, VALUE_VALID_MAX, "tcp://host:port, ipc://path");
    }
}
