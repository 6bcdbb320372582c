/* SPDX-License-Identifier: MIT */
/* rules_internal: the rules of one file over the defaults, and how one is read, key by key. Private
 * to config/. Pure; any thread; a list that is being built belongs to one. */
#ifndef CONFIG_RULES_INTERNAL_H
#define CONFIG_RULES_INTERNAL_H

#include "config/rules.h"
#include "config/table.h"

enum rule_key {
#define RULE_KEY(symbol, name, text, valid, help) RULE_KEY_##symbol,
#include "config/rules.def"
#undef RULE_KEY
    RULE_KEY_COUNT
};

/* The key of a condition: the table has them in a row. */
static inline enum rule_key rule_condition_key(int condition)
{
    return (enum rule_key)(RULE_KEY_BELOW + condition);
}

static inline bool rule_key_is_condition(enum rule_key key)
{
    return key >= RULE_KEY_BELOW && key < rule_condition_key(RULE_CONDITION_COUNT);
}

/* Where the value of a key is in a rule: a list of words ends with NULL, a count has a maximum. */
struct rule_field {
    enum {
        RULE_FIELD_METRIC,
        RULE_FIELD_WORD,
        RULE_FIELD_BOOL,
        RULE_FIELD_PATTERN,
        RULE_FIELD_COUNT,
        RULE_FIELD_NUMBER
    } kind;
    size_t offset;
    const char *const *words;
    uint32_t maximum;
};
extern const struct rule_field rule_fields[RULE_KEY_COUNT];

struct rule_key_info {
    const char *name, *text, *valid, *help; /* text: without being given */
};

extern const struct rule_key_info rule_keys[RULE_KEY_COUNT];

enum {
#define RULE(name, ...) RULE_DEFAULT_##name,
#include "config/rules.def"
#undef RULE
    RULE_DEFAULT_COUNT
};

extern const struct rule rule_defaults[RULE_DEFAULT_COUNT];
extern const struct rule_text {
    const char *help;
    const char *says, *why, *advice; /* as of rule_says */
    const char *needs;               /* NULL: all runs have it */
} rule_default_texts[RULE_DEFAULT_COUNT];
/* A rule of which nothing is given but the name. */
extern const struct rule rule_blank;

extern const char *const rule_statistic_names[RULE_STATISTIC_COUNT + 1];
extern const char *const rule_each_names[RULE_EACH_COUNT + 1];

struct rule_metric_info {
    const char *name;
    enum rule_each finest;   /* what it has a value of */
    double minimum, maximum; /* it can be */
    bool per_key;            /* may be divided by the number of keys */
};

struct rule_metric_info rule_metric_info(uint32_t metric);
/* RULE_METRIC_COUNT when there is none of this name. */
uint32_t rule_metric_find(const char *name);

#define RULE_TEXT_MAX (RULE_PATTERN_MAX + 1)
/* The value of a rule's key, as text that reads back. False when it says nothing about this rule:
 * another condition's, `within` of a bound. */
bool rule_key_text(const struct rule *rule, enum rule_key key, char ret_text[RULE_TEXT_MAX]);

/* The name and text of the next key that makes up the rule, from *key on, which moves on, in
 * the order of the tables; NULL behind the last, `enabled`. Keys that are as they are without being
 * given are left out. */
const char *rule_next_key(const struct rule *rule, int *key, char ret_text[RULE_TEXT_MAX]);

/* The rules of one file. */
struct config_rules {
    uint32_t count;
    struct rule rules[RULES_MAX];
    size_t line[RULES_MAX]; /* of the file; 0 = a default that is not in it */
};

/* The defaults. NULL when out of memory. */
struct config_rules *rules_new(void);

/* One rule that is being read. */
struct rule_draft {
    struct rule rule;
    char label[sizeof("rules.") + RULE_NAME_MAX]; /* what messages call it */
    struct origin origin;
    size_t key_line[RULE_KEY_COUNT]; /* 0 = not given */
    uint32_t index;                  /* in the list */
};

/* Each returns 0, or -1 with a message. A rule is in the list after rules_end. */
int rules_begin(const struct config_rules *rules, const char *name, struct origin origin,
                char *reterr, struct rule_draft *ret_draft);
int rules_find_key(const struct rule_draft *draft, const char *name, struct origin origin,
                   char *reterr, enum rule_key *ret_key);
int rules_put(struct rule_draft *draft, enum rule_key key, const char *text, struct origin origin,
              char *reterr);
int rules_end(struct config_rules *rules, struct rule_draft *draft, char *reterr);

#endif
