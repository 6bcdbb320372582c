/* SPDX-License-Identifier: MIT */
/* What every cmocka test includes, in the order that cmocka wants. */
#ifndef TESTS_UNIT_DAEMON_UNIT_H
#define TESTS_UNIT_DAEMON_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
