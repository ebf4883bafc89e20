"""PostgreSQL: pg_basebackup to a volume, a copy to another, a standby."""
import time

from cluster import kubectl, password, shell, wait_for
from engines import base
from observe import in_phase

HBA = "host replication all all scram-sha-256 # by hand"
# Something written to the source after the restore has to arrive.
CAUGHT_UP = """
lsn=$(psql -U postgres -XAtqc "SELECT pg_current_wal_lsn() FROM (SELECT pg_logical_emit_message(false, 'bench', 'mark')) AS mark")
export PGPASSWORD=$POSTGRES_PASSWORD
until [ "$(psql -h "$0" -U postgres -XAtqc "SELECT pg_last_wal_replay_lsn() >= '$lsn' FROM pg_stat_wal_receiver WHERE status = 'streaming'" 2>/dev/null)" = t ]
do sleep 0.05; done
"""
# Rows of pgbench take so much for each unit of its scale.
MEGABYTES_OF_SCALE = 14.6


def sql(pod, statement):
    return kubectl("exec", pod, "--", "psql", "-U", "postgres", "-XAtqc", statement).strip()


class Engine(base.Engine):
    product = "PostgreSQL"
    image = "postgres:17"
    port = 5432
    mount = "/var/lib/postgresql/data"
    ready = ["pg_isready", "-h", "127.0.0.1", "-U", "postgres"]
    usual = ["empty", "large", "memory"]
    goals = base.Engine.goals | {"large": "15 s, at most 20 s", "requests": "at most 60", "ratio": ""}
    parts = [
        ("role, rule, limit and slot on the source; backup Job made", r"operator: step done: apply Job .*-backup-"),
        ("the backup's volume is provisioned, its pod scheduled", r"pod .*-backup-.* PodScheduled"),
        ("its containers start, the agent logs in", r"agent backup: begins pg_basebackup"),
        ("pg_basebackup", r"agent backup: begins pg_verifybackup"),
        ("pg_verifybackup, manifest; the restore, which waits beside, begins", r"agent restore: copying"),
        ("copy, flush; its end is seen by kubelet", r"pod .*-restore-.*: restore terminated"),
        ("the operator makes the replica", r"operator: step done: apply StatefulSet .*-replica-"),
        ("its pod's init containers", r"pod .*-replica-1-0 Initialized"),
        ("its server starts and streams", r"CatchingUp: .* has yet to show"),
        ("proof, variables, Ready", None),
    ]
    writer = ('psql -h "$HOST" -U postgres -XAt', "INSERT INTO bench_marks DEFAULT VALUES;", "INSERT*")
    reader = ('PGCONNECT_TIMEOUT=2 psql -h "$HOST" -U postgres -XAt', "SELECT 1;", "1")

    def environment(self):
        return [password("POSTGRES_PASSWORD"), {"name": "PGDATA", "value": "/var/lib/postgresql/data/pgdata"}]

    def client_env(self):
        return [password("PGPASSWORD")]

    def prepare(self, pod):
        sql(pod, "CREATE TABLE bench_marks (id bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp())")

    def fill(self, pod, megabytes):
        self.scale = max(1, round(megabytes / MEGABYTES_OF_SCALE))
        kubectl("exec", pod, "--", "pgbench", "-U", "postgres", "-i", "-q", "-s", str(self.scale), "postgres")

    def size(self, pod):
        sql(pod, "CHECKPOINT")
        return f"pgbench scale {self.scale} ({sql(pod, 'SELECT pg_size_pretty(sum(pg_database_size(oid))) FROM pg_database')})"

    def by_hand(self, of, size, hand):
        shell(f"{of}-0", f"echo '{HBA}' >>$PGDATA/pg_hba.conf; psql -U postgres -qc 'SELECT pg_reload_conf()' >/dev/null")
        basebackup = ["pg_basebackup", "-h", of, "-U", "postgres", "-D", "/hand-backup/data", "-X", "stream", "-c", "fast", "-R", "-C", "-S", "hand",
                      "--manifest-checksums=SHA256"]
        hand.claims_for("hand-backup", "hand-replica")
        hand.start("hand-basebackup", basebackup, ["hand-backup"], self.client_env())
        hand.copied_from_source("hand-basebackup", "pg_basebackup to a volume, its pod ended")
        hand.start("hand-copy", ["sh", "-c", "cp -a /hand-backup/data /hand-replica/data && sync -f /hand-replica/data"], ["hand-backup", "hand-replica"])
        hand.ended("hand-copy", "copy to another volume, its pod ended")
        hand.start("hand-replica", ["postgres", "-D", "/hand-replica/data"], ["hand-replica"])
        hand.is_now("server's container started", hand.run.until("the replica runs", in_phase("hand-replica", "Running"), 60))
        kubectl("exec", f"{of}-0", "--", "timeout", "60", "sh", "-c", CAUGHT_UP, hand.run.address("hand-replica"))
        hand.is_now("streams and has caught up", time.time())

    def undo(self, of):
        wait_for("the slot can be dropped", lambda: sql(f"{of}-0", "SELECT count(*) FROM pg_replication_slots WHERE active") == "0")
        sql(f"{of}-0", "SELECT pg_drop_replication_slot('hand')")
        shell(f"{of}-0", "sed -i '/# by hand$/d' $PGDATA/pg_hba.conf; psql -U postgres -qc 'SELECT pg_reload_conf()' >/dev/null")
