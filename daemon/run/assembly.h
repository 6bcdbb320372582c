/* SPDX-License-Identifier: MIT */
/* assembly: the parts of a layer's projection matrices, which ranks that share them out (FSDP) send
 * one by one, until all entries are there.
 *
 * A layer assembles the matrices of one epoch and step at a time, of which no more than
 * limits.ranks parts wait. Parts that do not become whole are given up as `incomplete`: when a part
 * of a later epoch or step comes, when ASSEMBLY_PATIENCE_NS have passed since the first, and when
 * the run ends. Loop thread only. */
#ifndef DAEMON_RUN_ASSEMBLY_H
#define DAEMON_RUN_ASSEMBLY_H

#include "daemon/run/run.h"

#define ASSEMBLY_PATIENCE_NS UINT64_C(60000000000)

/* Takes a part in its turn, with its place in the sequence known. On 0 it either waits
 * (STAGE_PART), and is the stream's, or is the last: then it stands for all of them
 * (message_join). Returns 0, ERR_INCOMPLETE when its step was given up before, ERR_SHAPE when it
 * does not go with the others, ERR_RANK_LIMIT when too many wait, or ERR_MEMORY. */
int assembly_put(struct run *run, struct stream *stream, struct message *message);

/* Gives up the parts of all layers that have waited too long at `now_ns`, UINT64_MAX: all of them:
 * they are counted, and assembly_take_lost returns them. */
void assembly_give_up(struct run *run, uint64_t now_ns);
/* One that was given up: the caller's, to be accounted for by its `code`. NULL when there is
 * none. */
struct message *assembly_take_lost(struct run *run);

#endif
