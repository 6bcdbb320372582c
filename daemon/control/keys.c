/* SPDX-License-Identifier: MIT */
/* keys: the list of keys in force, for whoever looks after it. */
#include "daemon/control/internal.h"

static void control_keys_put(void *data, const struct access_line *line,
                             const bool connected[KEYS_OWN_COUNT], uint64_t refused)
{
    static const char *const address[KEYS_OWN_COUNT] = {"first", "next"};
    struct mpk_writer *result = data;
    mpk_put_map(result, 7);
    mpk_pair_str(result, "name", line->comment);
    mpk_pair_str(result, "public_key", line->who);
    mpk_pair_str(result, "role", access_role_name[line->role]);
    mpk_pair_str(result, "jobs", line->pattern);
    mpk_pair_bool(result, "connected", connected[KEYS_SERVER] || connected[KEYS_NEXT]);
    mpk_pair_array(result, "connected_at",
                   (uint32_t)(connected[KEYS_SERVER] + connected[KEYS_NEXT]));
    for (int own = 0; own < KEYS_OWN_COUNT; own++) {
        if (connected[own]) {
            mpk_put_str(result, address[own]);
        }
    }
    mpk_pair_u64(result, "refused", refused);
}

int method_keys(struct control_request *request)
{
    struct keyring *keys = request->view->keys;
    if (!request_takes(request, NULL, 0)) {
        return ERR_ARGUMENT;
    }
    if (!keys || !config_uses_tcp(request->view->config)) {
        snprintf(request->detail, CONTROL_DETAIL_MAX, "this attnd asks for no keys: %s",
                 keys ? "none of its sockets is on TCP"
                      : "keys.server and keys.access are not set");
        return ERR_ARGUMENT;
    }
    mpk_put_array(request->result, keys_count(keys));
    keys_each(keys, control_keys_put, request->result);
    return 0;
}
