//! MySQL.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use serde_json::{Value, json};
use std::time::Duration;

use super::{Chart, Database, Standby};

/// A client of a MySQL server.
pub struct MySql(Conn);

impl MySql {
    async fn rows(&mut self, sql: &str) -> Result<Vec<String>, String> {
        let answered = tokio::time::timeout(Duration::from_secs(10), self.0.query::<Option<String>, _>(sql)).await;
        let rows = answered.map_err(|_| "no answer in 10 s")?.map_err(|error| error.to_string())?;
        Ok(rows.into_iter().map(Option::unwrap_or_default).collect())
    }
}

impl Standby for MySql {
    const LESS: &'static [&'static str] = &["--relay-log=another"];
    const LESS_SAYS: &'static [&'static str] = &["TargetSettingsDiffer", "relay_log is another on the target"];

    async fn promote(&mut self) -> Result<(), String> {
        for sql in ["STOP REPLICA", "SET GLOBAL super_read_only = OFF", "SET GLOBAL read_only = OFF"] {
            self.rows(sql).await?;
        }
        Ok(())
    }

    async fn run(&mut self, sql: &str) -> Result<(), String> {
        self.rows(sql).await.map(drop)
    }

    async fn drop_user(&mut self) -> Result<(), String> {
        let user = self.rows("SELECT user FROM mysql.user WHERE user LIKE 'understudy%'").await?.concat();
        self.rows(&format!("DROP USER {user}")).await?;
        // `DROP USER` leaves the connection that streams.
        for id in self.rows(&format!("SELECT CAST(id AS char) FROM information_schema.processlist WHERE user = '{user}'")).await? {
            self.rows(&format!("KILL {id}")).await?;
        }
        Ok(())
    }
}

impl Database for MySql {
    const ENGINE: &'static str = "MySQL";
    const NAME: &'static str = "mysql";
    const PREFIX: &'static str = "MYSQL";
    const PORT: u16 = 3306;
    const USER: &'static str = "root";
    const DRY_RUN: &'static str = "understudy_";
    const LOGIN_REFUSED: &'static str = "Access denied for user";
    const REPLICATION_PASSWORD: &'static str = "MYSQL_PWD=$MYSQL_ROOT_PASSWORD mysql -uroot -N -e 'SELECT User_password FROM mysql.slave_master_info'";
    const REPLICAS: u32 = 1;
    const STEP: u32 = 1;
    const RESTARTS: bool = false;
    const ELECTS: bool = false;
    const KILLS: usize = 18;
    const TRACES: usize = 2;
    const LEAST_BACKUP: i64 = 10 << 20;
    const BY_HAND: &'static [&'static str] = &["DROP USER"];
    const CONTAINER: &'static str = "mysql";
    const DIRECTORY: &'static str = "/var/lib/mysql";
    const UNFIT: &'static [&'static str] = &["--skip-log-bin"];
    const UNFIT_SAYS: &'static [&'static str] = &["BinaryLogOff", "take skip-log-bin", "restart it"];
    const DEAF: &'static [&'static str] = &["--bind-address=127.0.0.1"];
    const CLERK_SAYS: &'static [&'static str] = &["PrivilegesMissing", "clerk", "name root in source.credentials"];

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
                    "spec": {"terminationGracePeriodSeconds": 10, "containers": [{
                        "name": "mysql", "image": "mysql:9.7",
                        "env": [{"name": "MYSQL_ROOT_PASSWORD", "valueFrom": {"secretKeyRef": {"name": name, "key": "password"}}}],
                        "ports": [{"containerPort": Self::PORT}],
                        // While the image initialises its data, a server answers on the socket only.
                        "readinessProbe": {"tcpSocket": {"port": Self::PORT}, "periodSeconds": 1},
                        "volumeMounts": [{"name": "data", "mountPath": "/var/lib/mysql"}]
                    }]}
                },
                "volumeClaimTemplates": [{
                    "metadata": {"name": "data"},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}
                }]
            }
        })
    }

    fn keep_data_in(container: &mut Value, directory: Option<&str>) {
        if let Some(directory) = directory {
            super::arguments(container).push(json!(format!("--datadir={directory}")));
        }
    }

    fn chart(container: &mut Value) -> Chart {
        let mounts = container["volumeMounts"].as_array_mut().unwrap();
        mounts.push(json!({"name": "prepared", "mountPath": "/etc/mysql/conf.d", "readOnly": true}));
        Chart {
            // Only the image's own user may look into the directory that files are usually exported to.
            configuration: json!({"primary.cnf": "[mysqld]\nmax_connections=77\nsecure-file-priv=NULL\n"}),
            script: "echo '[mysqld]' > /prepared/server-id.cnf && echo server-id=100 >> /prepared/server-id.cnf && cp /configuration/primary.cnf /prepared/",
            // Not in its arguments: other tests look for the password there.
            probe: "MYSQL_PWD=\"$MYSQL_ROOT_PASSWORD\" exec mysqladmin ping -h 127.0.0.1 -u root",
            proof: "max_connections=77",
        }
    }

    async fn connect_as(host: &str, password: &str) -> Result<Self, String> {
        let options = OptsBuilder::default().ip_or_hostname(host).tcp_port(Self::PORT).user(Some(Self::USER)).pass(Some(password)).prefer_socket(false);
        let connected = tokio::time::timeout(Duration::from_secs(5), Conn::new(options)).await;
        connected.map_err(|_| "no answer in 5 s")?.map_err(|error| error.to_string()).map(Self)
    }

    async fn prepare(&mut self) -> Result<(), String> {
        self.rows("CREATE DATABASE IF NOT EXISTS shop").await?;
        self.rows("CREATE TABLE IF NOT EXISTS shop.orders (id bigint unsigned PRIMARY KEY, placed timestamp DEFAULT CURRENT_TIMESTAMP)").await.map(drop)
    }

    async fn insert(&mut self, id: u64) -> Result<(), String> {
        self.rows(&format!("INSERT INTO shop.orders (id) VALUES ({id})")).await.map(drop)
    }

    async fn count(&mut self) -> Result<u64, String> {
        let rows = self.rows("SELECT CAST(count(*) AS char) FROM shop.orders").await?;
        rows.first().and_then(|count| count.parse().ok()).ok_or_else(|| format!("{rows:?}"))
    }

    async fn takes_writes(&mut self) -> Result<bool, String> {
        Ok(self.rows("SELECT CAST(@@GLOBAL.super_read_only AS char)").await? == ["0"])
    }

    fn is_read_only(error: &str) -> bool {
        error.contains("super-read-only")
    }

    async fn snapshot(&mut self) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        for sql in [
            // What was executed stays executed, and what a client executes at this moment is no setting.
            "SELECT CONCAT(variable_name, '=', variable_value) FROM performance_schema.global_variables WHERE variable_name NOT IN ('gtid_executed', 'gtid_owned', 'gtid_purged') ORDER BY 1",
            "SELECT CONCAT(variable_name, '=', variable_value) FROM performance_schema.persisted_variables ORDER BY 1",
            "SELECT CONCAT_WS(' ', user, host, plugin, authentication_string, account_locked, user_attributes) FROM mysql.user ORDER BY 1",
            "SELECT CONCAT_WS(' ', user, host, priv) FROM mysql.global_grants ORDER BY 1",
            "SELECT CONCAT_WS(' ', plugin_name, plugin_status) FROM information_schema.plugins ORDER BY 1",
        ] {
            all.extend(self.rows(sql).await?);
        }
        Ok(all)
    }

    async fn directory(&mut self) -> Result<String, String> {
        Ok(self.rows("SELECT @@GLOBAL.datadir").await?.concat().trim_end_matches('/').to_owned())
    }

    async fn make_clerk(&mut self) -> Result<(), String> {
        self.rows("CREATE USER clerk@'%' IDENTIFIED BY 'clerk'").await?;
        self.rows("GRANT SELECT ON *.* TO clerk@'%'").await.map(drop)
    }

    /// There is no need: before it copies, the Job makes itself a server, which takes longer than the source takes to stop.
    async fn slow_down(&mut self) -> Result<(), String> {
        Ok(())
    }

    async fn hold_backup(&mut self) -> Result<(), String> {
        // The Job's first step is to give the user its password.
        let usable = self.rows("SELECT user FROM mysql.user WHERE user LIKE 'understudy%' AND account_locked = 'N'").await?;
        if usable.is_empty() { Err("no backup is being taken".to_owned()) } else { Ok(()) }
    }

    async fn traces(&mut self) -> Result<Vec<String>, String> {
        let mut all = self.rows("SELECT user FROM mysql.user WHERE user LIKE 'understudy%'").await?;
        all.extend(self.rows("SELECT plugin_name FROM information_schema.plugins WHERE plugin_name = 'clone'").await?);
        Ok(all)
    }
}
