"""Redis: `redis-cli --rdb` to a volume, a copy to another, a replica that starts from it."""
import time

from cluster import PASSWORD, password, shell
from engines import base
from observe import in_phase

BACKLOG = 'redis-cli CONFIG SET repl-backlog-size "$0"'
RDB = 'redis-cli -h "$0" --rdb /hand-backup/dump.rdb && sync -f /hand-backup'
COPY = "cp -a /hand-backup/dump.rdb /hand-replica/ && sync -f /hand-replica"
# The configuration comes through a pipe, since the password stands in it.
REPLICA = """
printf '%s\\n' "requirepass $REDISCLI_AUTH" "masterauth $REDISCLI_AUTH" "replicaof $0 6379" 'dir /hand-replica' 'appendonly no' 'protected-mode no' |
	exec redis-server -
"""
# Something written to the source after the restore has to arrive.
CAUGHT_UP = """
redis-cli -h "$0" SET bench:arrived "$1" >/dev/null
until [ "$(redis-cli GET bench:arrived 2>/dev/null)" = "$1" ]; do sleep 0.05; done
"""
# Values that do not compress.
FILL = """
math.randomseed(tonumber(ARGV[1]))
local parts = {}
for i = 1, 2000 do parts[i] = string.char(math.random(0, 255)) end
local noise = table.concat(parts)
for i = 1, 10000 do
	local begin = math.random(1, 1000)
	redis.call('SET', 'bench:' .. ARGV[1] .. ':' .. i, noise:sub(begin, begin + 999))
end
"""
VALUE, BATCH = 1000, 10_000


class Engine(base.Engine):
    product = "Redis"
    image = "redis:8"
    port = 6379
    mount = "/data"
    ready = ["sh", "-c", "redis-cli ping | grep PONG"]
    parts = [
        ("user and backlog on the source; backup Job made", r"operator: step done: apply Job .*-backup-"),
        ("the backup's volume is provisioned, its pod scheduled", r"pod .*-backup-.* PodScheduled"),
        ("its containers start, the agent begins", r"agent backup: begins redis-cli"),
        ("redis-cli --rdb, manifest; the restore, which waits beside, begins", r"agent restore: copying"),
        ("copy, flush; its end is seen by kubelet", r"pod .*-restore-.*: restore terminated"),
        ("the operator makes the replica", r"operator: step done: apply StatefulSet .*-replica-"),
        ("its pod's init containers", r"pod .*-replica-1-0 Initialized"),
        ("its server loads and replicates", r"CatchingUp: .* has yet to show"),
        ("proof, variables, Ready", None),
    ]
    writer = ('redis-cli -h "$HOST"', "SET bench:mark 1", "OK")
    # One that has lost its connection would go on without an answer.
    reader = ('while read -r line; do redis-cli -e -t 1 -h "$HOST" "$line" || exit; done', "PING", "PONG")

    def arguments(self):
        return ["/etc/bench/redis.conf"]

    def files(self):
        # One save an hour: none falls into a run by chance.
        return {"redis.conf": f"requirepass {PASSWORD}\nprotected-mode no\nsave 3600 1\n"}

    def environment(self):
        return [password("REDISCLI_AUTH")]

    def client_env(self):
        return [password("REDISCLI_AUTH")]

    def prepare(self, pod):
        pass

    def fill(self, pod, megabytes):
        batches = -(-megabytes * 1_000_000 // (VALUE * BATCH))
        shell(pod, 'for n in $(seq "$1"); do redis-cli EVAL "$0" 0 "$n" >/dev/null; done', FILL, str(batches))

    def size(self, pod):
        shell(pod, "redis-cli SAVE")
        keys, stored = shell(pod, "redis-cli DBSIZE; stat -c %s /data/dump.rdb").split()
        return f"{keys} keys, {round(int(stored) / 1e6)} MB in dump.rdb"

    def by_hand(self, of, size, hand):
        shell(f"{of}-0", BACKLOG, "64mb")
        hand.claims_for("hand-backup", "hand-replica")
        hand.start("hand-rdb", ["sh", "-c", RDB, of], ["hand-backup"], self.client_env())
        hand.copied_from_source("hand-rdb", "redis-cli --rdb to a volume, its pod ended")
        hand.start("hand-copy", ["sh", "-c", COPY], ["hand-backup", "hand-replica"])
        hand.ended("hand-copy", "copy to another volume, its pod ended")
        hand.start("hand-replica", ["sh", "-c", REPLICA, of], ["hand-replica"], self.client_env())
        hand.is_now("server's container started", hand.run.until("the replica runs", in_phase("hand-replica", "Running"), 60))
        shell("hand-replica", CAUGHT_UP, of, str(time.time()))
        hand.is_now("has loaded and caught up", time.time())

    def undo(self, of):
        shell(f"{of}-0", BACKLOG, "1mb")
