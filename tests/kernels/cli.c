/* SPDX-License-Identifier: MIT */
#include "tests/kernels/cli.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Noreturn void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, what);
    exit(2);
}

void *must_have(void *memory)
{
    if (!memory) {
        die("out of memory");
    }
    return memory;
}

void parse_list(const char *text, struct list *ret)
{
    for (ret->count = 0; *text != '\0' && ret->count < LIST_MAX; ret->count++) {
        char *end;
        ret->value[ret->count] = (int32_t)strtol(text, &end, 10);
        text = *end == ',' ? end + 1 : end;
    }
}

enum dtype parse_dtype(const char *text)
{
    enum dtype dtype = DTYPE_F32;
    if (dtype_parse(text, strlen(text), &dtype) != 0) {
        die("unknown dtype");
    }
    return dtype;
}

unsigned char *read_file(const char *path, size_t bytes, size_t offset)
{
    unsigned char *memory = must_have(malloc(offset + bytes));
    FILE *file = fopen(path, "rb");
    if (!file) {
        die("no such file");
    }
    if (fread(memory + offset, 1, bytes, file) != bytes || fgetc(file) != EOF) {
        die("file size differs from the shape");
    }
    fclose(file);
    return memory;
}

void print_number(double x)
{
    if (isnan(x)) {
        printf("NaN");
    } else if (isinf(x)) {
        printf(x > 0 ? "Infinity" : "-Infinity");
    } else if (x == 0) {
        printf(signbit(x) ? "-0.0" : "0.0"); /* JSON's -0 is an integer, and loses its sign */
    } else {
        printf("%.17g", x);
    }
}

void print_array(const double *x, size_t n)
{
    printf("[");
    for (size_t i = 0; i < n; i++) {
        printf(i > 0 ? "," : "");
        print_number(x[i]);
    }
    printf("]");
}

void print_isas(void)
{
    for (int i = 0; i < ISA_COUNT; i++) {
        if (isa_available((enum isa)i)) {
            puts(isa_name[i]);
        }
    }
}

enum isa parse_isa(const char *text)
{
    enum isa isa;
    if (strcmp(text, "list") == 0) {
        print_isas();
        exit(0);
    }
    if (isa_parse(text, strlen(text), &isa) != 0) {
        die("no such instruction set here");
    }
    return isa;
}

bool parse_setting(const struct setting *settings, size_t count, const char *key, const char *value)
{
    uint32_t number = (uint32_t)strtoul(value, NULL, 10);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(key, settings[i].key) != 0) {
            continue;
        }
        if (settings[i].flag) {
            *settings[i].flag = number != 0;
        } else {
            *settings[i].number = number;
        }
        return true;
    }
    return false;
}
