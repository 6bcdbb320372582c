/* SPDX-License-Identifier: MIT */
/* address: one text that names an attnd and its five sockets, and the places to look at without
 * one.
 *
 * An address is a directory (/run/user/1000/attnd), in which the Unix sockets `ingest`, `publish`,
 * `control`, `tap` and `reliable` lie, or tcp://host:port, from which the other ports follow:
 * publish is port + 1, control + 2, tap + 3, reliable + 4.
 *
 * With key.h the only part of proto/ that looks at the file system or the environment:
 * address_is_trusted, address_search, address_find.
 * Any thread; no state. */
#ifndef PROTO_ADDRESS_H
#define PROTO_ADDRESS_H

#include <stdint.h>
#include <sys/types.h>

enum address_socket {
    ADDRESS_INGEST,
    ADDRESS_PUBLISH,
    ADDRESS_CONTROL,
    ADDRESS_TAP,
    ADDRESS_RELIABLE,
    ADDRESS_COUNT
};
/* "ingest", "publish", "control", "tap", "reliable": file names, and sections of the config. */
extern const char *const address_socket_name[ADDRESS_COUNT];

/* Bytes of an address and of an endpoint, with the NUL. */
#define ADDRESS_MAX 256
/* Bytes of the sentence in reterr, with the NUL. */
#define ADDRESS_REASON_MAX 1024

/* Writes the ZeroMQ endpoint of one socket: "ipc:///run/attnd/ingest", "tcp://host:5572". Returns
 * 0, or -1 with a sentence that says what to write instead. */
int address_endpoint(const char *address, enum address_socket which, char ret_endpoint[ADDRESS_MAX],
                     char reterr[ADDRESS_REASON_MAX]);

/* Directories in which an attnd of this user, or the service, may listen; the first is where the
 * user's own daemon binds. */
#define ADDRESS_PLACES_MAX 4
struct address_places {
    int count;
    char directory[ADDRESS_PLACES_MAX][ADDRESS_MAX];
};
/* In this order: $XDG_RUNTIME_DIR/attnd (when `runtime_dir` is an absolute path),
 * /run/user/UID/attnd (cron, sbatch and `docker exec` lack the variable), /tmp/attnd-UID,
 * /run/attnd (the service). */
void address_places(uid_t uid, const char *runtime_dir, struct address_places *ret_places);
/* The directory that the daemon of this user makes when nobody names another: the first place if
 * the variable is set, else /tmp/attnd-UID. */
void address_default(uid_t uid, const char *runtime_dir, char ret_directory[ADDRESS_MAX]);

/* Whether sockets in this directory may be believed to be attnd's: it is a directory and no link,
 * `uid` or root owns it, and nobody else can write to it. /run/attnd may have any owner: only root
 * can have made it. Returns 0, -ENOENT, or -1 with a sentence. */
int address_is_trusted(const char *directory, uid_t uid, char reterr[ADDRESS_REASON_MAX]);

/* Returns 0 when somebody accepts connections on this path of a Unix socket, else the reason as an
 * errno. Does not block. */
int address_knock(const char *path);

/* Writes the endpoint of the socket in the first place that is trusted and where it accepts a
 * connection; `runtime_dir` as in address_places. Does not block. Returns 0, or -1 with a sentence
 * that names the places that were tried. */
int address_search(const char *runtime_dir, enum address_socket which,
                   char ret_endpoint[ADDRESS_MAX], char reterr[ADDRESS_REASON_MAX]);

/* Writes the endpoint of an attnd's socket. With an `address`, or else $ATTND_ADDRESS, that one's,
 * whether or not anybody is there: the user named it, so it is trusted. With neither (NULL or "")
 * it searches, with $XDG_RUNTIME_DIR. Returns 0, or -1 with a sentence. */
int address_find(const char *address, enum address_socket which, char ret_endpoint[ADDRESS_MAX],
                 char reterr[ADDRESS_REASON_MAX]);

#endif
