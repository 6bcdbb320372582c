/* SPDX-License-Identifier: MIT */
/* keys: the list of keys in force, for whoever looks after it. */
#include "daemon/control/internal.h"

static void control_keys_put(void *data, const struct access_line *line, bool connected,
                             uint64_t refused)
{
    struct mpk_writer *result = data;
    mpk_put_map(result, 6);
    mpk_pair_str(result, "name", line->comment);
    mpk_pair_str(result, "public_key", line->who);
    mpk_pair_str(result, "role", access_role_name[line->role]);
    mpk_pair_str(result, "jobs", line->pattern);
    mpk_pair_bool(result, "connected", connected);
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
