/* SPDX-License-Identifier: MIT */
/* main: of every test that needs nothing set up first. */
#include "tests/unit/unit.h"

int main(void)
{
    return unit_run(NULL, NULL);
}
