/* SPDX-License-Identifier: MIT */
/* The README lists the routes that there are. */
#include "tests/unit/unit.h"

#include "daemon/http/route.h"
#include "tests/unit/docs.h"

static void routes_print(FILE *out)
{
    fputs("| path | method | parameters | returns |\n|---|---|---|---|\n", out);
    for (size_t i = 0; i < route_count; i++) {
        const struct route *route = &routes[i];
        const char *comma = "";
        fprintf(out, "| `%s` | %s | ", route->path, route->method ? route->method : "");
        for (int k = 0; k < ARG_COUNT; k++) {
            enum method_parameter use = argument_use(route, k);
            if (use) {
                const char *mark = use == METHOD_NEEDS ? "**" : "";
                fprintf(out, "%s%s%s%s", comma, mark, arguments[k].name, mark);
                comma = ", ";
            }
        }
        fprintf(out, " | %s |\n", route->help);
    }
}

TEST(the_readme_lists_the_routes)
{
    docs_expect_table("daemon/http/README.md", "routes", routes_print);
}
