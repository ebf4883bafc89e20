"""MySQL: CLONE to a directory on a volume, a copy to another, a replica; and beside it mysqldump and its load into a new server."""
import time

from cluster import password, shell, wait_for
from engines import base
from observe import is_pod_ready

CLIENT = 'MYSQL_PWD=$MYSQL_ROOT_PASSWORD exec mysql -uroot -N "$@"'
# The statement comes through a pipe, since the password stands in it.
PREPARE = """
MYSQL_PWD=$MYSQL_ROOT_PASSWORD mysql -uroot <<END
INSTALL PLUGIN clone SONAME 'mysql_clone.so';
CREATE USER hand IDENTIFIED BY '$MYSQL_ROOT_PASSWORD';
GRANT BACKUP_ADMIN, REPLICATION SLAVE ON *.* TO hand;
END
"""
CLONE = """
set -e
mysqld --no-defaults --initialize-insecure --datadir=/tmp/clone
mysqld --no-defaults --datadir=/tmp/clone --socket=/tmp/clone.sock --pid-file=/tmp/clone.pid --skip-networking --mysqlx=OFF --skip-log-bin \\
	--plugin-load-add=mysql_clone.so &
until mysqladmin -uroot -S /tmp/clone.sock ping >/dev/null 2>&1; do sleep 0.1; done
mysql -uroot -S /tmp/clone.sock <<END
SET GLOBAL clone_valid_donor_list = '$0:3306';
CLONE INSTANCE FROM hand@'$0':3306 IDENTIFIED BY '$HAND_PASSWORD' DATA DIRECTORY = '/hand-backup/data';
SHUTDOWN;
END
wait
"""
FOLLOW = """
MYSQL_PWD=$MYSQL_ROOT_PASSWORD mysql -uroot -h127.0.0.1 <<END
CHANGE REPLICATION SOURCE TO SOURCE_HOST = '$0', SOURCE_USER = 'hand', SOURCE_PASSWORD = '$MYSQL_ROOT_PASSWORD', SOURCE_AUTO_POSITION = 1, SOURCE_SSL = 1;
START REPLICA;
END
"""
# Something written to the source after the restore has to arrive.
MARK = "INSERT INTO bench.marks VALUES (); SELECT @@GLOBAL.gtid_executed"
DUMP = """
mysqldump -h "$0" -uroot --all-databases --single-transaction --source-data=2 --set-gtid-purged=ON --routines --events --triggers \\
	--result-file=/hand-backup/dump.sql && sync -f /hand-backup
"""
LOAD = 'mysql -h "$0" -uroot </hand-backup/dump.sql && mysql -h "$0" -uroot -e "FLUSH LOCAL PRIVILEGES"'
REPLICA = ["--server-id=2", "--super-read-only=ON", "--skip-replica-start", "--relay-log=relay"]
ROW = 500


def sql(pod, statement):
    return shell(pod, CLIENT, "mysql", "-e", statement)


class Engine(base.Engine):
    product = "MySQL"
    image = "mysql:9.7"
    port = 3306
    mount = "/var/lib/mysql"
    # Over TCP: while the image initialises its data, a server answers on the socket only.
    ready = ["sh", "-c", 'MYSQL_PWD=$MYSQL_ROOT_PASSWORD mysqladmin -uroot -h127.0.0.1 ping']
    goals = base.Engine.goals | {"other": "at least 3"}
    parts = [
        ("settings, plugin and users on the source; backup Job made", r"operator: step done: apply Job .*-backup-"),
        ("the backup's volume is provisioned, its pod scheduled", r"pod .*-backup-.* PodScheduled"),
        ("its containers start, the agent begins", r"agent backup: begins mysqld"),
        ("a server of its own is initialised", r"agent backup: a server of our own starts"),
        ("it starts; CLONE", r"agent backup: cloned"),
        ("every table of the copy is read", r"agent backup: every table of the copy can be read"),
        ("checksums, manifest; the restore, which waits beside, begins", r"agent restore: copying"),
        ("copy; the copy's first start, flush; its end is seen by kubelet", r"pod .*-restore-.*: restore terminated"),
        ("the operator makes the replica", r"operator: step done: apply StatefulSet .*-replica-"),
        ("its pod's init containers", r"pod .*-replica-1-0 Initialized"),
        ("its server starts and replicates", r"CatchingUp: .* has yet to show"),
        ("proof, variables, Ready", None),
    ]
    writer = ('mysql -h "$HOST" -uroot -nN -vv bench', "INSERT INTO marks VALUES ();", "Query OK*")
    reader = ('mysql --connect-timeout=1 -h "$HOST" -uroot -nN', "SELECT 1;", "1")
    another_way = "mysqldump and load"
    # The third contender takes several minutes.
    runs = 2

    def environment(self):
        return [password("MYSQL_ROOT_PASSWORD"), {"name": "MYSQL_INITDB_SKIP_TZINFO", "value": "1"}]

    def client_env(self):
        return [password("MYSQL_PWD")]

    def prepare(self, pod):
        sql(pod, "CREATE DATABASE bench; CREATE TABLE bench.marks (id bigint AUTO_INCREMENT PRIMARY KEY, at timestamp(6) DEFAULT CURRENT_TIMESTAMP(6))")

    def fill(self, pod, megabytes):
        rows = megabytes * 1_000_000 // ROW
        # Text, which mysqldump need not escape.
        payload = f"replace(to_base64(random_bytes({ROW * 3 // 4})), char(10), '')"
        sql(pod, f"""
            SET sql_log_bin = 0, cte_max_recursion_depth = 10000;
            CREATE TABLE bench.filler (id bigint AUTO_INCREMENT PRIMARY KEY, payload varchar({ROW}) CHARACTER SET ascii NOT NULL);
            INSERT INTO bench.filler (payload) WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
                SELECT {payload} FROM n""")
        present = 10_000
        while present < rows:
            more = min(present, rows - present)
            sql(pod, f"SET sql_log_bin = 0; INSERT INTO bench.filler (payload) SELECT payload FROM bench.filler LIMIT {more}")
            present += more

    def size(self, pod):
        # Pages that are still to be written would be written while others are measured.
        sql(pod, "SET GLOBAL innodb_max_dirty_pages_pct = 0, GLOBAL innodb_max_dirty_pages_pct_lwm = 0")
        dirty = "SELECT variable_value FROM performance_schema.global_status WHERE variable_name = 'Innodb_buffer_pool_pages_dirty'"
        wait_for("changed pages are on the disk", lambda: int(sql(pod, dirty)) < 100)
        sql(pod, "SET GLOBAL innodb_max_dirty_pages_pct = DEFAULT, GLOBAL innodb_max_dirty_pages_pct_lwm = DEFAULT")
        return sql(pod, "SELECT concat(round(sum(file_size) / 1e6), ' MB of tables') FROM information_schema.innodb_tablespaces WHERE name LIKE 'bench/%'")

    def by_hand(self, of, size, hand):
        shell(f"{of}-0", PREPARE)
        hand.claims_for("hand-backup", "hand-replica")
        hand.start("hand-clone", ["sh", "-c", CLONE, of], ["hand-backup"], [password("HAND_PASSWORD")])
        hand.copied_from_source("hand-clone", "CLONE to a directory on a volume, its pod ended")
        hand.start("hand-copy", ["sh", "-c", "cp -a /hand-backup/data /hand-replica/data && sync -f /hand-replica/data"], ["hand-backup", "hand-replica"])
        hand.ended("hand-copy", "copy to another volume, its pod ended")
        hand.start("hand-replica", ["mysqld", "--datadir=/hand-replica/data", *REPLICA], ["hand-replica"], self.environment(),
                   ready=self.ready)
        hand.is_now("server started", hand.run.until("the replica is ready", is_pod_ready("hand-replica"), 120))
        self.follow(of, hand)

    def follow(self, of, hand):
        shell("hand-replica", FOLLOW, of)
        executed = sql(f"{of}-0", MARK).replace("\\n", "")
        if sql("hand-replica", f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{executed}', 300)") != "0":
            raise RuntimeError("what was written to the source has not arrived")
        hand.is_now("replicates and has caught up", time.time())

    def by_another_way(self, of, size, hand):
        shell(f"{of}-0", PREPARE)
        hand.claims_for("hand-backup", "hand-replica")
        # The new server is made while the dump is.
        hand.start("hand-replica", ["docker-entrypoint.sh", "mysqld", "--datadir=/hand-replica/data", *REPLICA[:1], *REPLICA[2:]], ["hand-replica"],
                   self.environment(), ready=self.ready)
        hand.start("hand-dump", ["sh", "-c", DUMP, of], ["hand-backup"], self.client_env())
        hand.copied_from_source("hand-dump", "mysqldump to a volume, its pod ended")
        hand.run.until("the new server is ready", is_pod_ready("hand-replica"), 120)
        hand.start("hand-load", ["sh", "-c", LOAD, hand.run.address("hand-replica")], ["hand-backup"], self.client_env())
        hand.ended("hand-load", "load into a new server, its pod ended", 900)
        self.follow(of, hand)

    def undo(self, of):
        sql(f"{of}-0", "DROP USER hand; UNINSTALL PLUGIN clone")
