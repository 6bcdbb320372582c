/* SPDX-License-Identifier: MIT */
/* All prefixes are read anew when one of them has changed: they are few, and change seldom. One
 * that cannot be read as a whole counts for nothing: half a plan might capture what nobody meant.
 */
#include "clients/c/src/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATTERN_MAX 128
/* A number takes a digit and a comma. */
#define RANGES_READ_MAX (PLAN_PREFIX_MAX / 2)

struct plan_entry {
    const struct prefix *prefix;
    uint32_t order;
    attn_plan plan;
};

/* ---- patterns ---- */

/* Where the set that begins at pattern[0] == '[' ends, or 0: it does not. */
static size_t set_end(const char *pattern, size_t len)
{
    size_t at = len > 1 && pattern[1] == '!' ? 3 : 2; /* a ] that comes first is meant */
    while (at < len && pattern[at] != ']') {
        at++;
    }
    return at < len ? at : 0;
}

/* Whether the pattern's first item, of *ret_len characters and no star, takes the character. */
static bool plan_takes(const char *pattern, size_t len, char c, size_t *ret_len)
{
    size_t end = pattern[0] == '[' ? set_end(pattern, len) : 0;
    *ret_len = end + 1;
    if (end > 0) {
        bool negated = pattern[1] == '!', found = false;
        for (size_t i = negated ? 2 : 1; i < end && !found; i++) {
            if (i + 2 < end && pattern[i + 1] == '-') {
                found = pattern[i] <= c && c <= pattern[i + 2];
                i += 2;
            } else {
                found = pattern[i] == c;
            }
        }
        return found != negated;
    }
    return pattern[0] == '?' || pattern[0] == c;
}

/* Only the last star is ever tried again: an earlier one need not take more than it has. */
bool plan_glob(const char *pattern, size_t pattern_len, const char *text, size_t len)
{
    size_t p = 0, t = 0, star = SIZE_MAX, star_text = 0, item;
    while (t < len) {
        if (p < pattern_len && pattern[p] == '*') {
            star = p++;
            star_text = t;
        } else if (p < pattern_len && plan_takes(pattern + p, pattern_len - p, text[t], &item)) {
            p += item;
            t++;
        } else if (star != SIZE_MAX) {
            p = star + 1;
            t = ++star_text;
        } else {
            return false;
        }
    }
    while (p < pattern_len && pattern[p] == '*') {
        p++;
    }
    return p == pattern_len;
}

/* ---- reading ---- */

/* Takes what comes before the separator, which it must not end without; what follows stays. */
static bool plan_cut(struct span *rest, char separator, struct span *ret_part)
{
    const char *end = memchr(rest->at, separator, rest->len);
    if (!end) {
        return false;
    }
    *ret_part = (struct span){rest->at, (size_t)(end - rest->at)};
    rest->len -= ret_part->len + 1;
    rest->at = end + 1;
    return true;
}

bool plan_next_part(struct span *rest, char separator, struct span *ret_part)
{
    if (!rest->at) {
        return false;
    }
    if (plan_cut(rest, separator, ret_part)) {
        return true;
    }
    *ret_part = *rest;
    rest->at = NULL;
    return true;
}

bool plan_read_number(struct span text, uint64_t max, uint64_t *ret_number)
{
    uint64_t number = 0;
    if (text.len < 1 || text.len > 19) {
        return false;
    }
    for (size_t i = 0; i < text.len; i++) {
        if (text.at[i] < '0' || text.at[i] > '9') {
            return false;
        }
        number = 10 * number + (uint64_t)(text.at[i] - '0');
    }
    *ret_number = number;
    return number <= max;
}

static bool plan_read_u32(struct span text, uint32_t max, uint32_t *ret_number)
{
    uint64_t number = 0;
    bool good = plan_read_number(text, max, &number);
    *ret_number = (uint32_t)number;
    return good;
}

static bool read_range(struct span text, attn_range *ret_range)
{
    struct span first;
    if (!plan_cut(&text, '-', &first)) {
        first = text;
    }
    return plan_read_u32(first, PLAN_NUMBER_MAX, &ret_range->first) &&
           plan_read_u32(text, PLAN_NUMBER_MAX, &ret_range->last) &&
           ret_range->first <= ret_range->last;
}

static int by_first(const void *a, const void *b)
{
    uint32_t x = ((const attn_range *)a)->first, y = ((const attn_range *)b)->first;
    return (x > y) - (x < y);
}

static bool plan_read_heads(struct span text, attn_plan *plan)
{
    attn_range ranges[RANGES_READ_MAX];
    struct span part;
    size_t count = 0;
    plan->range_count = 0;
    if (text.len == 1 && text.at[0] == '*') {
        return true;
    }
    while (plan_next_part(&text, ',', &part)) {
        if (count == RANGES_READ_MAX || !read_range(part, &ranges[count++])) {
            return false;
        }
    }
    /* Ranges in any order, which may overlap, as a plan has them. */
    qsort(ranges, count, sizeof *ranges, by_first);
    plan->range_count = 0;
    for (size_t i = 0; i < count; i++) {
        attn_range *last = plan->range_count ? &plan->ranges[plan->range_count - 1] : NULL;
        if (last && ranges[i].first <= last->last + 1) {
            if (ranges[i].last > last->last) {
                last->last = ranges[i].last;
            }
        } else if (plan->range_count == ATTN_PLAN_RANGES_MAX) {
            return false;
        } else {
            plan->ranges[plan->range_count++] = ranges[i];
        }
    }
    return true;
}

bool plan_word_is(struct span text, const char *word)
{
    return text.len == strlen(word) && memcmp(text.at, word, text.len) == 0;
}

/* Keys that are not known say something to newer clients. */
static bool read_setting(struct span setting, attn_plan *plan)
{
    struct span key;
    if (setting.len == 0) {
        return true;
    }
    if (!plan_cut(&setting, '=', &key)) {
        return false;
    }
    if (plan_word_is(key, "every")) {
        return plan_read_u32(setting, PLAN_NUMBER_MAX, &plan->every);
    }
    if (plan_word_is(key, "samples")) {
        return plan_read_u32(setting, PLAN_NUMBER_MAX, &plan->samples);
    }
    if (plan_word_is(key, "rows")) {
        return plan_read_u32(setting, PLAN_NUMBER_MAX, &plan->rows);
    }
    if (plan_word_is(key, "layers")) {
        size_t blanks = 0;
        while (blanks < setting.len && setting.at[blanks] == ' ') {
            blanks++;
        }
        if (blanks == setting.len || setting.len >= sizeof plan->layers) {
            return false;
        }
        memcpy(plan->layers, setting.at, setting.len);
        plan->layers[setting.len] = '\0';
        return true;
    }
    return !plan_word_is(key, "heads") || plan_read_heads(setting, plan);
}

static bool read_settings(struct span text, attn_plan *ret_plan)
{
    struct span part;
    attn_plan_default(ret_plan);
    for (size_t i = 0; i < text.len; i++) {
        if (text.at[i] < ' ' || text.at[i] > '~') {
            return false;
        }
    }
    while (plan_next_part(&text, ';', &part)) {
        if (!read_setting(part, ret_plan)) {
            return false;
        }
    }
    return true;
}

enum verdict { PLAN_OURS, PLAN_OTHERS, PLAN_MALFORMED };

/* `entry` is written to in any case. */
static enum verdict plan_read_prefix(struct span rest, const char *job, struct plan_entry *entry)
{
    struct span order, pattern;
    if (rest.len > PLAN_PREFIX_MAX) {
        return PLAN_MALFORMED;
    }
    rest.at += strlen(PLAN_PREFIX);
    rest.len -= strlen(PLAN_PREFIX);
    if (!plan_cut(&rest, '/', &order) || order.len > 6 ||
        !plan_read_u32(order, PLAN_ORDER_DEFAULT, &entry->order) ||
        !plan_cut(&rest, '/', &pattern) || pattern.len < 1 || pattern.len > PATTERN_MAX) {
        return PLAN_MALFORMED;
    }
    if (!plan_glob(pattern.at, pattern.len, job, strlen(job))) {
        return PLAN_OTHERS;
    }
    return read_settings(rest, &entry->plan) ? PLAN_OURS : PLAN_MALFORMED;
}

bool plan_is(const char *prefix, size_t len)
{
    return len >= strlen(PLAN_PREFIX) && memcmp(prefix, PLAN_PREFIX, strlen(PLAN_PREFIX)) == 0;
}

static int compare_text(const struct plan_entry *a, const struct plan_entry *b)
{
    size_t shorter = a->prefix->len < b->prefix->len ? a->prefix->len : b->prefix->len;
    int order = memcmp(a->prefix->text, b->prefix->text, shorter);
    return order ? order : (a->prefix->len > b->prefix->len) - (a->prefix->len < b->prefix->len);
}

/* Whether a goes before b. */
static bool precedes(const struct plan_entry *a, const struct plan_entry *b)
{
    uint32_t a_every = a->plan.every - 1, b_every = b->plan.every - 1; /* 0 comes last */
    if (a->order != b->order) {
        return a->order < b->order;
    }
    if (a_every != b_every) {
        return a_every < b_every;
    }
    return compare_text(a, b) < 0;
}

static void plan_override(uint32_t wanted, uint32_t *number)
{
    if (wanted != ATTN_UNSAID) {
        *number = wanted;
    }
}

bool plan_choose(const struct prefixes *prefixes, const char *job, const struct plan_requests *own,
                 attn_plan *ret_plan, uint64_t *ret_malformed)
{
    struct plan_entry best = {.prefix = NULL};
    *ret_malformed = 0;
    attn_plan_default(&best.plan);
    for (size_t i = 0; i < prefixes->count; i++) {
        struct plan_entry entry = {.prefix = &prefixes->items[i]};
        enum verdict verdict = PLAN_OTHERS;
        if (plan_is(entry.prefix->text, entry.prefix->len)) {
            verdict =
                plan_read_prefix((struct span){entry.prefix->text, entry.prefix->len}, job, &entry);
        }
        *ret_malformed += verdict == PLAN_MALFORMED;
        if (verdict == PLAN_OURS && (!best.prefix || precedes(&entry, &best))) {
            best = entry;
        }
    }
    *ret_plan = best.plan;
    if (!best.prefix || best.order >= PLAN_ORDER_LENGTHENED) {
        plan_override(own->every, &ret_plan->every);
        plan_override(own->samples, &ret_plan->samples);
        plan_override(own->rows, &ret_plan->rows);
    }
    return best.prefix;
}

/* ---- asking a plan ---- */

bool plan_takes_layer(const attn_plan *plan, struct layer_id id)
{
    char name[LAYER_NAME_MAX];
    size_t len = strlen(layer_name(id, name));
    struct span rest = {plan->layers, strlen(plan->layers)}, pattern;
    while (plan_next_part(&rest, ' ', &pattern)) {
        if (pattern.len > 0 && plan_glob(pattern.at, pattern.len, name, len)) {
            return true;
        }
    }
    return false;
}

bool plan_takes_step(const attn_plan *plan, uint64_t step)
{
    return plan->every > 0 && step % plan->every == 0;
}

bool plan_valid(const attn_plan *plan)
{
    if (plan->range_count > ATTN_PLAN_RANGES_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < plan->range_count; i++) {
        if (plan->ranges[i].first > plan->ranges[i].last ||
            (i > 0 && plan->ranges[i].first <= plan->ranges[i - 1].last)) {
            return false;
        }
    }
    return true;
}

void attn_plan_default(attn_plan *ret_plan)
{
    memset(ret_plan, 0, sizeof *ret_plan);
    ret_plan->every = 1;
    strcpy(ret_plan->layers, "*");
}

/* ---- rows ---- */

static uint64_t plan_common_divisor(uint64_t a, uint64_t b)
{
    while (b > 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The number next to the golden section of n that has no divisor in common with it; of two as near
 * the larger. Its multiples modulo n are all of 0 to n - 1, and any few in succession lie apart. */
static uint64_t plan_turn(uint64_t n)
{
    uint64_t middle = (n * 618034 + 500000) / 1000000;
    for (uint64_t away = 0;; away++) {
        if (plan_common_divisor(middle + away, n) == 1) {
            return middle + away;
        }
        if (away < middle && plan_common_divisor(middle - away, n) == 1) {
            return middle - away;
        }
    }
}

uint32_t attn_plan_rows(const attn_plan *plan, uint64_t step, uint32_t queries, uint32_t *ret_first,
                        uint32_t *ret_stride)
{
    uint64_t every = plan->every ? plan->every : 1, turns = 1, turn;

    if (plan->rows > 0 && queries > plan->rows) {
        turns = ((uint64_t)queries + plan->rows - 1) / plan->rows;
    }
    turn = step / every % turns * plan_turn(turns) % turns;
    *ret_first = (uint32_t)turn;
    *ret_stride = (uint32_t)turns;
    return (uint32_t)((queries - turn + turns - 1) / turns);
}
