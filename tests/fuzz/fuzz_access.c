/* SPDX-License-Identifier: MIT */
/* Any bytes as an access list: an error is a sentence that names the file; what was read is judged
 * without a way around the order of the roles. */
#include "tests/fuzz/fuzz.h"

#include "config/access.h"
#include "config/config.h"

#include <string.h>

static const char known[] = "QCqOhHeiYrA@(c>zYKtZxY8L9IFv3D@Z[2lh#2p5";

static void judge(const struct access *access, const char *key)
{
    static const char *const jobs[] = {NULL, "gpt-small", "a"};
    for (int i = 0; i < 3; i++) {
        bool may[ACCESS_ROLES];
        for (int role = 0; role < ACCESS_ROLES; role++) {
            may[role] = access_allows(access, key, (enum access_role)role, jobs[i]);
            REQUIRE(!may[role] || access_allows_some(access, key, (enum access_role)role));
            REQUIRE(!may[role] || access_knows(access, key));
        }
        REQUIRE(!may[ACCESS_PLAN] || may[ACCESS_READ]);
        REQUIRE(!may[ACCESS_ADMIN] || (may[ACCESS_PLAN] && may[ACCESS_PUBLISH]));
    }
}

/* The same bytes as a list of visitors. */
static void read_visitors(const char *data, size_t len)
{
    char error[CONFIG_ERROR_MAX] = "", jobs[ACCESS_JOBS_MAX];
    struct access *access = NULL;
    if (access_parse(data, len, "list", ACCESS_VISITORS, &access, error) != 0) {
        REQUIRE(!access && strncmp(error, "list:", 5) == 0 && !strchr(error, '\n'));
        return;
    }
    bool found = access_read_jobs(access, "0123456789abcdef", false, jobs);
    REQUIRE(found == (*jobs != '\0'));
    found = access_read_jobs(access, "user:ann", true, jobs);
    REQUIRE(found == (*jobs != '\0') && !(access_count(access) == 0 && found));
    REQUIRE(!access_read_jobs(access, "user:ann", false, jobs));
    access_free(&access);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    char error[CONFIG_ERROR_MAX] = "";
    struct access *access = NULL;
    read_visitors((const char *)data, len);
    if (access_parse((const char *)data, len, "list", ACCESS_KEYS, &access, error) != 0) {
        REQUIRE(!access && strncmp(error, "list:", 5) == 0 && !strchr(error, '\n'));
        return 0;
    }
    REQUIRE(access_count(access) <= ACCESS_LINES_MAX && access_covers(access, access));
    judge(access, known);
    if (len >= KEY_LENGTH) {
        judge(access, (const char *)data);
    }
    access_free(&access);
    return 0;
}
