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

TEST(who_waits_and_is_asked_turns)
{
    struct thread first = {.answers = true}, second = {.answers = true};
    struct pulse_round round = round_of(&first, &second);
    for (int i = 1; i <= 3; i++) {
        pulse_ask(&round);
        assert_null(pulse_missing(&round));
        assert_int_equal(first.asked, i);
        assert_int_equal(second.asked, i);
    }
}

TEST(who_does_not_turn_is_named_until_it_does)
{
    struct thread first = {.answers = true}, second = {.answers = false};
    struct pulse_round round = round_of(&first, &second);
    pulse_ask(&round);
    assert_string_equal(pulse_missing(&round), "second");
    assert_string_equal(pulse_missing(&round), "second");
    pulse_beat(&second.pulse);
    assert_null(pulse_missing(&round));
}

TEST(turns_before_the_question_do_not_count)
{
    struct thread first = {.answers = true}, second = {.answers = false};
    pulse_beat(&second.pulse);
    struct pulse_round round = round_of(&first, &second);
    pulse_beat(&second.pulse);
    pulse_ask(&round);
    assert_string_equal(pulse_missing(&round), "second");
}

TEST(nobody_looked_after_is_nobody_missing)
{
    struct pulse_round round = {.count = 0};
    pulse_ask(&round);
    assert_null(pulse_missing(&round));
}
