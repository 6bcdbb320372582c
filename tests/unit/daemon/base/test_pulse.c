/* SPDX-License-Identifier: MIT */
#include "tests/unit/unit.h"

#include "daemon/base/pulse.h"

struct thread {
    struct pulse pulse;
    int asked;
    bool answers;
};

static void test_pulse_ask(void *data)
{
    struct thread *thread = data;
    thread->asked++;
    if (thread->answers) {
        pulse_beat(&thread->pulse);
    }
}

static struct pulse_round round_of(struct thread *first, struct thread *second)
{
    struct pulse_round round = {.count = 0};
    pulse_add(&round, &(struct pulse_subject){"first", &first->pulse, test_pulse_ask, first});
    pulse_add(&round, &(struct pulse_subject){"second", &second->pulse, test_pulse_ask, second});
    return round;
}

static void test_who_waits_and_is_asked_turns(void **state)
{
    struct thread first = {.answers = true}, second = {.answers = true};
    struct pulse_round round = round_of(&first, &second);
    (void)state;
    for (int i = 1; i <= 3; i++) {
        pulse_ask(&round);
        assert_null(pulse_missing(&round));
        assert_int_equal(first.asked, i);
        assert_int_equal(second.asked, i);
    }
}

static void test_who_does_not_turn_is_named_until_it_does(void **state)
{
    struct thread first = {.answers = true}, second = {.answers = false};
    struct pulse_round round = round_of(&first, &second);
    (void)state;
    pulse_ask(&round);
    assert_string_equal(pulse_missing(&round), "second");
    assert_string_equal(pulse_missing(&round), "second");
    pulse_beat(&second.pulse);
    assert_null(pulse_missing(&round));
}

static void test_turns_before_the_question_do_not_count(void **state)
{
    struct thread first = {.answers = true}, second = {.answers = false};
    (void)state;
    pulse_beat(&second.pulse);
    struct pulse_round round = round_of(&first, &second);
    pulse_beat(&second.pulse);
    pulse_ask(&round);
    assert_string_equal(pulse_missing(&round), "second");
}

static void test_nobody_looked_after_is_nobody_missing(void **state)
{
    struct pulse_round round = {.count = 0};
    (void)state;
    pulse_ask(&round);
    assert_null(pulse_missing(&round));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_waits_and_is_asked_turns),
        cmocka_unit_test(test_who_does_not_turn_is_named_until_it_does),
        cmocka_unit_test(test_turns_before_the_question_do_not_count),
        cmocka_unit_test(test_nobody_looked_after_is_nobody_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
