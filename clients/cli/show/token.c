/* SPDX-License-Identifier: MIT */
/* How many columns a character takes is asked of the C library, in a locale of ours: the program's
 * own stays as it is. */
#include "clients/cli/show/internal.h"

#include "proto/utf8.h"

#include <locale.h>
#include <string.h>
#include <wchar.h>

/* Marks on one character; more are left out. */
#define MARKS_MAX 4
/* Stands under a mark that has no character. */
#define DOTTED_CIRCLE "\xe2\x97\x8c"
#define VISIBLE_BLANK "\xe2\x90\xa3" /* U+2423 */
#define ELLIPSIS      "\xe2\x80\xa6"

/* Characters ---------------------------------------------------------------------------------- */

static bool is_between(uint32_t code, uint32_t first, uint32_t last)
{
    return code >= first && code <= last;
}

/* Invisible, or turns the order of what follows. */
static bool is_format(uint32_t code)
{
    return code == 0xad || code == 0x61c || code == 0x180e || code == 0xfeff ||
           is_between(code, 0x200b, 0x200f) || is_between(code, 0x2028, 0x202e) ||
           is_between(code, 0x2060, 0x206f) || is_between(code, 0xfff9, 0xfffb) ||
           is_between(code, 0xe0000, 0xe0fff);
}

/* They only choose how the character before looks, and widths with them are anybody's guess. */
static bool is_variation(uint32_t code)
{
    return is_between(code, 0xfe00, 0xfe0f) || is_between(code, 0xe0100, 0xe01ef);
}

/* -1 = cannot be shown. */
static int width_of(uint32_t code)
{
    static locale_t own;
    if (!own) {
        own = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    }
    if (!own) {
        return code >= 0x20 && code != 0x7f ? 1 : -1;
    }
    locale_t before = uselocale(own);
    int width = wcwidth((wchar_t)code);
    uselocale(before);
    return width;
}

/* Units --------------------------------------------------------------------------------------- */

static struct token_unit token_escape(uint32_t code)
{
    struct token_unit unit = {.width = 0};
    static const char letters[] = "\t\n\r";
    const char *letter = code < 0x80 && code ? strchr(letters, (int)code) : NULL;
    if (letter) {
        snprintf(unit.text, sizeof unit.text, "\\%c", "tnr"[letter - letters]);
    } else {
        snprintf(unit.text, sizeof unit.text,
                 code < 0xa0      ? "\\x%02x"
                 : code < 0x10000 ? "\\u%04x"
                                  : "\\U%06x",
                 (unsigned)code);
    }
    unit.width = (int)strlen(unit.text);
    return unit;
}

/* The width that one character adds; `count` < most. Returns the new count. */
static int add_character(uint32_t code, bool utf8, struct token_unit *units, int count, int *marks)
{
    int width = width_of(code);
    bool shown = code < 0x7f ? code >= 0x20 : utf8 && width >= 0 && !is_format(code);
    if (is_variation(code)) {
        return count;
    }
    if (shown && width == 0) {
        /* A mark joins the character before it, or gets one to stand on. */
        if (count == 0 || units[count - 1].text[0] == '\\') {
            units[count++] = (struct token_unit){.text = DOTTED_CIRCLE, .width = 1};
            *marks = 0;
        }
        char *text = units[count - 1].text;
        if ((*marks)++ < MARKS_MAX) {
            utf8_put(code, text + strlen(text)); /* the rest of the text is 0 */
        }
        return count;
    }
    *marks = 0;
    if (!shown) {
        units[count] = token_escape(code);
        return count + 1;
    }
    units[count] = (struct token_unit){
        .width = width,
        .right_to_left = is_between(code, 0x590, 0x8ff) || is_between(code, 0xfb1d, 0xfdff) ||
                         is_between(code, 0xfe70, 0xfefe) || is_between(code, 0x10800, 0x10fff) ||
                         is_between(code, 0x1e800, 0x1efff)};
    utf8_put(code, units[count].text);
    return count + 1;
}

static void show_blank(struct token_unit *unit, bool utf8)
{
    if (strcmp(unit->text, " ") == 0) {
        strcpy(unit->text, utf8 ? VISIBLE_BLANK : "_");
    }
}

/* Whether a character takes no unit of its own. */
static bool joins(uint32_t code, bool utf8, const struct token_unit *units, int count)
{
    bool mark = utf8 && width_of(code) == 0 && !is_format(code);
    return is_variation(code) || (mark && count > 0 && units[count - 1].text[0] != '\\');
}

int token_split(const char *label, bool utf8, struct token_unit *ret_units, int most,
                bool *ret_more)
{
    size_t left = strlen(label);
    int count = 0, marks = 0;
    *ret_more = false;
    while (left > 0) {
        uint32_t code;
        size_t taken = utf8_take(label, left, &code);
        if (count == most && !joins(code, utf8, ret_units, count)) {
            *ret_more = true;
            break;
        }
        count = add_character(code, utf8, ret_units, count, &marks);
        label += taken;
        left -= taken;
    }
    if (count > 0) {
        show_blank(&ret_units[0], utf8);
        if (!*ret_more) {
            show_blank(&ret_units[count - 1], utf8);
        }
    }
    return count;
}

/* Fitting ------------------------------------------------------------------------------------- */

/* How many units fit in `width` columns. */
static int count_fitting(const struct token_unit *units, int count, int width, int *ret_used)
{
    int fitting = 0;
    *ret_used = 0;
    while (fitting < count && *ret_used + units[fitting].width <= width) {
        *ret_used += units[fitting++].width;
    }
    return fitting;
}

int token_fit(const char *label, int width, bool utf8, char ret_text[TOKEN_FIT_BYTES])
{
    struct token_unit units[TOKEN_UNITS_MAX + 1];
    bool more;
    int used, count = token_split(label, utf8, units, TOKEN_UNITS_MAX, &more);
    int fitting = count_fitting(units, count, width, &used);
    bool cut = more || fitting < count;
    if (cut) {
        fitting = count_fitting(units, fitting, width - 1, &used);
    }
    char *to = ret_text;
    bool isolate = false;
    for (int i = 0; i < fitting; i++) {
        isolate = isolate || units[i].right_to_left;
    }
    to = stpcpy(to, isolate ? TOKEN_ISOLATE : "");
    for (int i = 0; i < fitting; i++) {
        to = stpcpy(to, units[i].text);
    }
    to = stpcpy(to, !cut ? "" : utf8 ? ELLIPSIS : "~");
    to = stpcpy(to, isolate ? TOKEN_ISOLATE_END : "");
    if (count == 0 && width >= 2) {
        strcpy(ret_text, "\"\"");
        return 2;
    }
    return used + cut;
}

void token_clean(const char *text, bool utf8, char *ret_text, size_t size)
{
    size_t left = strlen(text), used = 0;
    while (left > 0) {
        struct token_unit unit[1] = {{.text = ""}};
        uint32_t code;
        int marks = 0;
        size_t taken = utf8_take(text, left, &code);
        /* A mark stays where it is. */
        if (utf8 && width_of(code) == 0 && !is_format(code)) {
            unit[0].text[utf8_put(code, unit[0].text)] = '\0';
        } else {
            add_character(code, utf8, unit, 0, &marks);
        }
        size_t length = strlen(unit[0].text);
        if (used + length + 1 > size) {
            break;
        }
        memcpy(ret_text + used, unit[0].text, length);
        used += length;
        text += taken;
        left -= taken;
    }
    ret_text[used] = '\0';
}

int token_text_width(const char *text)
{
    size_t left = strlen(text);
    int columns = 0;
    while (left > 0) {
        uint32_t code;
        size_t taken = utf8_take(text, left, &code);
        int width = width_of(code);
        columns += width > 0 ? width : 0;
        text += taken;
        left -= taken;
    }
    return columns;
}
