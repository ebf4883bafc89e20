//! PostgreSQL.

use serde_json::{Value, json};
use std::time::Duration;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::{Chart, Database, Standby};

/// A client of a PostgreSQL server.
pub struct PostgreSql(Client);

impl PostgreSql {
    async fn rows(&self, sql: &str) -> Result<Vec<String>, String> {
        self.rows_within(10, sql).await
    }

    async fn rows_within(&self, seconds: u64, sql: &str) -> Result<Vec<String>, String> {
        let answered = tokio::time::timeout(Duration::from_secs(seconds), self.0.simple_query(sql)).await;
        let messages = answered.map_err(|_| format!("no answer in {seconds} s"))?.map_err(text)?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
                _ => None,
            })
            .collect())
    }
}

fn text(error: tokio_postgres::Error) -> String {
    let cause = || std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
    error.as_db_error().map_or_else(|| format!("{error}{}", cause()), |e| format!("{}: {}", e.code().code(), e.message()))
}

/// Executes SQL on a new connection; gives the first column.
pub async fn query(host: &str, sql: &str) -> Result<Vec<String>, String> {
    PostgreSql::connect(host).await?.rows(sql).await
}

/// Stops the server process that sends the backup, as soon as it sends: the backup then stands still until the source goes.
const HOLD_THE_BACKUP: &str = "DO $$ DECLARE sender int; BEGIN
    FOR turn IN 1..1600 LOOP
        PERFORM pg_stat_clear_snapshot();
        SELECT pid INTO sender FROM pg_stat_progress_basebackup WHERE backup_streamed > 0;
        IF sender IS NOT NULL THEN
            EXECUTE format('COPY (SELECT 1 WHERE false) TO PROGRAM %L', 'kill -STOP ' || sender);
            RETURN;
        END IF;
        PERFORM pg_sleep(0.005);
    END LOOP;
    RAISE EXCEPTION 'no backup is being sent';
END $$";

impl Standby for PostgreSql {
    const LESS: &'static [&'static str] = &["-c", "max_connections=50"];
    const LESS_SAYS: &'static [&'static str] = &["TargetSettingsTooLow", "max_connections would be 50", "100"];

    async fn promote(&mut self) -> Result<(), String> {
        self.rows("SELECT pg_promote()").await.map(drop)
    }

    async fn run(&mut self, sql: &str) -> Result<(), String> {
        self.rows(sql).await.map(drop)
    }

    async fn drop_user(&mut self) -> Result<(), String> {
        let role = self.rows("SELECT rolname FROM pg_roles WHERE rolname LIKE 'understudy%'").await?.concat();
        // `DROP ROLE` leaves the connection that streams.
        self.rows(&format!("DROP ROLE {role}")).await?;
        self.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_replication").await.map(drop)
    }
}

impl Database for PostgreSql {
    const ENGINE: &'static str = "PostgreSQL";
    const NAME: &'static str = "postgresql";
    const PREFIX: &'static str = "POSTGRESQL";
    const PORT: u16 = 5432;
    const USER: &'static str = "orders";
    const DRY_RUN: &'static str = "pg_hba.conf";
    const LOGIN_REFUSED: &'static str = "password authentication failed for user \"orders\"";
    const REPLICATION_PASSWORD: &'static str = "cut -d: -f5 $PGDATA/understudy.pgpass";

    const REPLICAS: u32 = 1;
    const STEP: u32 = 1;
    const RESTARTS: bool = false;
    const ELECTS: bool = false;
    const KILLS: usize = 20;
    const TRACES: usize = 3;
    const LEAST_BACKUP: i64 = 1 << 20;
    const BY_HAND: &'static [&'static str] = &["pg_drop_replication_slot", "DROP ROLE"];
    const CONTAINER: &'static str = "postgres";
    const DIRECTORY: &'static str = "/var/lib/postgresql/data";
    const UNFIT: &'static [&'static str] = &["-c", "wal_level=minimal", "-c", "max_wal_senders=0"];
    const UNFIT_SAYS: &'static [&'static str] = &[
        "SeveralFindings",
        "WalLevelMinimal",
        "ALTER SYSTEM SET wal_level = 'replica'",
        "restart the source",
        "TooFewWalSenders",
        "raise max_wal_senders to at least 3",
    ];
    const DEAF: &'static [&'static str] = &["-c", "listen_addresses=127.0.0.1"];
    const CLERK_SAYS: &'static [&'static str] = &["NotSuperuser", "clerk is not a superuser", "name a superuser in source.credentials"];

    fn secret(password: &str) -> Value {
        json!({"username": Self::USER, "password": password})
    }

    fn stateful_set(name: &str) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
            "spec": {
                "serviceName": name, "replicas": 1, "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"terminationGracePeriodSeconds": 5, "containers": [{
                        "name": "postgres", "image": "postgres:17",
                        "env": [
                            {"name": "POSTGRES_USER", "value": Self::USER},
                            {"name": "POSTGRES_PASSWORD", "valueFrom": {"secretKeyRef": {"name": name, "key": "password"}}},
                            {"name": "PGDATA", "value": "/var/lib/postgresql/data/pgdata"}
                        ],
                        "ports": [{"containerPort": Self::PORT}],
                        "readinessProbe": {"tcpSocket": {"port": Self::PORT}, "periodSeconds": 1},
                        "volumeMounts": [{"name": "data", "mountPath": "/var/lib/postgresql/data"}]
                    }]}
                },
                "volumeClaimTemplates": [{
                    "metadata": {"name": "data"},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
                }]
            }
        })
    }

    fn keep_data_in(container: &mut Value, directory: Option<&str>) {
        let variables = container["env"].as_array_mut().unwrap();
        variables.retain(|variable| variable["name"] != "PGDATA");
        variables.extend(directory.map(|directory| json!({"name": "PGDATA", "value": directory})));
    }

    fn chart(container: &mut Value) -> Chart {
        container["command"] = json!(["bash", "-ec", ". /scripts/prepare.sh && exec docker-entrypoint.sh postgres -c \"$CONFIGURATION\""]);
        let mounts = container["volumeMounts"].as_array_mut().unwrap();
        mounts.push(json!({"name": "configuration", "mountPath": "/etc/postgresql"}));
        mounts.push(json!({"name": "prepared", "mountPath": "/scripts", "readOnly": true}));
        Chart {
            configuration: json!({"postgresql.conf": "listen_addresses = '*'\nmax_connections = 77\nwork_mem = 5MB\n"}),
            script: "echo 'export CONFIGURATION=config_file=/etc/postgresql/postgresql.conf' > /prepared/prepare.sh",
            probe: "exec pg_isready -U \"orders\" -d \"dbname=orders\" -h 127.0.0.1 -p 5432",
            proof: "max_connections=77 configuration file",
        }
    }

    async fn connect_as(host: &str, password: &str) -> Result<Self, String> {
        let mut config = tokio_postgres::Config::new();
        config.host(host).user(Self::USER).password(password).dbname("postgres").connect_timeout(Duration::from_secs(10));
        let (client, connection) = config.connect(NoTls).await.map_err(text)?;
        tokio::spawn(connection);
        Ok(Self(client))
    }

    async fn prepare(&mut self) -> Result<(), String> {
        self.rows("CREATE TABLE IF NOT EXISTS orders (id bigint PRIMARY KEY, at timestamptz DEFAULT now())").await.map(drop)
    }

    async fn insert(&mut self, id: u64) -> Result<(), String> {
        self.rows(&format!("INSERT INTO orders (id) VALUES ({id})")).await.map(drop)
    }

    async fn count(&mut self) -> Result<u64, String> {
        let rows = self.rows("SELECT count(*) FROM orders").await?;
        rows.first().and_then(|count| count.parse().ok()).ok_or_else(|| format!("{rows:?}"))
    }

    async fn takes_writes(&mut self) -> Result<bool, String> {
        Ok(self.rows("SELECT pg_is_in_recovery()").await? == ["f"])
    }

    fn is_read_only(error: &str) -> bool {
        error.starts_with("25006")
    }

    async fn snapshot(&mut self) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        for sql in [
            "SELECT name || '=' || coalesce(setting, '') || ' ' || source || ' ' || pending_restart FROM pg_settings WHERE source <> 'client' AND name NOT IN ('transaction_read_only') ORDER BY name",
            "SELECT rolname || ' ' || rolsuper || rolreplication || rolcanlogin || coalesce(rolpassword, '') FROM pg_authid ORDER BY rolname",
            "SELECT slot_name FROM pg_replication_slots ORDER BY slot_name",
            "SELECT pg_read_file(current_setting('hba_file'))",
            "SELECT pg_read_file(current_setting('data_directory') || '/postgresql.auto.conf')",
            "SELECT line_number || type || auth_method FROM pg_hba_file_rules ORDER BY 1",
            "SELECT string_agg(name, ' ' ORDER BY name) FROM pg_ls_dir(current_setting('data_directory')) AS d(name)",
        ] {
            all.extend(self.rows(sql).await?);
        }
        Ok(all)
    }

    async fn directory(&mut self) -> Result<String, String> {
        Ok(self.rows("SHOW data_directory").await?.concat())
    }

    async fn make_clerk(&mut self) -> Result<(), String> {
        self.rows("CREATE ROLE clerk LOGIN PASSWORD 'clerk'").await.map(drop)
    }

    async fn slow_down(&mut self) -> Result<(), String> {
        self.rows("CREATE TABLE big (words text STORAGE EXTERNAL)").await?;
        self.rows_within(120, "INSERT INTO big SELECT repeat(md5(i::text), 100) FROM generate_series(1, 40000) AS i").await.map(drop)
    }

    async fn hold_backup(&mut self) -> Result<(), String> {
        self.rows(HOLD_THE_BACKUP).await.map(drop)
    }

    async fn traces(&mut self) -> Result<Vec<String>, String> {
        let mut all = self.rows("SELECT slot_name FROM pg_replication_slots").await?;
        all.extend(self.rows("SELECT rolname FROM pg_roles WHERE rolname LIKE 'understudy%'").await?);
        let lines = "SELECT l FROM regexp_split_to_table(pg_read_file(current_setting('hba_file')), '\n') l WHERE l LIKE '%understudy%'";
        all.extend(self.rows(lines).await?);
        Ok(all)
    }
}
