/* SPDX-License-Identifier: MIT */
/* Limits of either version, of the group and of those above it, in a tree that this test makes. */
#include "tests/unit/unit.h"

#include "daemon/base/cgroup.h"

#include <errno.h>
#include <ftw.h>
#include <sys/stat.h>

static char root[32];

/* Makes the file, and the directories above it. */
static void put(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *slash = strchr(path + strlen(root) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
        *slash = '/';
    }
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *walk)
{
    (void)status, (void)kind, (void)walk;
    return remove(path);
}

static int cgroup_set_up(void **state)
{
    (void)state;
    strcpy(root, "/tmp/attnd-test-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int cgroup_tear_down(void **state)
{
    (void)state;
    return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

#define CGROUP_TEST(name) TEST_WITH(name, cgroup_set_up, cgroup_tear_down)

CGROUP_TEST(the_lowest_limit_above_the_group_counts)
{
    put("proc/self/cgroup", "0::/user.slice/attnd.service\n");
    put("sys/fs/cgroup/user.slice/attnd.service/memory.max", "max\n");
    assert_true(cgroup_memory_limit(root) == UINT64_MAX);
    put("sys/fs/cgroup/user.slice/memory.max", "1073741824\n");
    assert_int_equal(cgroup_memory_limit(root), 1 << 30);
    put("sys/fs/cgroup/user.slice/attnd.service/memory.max", "4096\n");
    assert_int_equal(cgroup_memory_limit(root), 4096);
}

CGROUP_TEST(a_container_sees_its_limit_at_the_root)
{
    put("sys/fs/cgroup/memory.max", "2000000\n");
    put("proc/self/cgroup", "0::/\n");
    assert_int_equal(cgroup_memory_limit(root), 2000000);
    put("proc/self/cgroup", "0::/../kubepods/elsewhere\n");
    assert_int_equal(cgroup_memory_limit(root), 2000000);
}

CGROUP_TEST(version_1_has_a_tree_of_its_own)
{
    put("proc/self/cgroup", "9:cpu:/b\n4:memory:/a\n1:name=systemd:/\n0::/\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "3000000\n");
    put("sys/fs/cgroup/memory/b/memory.limit_in_bytes", "1\n");
    assert_int_equal(cgroup_memory_limit(root), 3000000);
}

CGROUP_TEST(without_groups_there_is_no_limit)
{
    assert_true(cgroup_memory_limit(root) == UINT64_MAX);
    put("proc/self/cgroup", "nonsense\n4:memory\n");
    assert_true(cgroup_memory_limit(root) == UINT64_MAX);
}
