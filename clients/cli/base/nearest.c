/* SPDX-License-Identifier: MIT */
#include "clients/cli/base/nearest.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { LENGTH_MAX = NEAREST_FAR - 1 };

static int min(int a, int b)
{
    return a < b ? a : b;
}

/* Three rows of the table of distances between prefixes: a swap looks two rows back. */
int nearest_distance(const char *a, const char *b)
{
    int rows[3][LENGTH_MAX + 1];
    int length_a = (int)strnlen(a, NEAREST_FAR), length_b = (int)strnlen(b, NEAREST_FAR);
    if (length_a > LENGTH_MAX || length_b > LENGTH_MAX) {
        return NEAREST_FAR;
    }
    for (int j = 0; j <= length_b; j++) {
        rows[0][j] = j;
    }
    for (int i = 1; i <= length_a; i++) {
        int *row = rows[i % 3], *before = rows[(i + 2) % 3], *swap = rows[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= length_b; j++) {
            row[j] = min(min(before[j], row[j - 1]) + 1, before[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                row[j] = min(row[j], swap[j - 2] + 1);
            }
        }
    }
    return rows[length_a % 3][length_b];
}

void nearest_init(struct nearest *nearest, const char *text)
{
    *nearest = (struct nearest){.distance = NEAREST_FAR};
    snprintf(nearest->text, sizeof nearest->text, "%s", text);
}

void nearest_init_option(struct nearest *nearest, const char *option)
{
    nearest_init(nearest, option + strspn(option, "-"));
    nearest->text[strcspn(nearest->text, "=")] = '\0';
}

/* "cmap" of "colormap": how it begins, and at least three letters of how it ends. */
static bool is_abbreviation(const char *text, const char *word)
{
    size_t length = strlen(text), whole = strlen(word), begin = 0, end = 0;
    while (begin < length && begin < whole && text[begin] == word[begin]) {
        begin++;
    }
    while (end < length && end < whole && text[length - 1 - end] == word[whole - 1 - end]) {
        end++;
    }
    return whole > length && begin > 0 && end >= 3 && begin + end >= length;
}

/* A beginning is nearer than any slip. Else a fifth of the letters may be wrong, and one always:
 * what is farther is another word, unless it is abbreviated. */
void nearest_try(struct nearest *nearest, const char *word)
{
    size_t length = strlen(nearest->text);
    int distance = nearest_distance(nearest->text, word);
    int most = min(1 + min((int)length, LENGTH_MAX) / 5, (int)strlen(word) - 1);
    if (length > 1 && strncmp(word, nearest->text, length) == 0) {
        distance = 0;
    } else if (distance > most) {
        distance = is_abbreviation(nearest->text, word) ? NEAREST_FAR - 1 : NEAREST_FAR;
    }
    if (distance >= nearest->distance) {
        return;
    }
    nearest->best = word;
    nearest->distance = distance;
}
