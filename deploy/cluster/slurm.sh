#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#SBATCH --job-name=watched
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
# A job of Slurm with a fleet of its own: NATS and a hub on the first machine, a node on each, and a training. All of it
# ends with the job; the hub's history is left where the job was submitted, for attnd on any machine.
#   sbatch deploy/cluster/slurm.sh python3 train.py
# attnd, attnctl and nats-server are in PATH on the machines; ATTND_SOURCE is this repository, in a shared directory.
# Look while it runs, from where ssh leads to the first machine: the log of the job has the commands.
set -euo pipefail

source=${ATTND_SOURCE:?the directory of attnd\'s source}
shared=$SLURM_SUBMIT_DIR/attnd-$SLURM_JOB_ID
# On the disk of each machine: the node's files, and on the first the hub's.
export ATTND_LOCAL=${TMPDIR:-/tmp}/attnd-$SLURM_JOB_ID
here=$ATTND_LOCAL-hub
first=$(hostname)
# Jobs that share a machine have ports of their own.
port=${ATTND_FLEET_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
[ $# -gt 0 ] || set -- python3 "$source/clients/python/examples/train_ranks.py"
export PATH=$PATH:/usr/sbin
for program in attnd attnctl nats-server openssl; do
    if ! command -v "$program" >/dev/null; then
        echo "${0##*/}: there is no $program on $first; put the directory that has it into PATH before sbatch" >&2
        exit 1
    fi
done

umask 077
mkdir -- "$shared" "$here"

# Whether messages wait for the hub, or windows for nodes.
hub_waits() {
    ATTND_ADDRESS=$here/hub attnctl fleet --json | tr -d ' \n' | grep -Eq '"waiting":(\[\{|[1-9])'
}

nodes='' hub='' server=''
finish() {
    # In this order: nodes send what is left, the hub takes it, the server ends last. srun would kill at a signal.
    [ -z "$nodes" ] || "${on_each[@]}" bash -c 'kill -TERM "$(cat -- "$ATTND_LOCAL-$SLURMD_NODENAME/pid")"' || true
    [ -z "$nodes" ] || wait "$nodes" || true
    local deadline=$((SECONDS + 60)) pid
    while [ -n "$nodes" ] && [ "$SECONDS" -lt "$deadline" ] && hub_waits; do sleep 0.5; done
    for pid in $hub $server; do
        kill -TERM "$pid" 2>/dev/null || true
        wait "$pid" || true
    done
    [ ! -e "$here/history.db" ] || cp -- "$here"/history.db* "$shared/"
    rm -rf -- "$here" "$shared/tls"
}
trap finish EXIT
trap 'exit 143' TERM

# until_so SECONDS COMMAND...: waits until the command is successful.
until_so() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            echo "${0##*/}: this does not work: $*; see $shared" >&2
            exit 1
        fi
        sleep 0.5
    done
}

"$source/deploy/cluster/certificates" "$shared/tls" "$first"
sed "s|/etc/attnd/fleet|$shared/tls|; s|/var/lib/nats|$here/nats|; s|0\.0\.0\.0:4222|0.0.0.0:$port|; /^http:/d" \
    "$source/deploy/cluster/nats.conf" >"$here/nats.conf"
nats-server -c "$here/nats.conf" >"$shared/nats.log" 2>&1 &
server=$!

fleet=(--set "fleet.url=tls://$first:$port" --set "fleet.tls_ca=$shared/tls/ca.pem")
ATTND_ADDRESS=$here/hub attnd "${fleet[@]}" --set fleet.role=hub --set fleet.name="hub of $SLURM_JOB_ID" \
    --set "fleet.tls_certificate=$shared/tls/hub.pem" --set "fleet.tls_key=$shared/tls/hub.key" \
    --set "history.path=$here/history.db" --set 'http.endpoint=tcp://127.0.0.1:*' >"$shared/hub.log" 2>&1 &
hub=$!

# One attnd on every machine, in a step that shares its machine with the training's.
on_each=(srun --overlap --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpus-per-task=1 --gpus=0)
"${on_each[@]}" --output="$shared/node-%N.log" bash -c '
    export ATTND_ADDRESS=$ATTND_LOCAL-$SLURMD_NODENAME
    mkdir -m 700 -- "$ATTND_ADDRESS"
    "$@" --set "fleet.name=$SLURMD_NODENAME" --set "history.path=$ATTND_ADDRESS/history.db" &
    echo $! >"$ATTND_ADDRESS/pid"
    wait $!
    rm -rf -- "$ATTND_ADDRESS"' node \
    attnd "${fleet[@]}" --set fleet.role=node --set "fleet.tls_certificate=$shared/tls/node.pem" \
    --set "fleet.tls_key=$shared/tls/node.key" --set http.enabled=false &
nodes=$!
until_so 60 "${on_each[@]}" bash -c 'ATTND_ADDRESS=$ATTND_LOCAL-$SLURMD_NODENAME attnctl ping'
until_so 60 env ATTND_ADDRESS="$here/hub" attnctl ping

echo "the hub is on $first: ATTND_ADDRESS=$here/hub attnctl fleet"
echo "its page: $(sed -n 's|.* event=started .* http=tcp://\([^ ]*\).*|http://\1|p' "$shared/hub.log")"

# The training: each task finds the attnd of its machine. torch.distributed wants to know where rank 0 is.
export MASTER_ADDR=$first MASTER_PORT=${MASTER_PORT:-29500}
status=0
srun --overlap bash -c 'ATTND_ADDRESS=$ATTND_LOCAL-$SLURMD_NODENAME exec "$@"' train "$@" || status=$?

ATTND_ADDRESS=$here/hub attnctl runs || true
exit "$status"
