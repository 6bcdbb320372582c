/* SPDX-License-Identifier: MIT */
/* method: the parameters that a row of method.def lists. Pure; any thread. */
#ifndef PROTO_METHOD_H
#define PROTO_METHOD_H

#include <stdbool.h>
#include <stddef.h>

enum method_parameter { METHOD_REFUSES, METHOD_TAKES, METHOD_NEEDS };

/* How a method with these parameters, "job! run limit", treats the one of this name. */
enum method_parameter method_parameter_find(const char *takes, const char *name, size_t length);

#endif
