/* SPDX-License-Identifier: MIT */
#include "proto/method.h"

#include <string.h>

enum method_parameter method_parameter_find(const char *takes, const char *name, size_t length)
{
    for (size_t word; (word = strcspn(takes, " !")) > 0; takes += strspn(takes, " !")) {
        if (word == length && memcmp(takes, name, length) == 0) {
            return takes[word] == '!' ? METHOD_NEEDS : METHOD_TAKES;
        }
        takes += word;
    }
    return METHOD_REFUSES;
}
