/* SPDX-License-Identifier: MIT */
#include "tests/unit/daemon/manager.h"

#include "daemon/service_notify.h"

#include <errno.h>

static void hears_what_is_said(const char *kind)
{
    OWNED(manager_close) struct manager manager;
    OWNED(service_notify_close) struct service_notify notify;
    manager_open(&manager, kind);
    assert_int_equal(service_notify_open(&notify, manager.name), 0);
    assert_true(service_notify_insist(&notify, "READY=1"));
    assert_true(service_notify_say(&notify, "STATUS=two words\nWATCHDOG=1"));
    assert_string_equal(manager_hear(&manager), "READY=1");
    assert_string_equal(manager_hear(&manager), "STATUS=two words\nWATCHDOG=1");
    assert_null(manager_hear(&manager));
}

TEST(a_path)
{
    hears_what_is_said("/tmp/attnd-test-notify");
}

TEST(an_abstract_name)
{
    hears_what_is_said("@attnd-test-notify");
}

TEST(nobody_to_tell_is_no_error)
{
    OWNED(service_notify_close) struct service_notify notify;
    assert_int_equal(service_notify_open(&notify, NULL), 0);
    assert_int_equal(notify.fd, -1);
    assert_int_equal(service_notify_open(&notify, ""), 0);
    assert_false(service_notify_say(&notify, "READY=1"));
    assert_false(service_notify_insist(&notify, "READY=1"));
}

TEST(names_that_are_none)
{
    struct service_notify notify;
    char path[200];
    assert_int_equal(service_notify_open(&notify, "vsock:2:1234"), EAFNOSUPPORT);
    assert_int_equal(service_notify_open(&notify, "run/notify"), EAFNOSUPPORT);
    assert_int_equal(service_notify_open(&notify, "@"), EINVAL);
    assert_int_equal(service_notify_open(&notify, "/"), EINVAL);
    memset(path, 'a', sizeof path - 1);
    path[0] = '/';
    path[sizeof path - 1] = '\0';
    assert_int_equal(service_notify_open(&notify, path), EINVAL);
    assert_int_equal(notify.fd, -1);
}

/* A path of as many bytes as there is room for leaves none for the zero at its end. */
TEST(the_longest_path)
{
    OWNED(service_notify_close) struct service_notify notify;
    char path[sizeof notify.address.sun_path + 1];
    memset(path, 'a', sizeof path);
    path[0] = '/';
    path[sizeof notify.address.sun_path] = '\0';
    assert_int_equal(service_notify_open(&notify, path), EINVAL);
    path[sizeof notify.address.sun_path - 1] = '\0';
    assert_int_equal(service_notify_open(&notify, path), 0);
}

TEST(a_manager_that_is_gone)
{
    struct manager manager;
    OWNED(service_notify_close) struct service_notify notify;
    manager_open(&manager, "@attnd-test-gone");
    assert_int_equal(service_notify_open(&notify, manager.name), 0);
    manager_close(&manager);
    assert_false(service_notify_say(&notify, "WATCHDOG=1"));
    assert_false(service_notify_insist(&notify, "READY=1"));
}

TEST(a_full_queue_keeps_nobody)
{
    OWNED(manager_close) struct manager manager;
    OWNED(service_notify_close) struct service_notify notify;
    int said = 0;
    manager_open(&manager, "@attnd-test-full");
    assert_int_equal(service_notify_open(&notify, manager.name), 0);
    while (said < 1000000 && service_notify_say(&notify, "WATCHDOG=1")) {
        said++;
    }
    assert_in_range(said, 1, 999999);
    assert_false(service_notify_insist(&notify, "READY=1")); /* in a second */
    assert_string_equal(manager_hear(&manager), "WATCHDOG=1");
    assert_true(service_notify_insist(&notify, "READY=1"));
}
