//! Redis.

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo, RedisError};
use serde_json::{Value, json};
use std::time::Duration;

use super::{Chart, Database, Standby};

/// A client of a Redis server.
pub struct Redis(MultiplexedConnection);

fn text(error: RedisError) -> String {
    // While it connects, the library does not pass on what the server said.
    if error.kind() == ErrorKind::AuthenticationFailed {
        return format!("{} {error}", <Redis as Database>::LOGIN_REFUSED);
    }
    format!("{} {}", error.code().unwrap_or_default(), error.detail().map_or_else(|| error.to_string(), str::to_owned))
}

impl Redis {
    async fn ask<T: FromRedisValue>(&mut self, words: &[&str]) -> Result<T, String> {
        let mut command = ::redis::cmd(words[0]);
        command.arg(&words[1..]);
        tokio::time::timeout(Duration::from_secs(10), command.query_async(&mut self.0)).await.map_err(|_| "no answer in 10 s")?.map_err(text)
    }
}

/// How long a copy waits after each key, in microseconds.
const SAVE_DELAY: &str = "rdb-key-save-delay";

impl Standby for Redis {
    const LESS: &'static [&'static str] = &["--databases", "8"];
    const LESS_SAYS: &'static [&'static str] = &["TargetSettingsTooLow", "8", "16"];

    async fn promote(&mut self) -> Result<(), String> {
        self.ask::<String>(&["REPLICAOF", "NO", "ONE"]).await.map(drop)
    }

    async fn run(&mut self, sql: &str) -> Result<(), String> {
        self.ask::<String>(&sql.split(' ').collect::<Vec<_>>()).await.map(drop)
    }

    async fn drop_user(&mut self) -> Result<(), String> {
        let user = self.traces().await?.concat();
        self.ask::<u64>(&["ACL", "DELUSER", &user]).await.map(drop)
    }
}

impl Database for Redis {
    const ENGINE: &'static str = "Redis";
    const NAME: &'static str = "redis";
    const PREFIX: &'static str = "REDIS";
    const PORT: u16 = 6379;
    const USER: &'static str = "default";
    const DRY_RUN: &'static str = "understudy_";
    const LOGIN_REFUSED: &'static str = "WRONGPASS";
    const REPLICATION_PASSWORD: &'static str = "sed -n 's/^masterauth //p' /data/understudy.conf | tr -d '\"'";
    const REPLICAS: u32 = 1;
    const STEP: u32 = 1;
    const RESTARTS: bool = false;
    const ELECTS: bool = false;
    const KILLS: usize = 18;
    const TRACES: usize = 1;
    const LEAST_BACKUP: i64 = 100;
    const BY_HAND: &'static [&'static str] = &["ACL DELUSER"];
    const CONTAINER: &'static str = "redis";
    const DIRECTORY: &'static str = "/data";
    const UNFIT: &'static [&'static str] = &["--save", ""];
    const UNFIT_SAYS: &'static [&'static str] = &["NoPersistence", "after a restart it would be empty", "CONFIG SET save"];
    const DEAF: &'static [&'static str] = &["--bind", "127.0.0.1"];
    const CLERK_SAYS: &'static [&'static str] = &["NotPermitted", "user clerk may not run these commands", "let source.credentials name a user that may"];

    fn secret(password: &str) -> Value {
        json!({"username": Self::USER, "password": password, "redis.conf": format!("requirepass {password}\nprotected-mode no\nsave 3600 1 300 100 60 10000\n")})
    }

    fn stateful_set(name: &str) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
            "spec": {
                "serviceName": name, "replicas": 1, "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    // It saves once its replicas have caught up, for which it waits up to 10 s (`shutdown-timeout`).
                    "spec": {"terminationGracePeriodSeconds": 20, "containers": [{
                        "name": "redis", "image": "redis:8", "args": ["/etc/redis/redis.conf"],
                        "ports": [{"containerPort": Self::PORT}],
                        "readinessProbe": {"tcpSocket": {"port": Self::PORT}, "periodSeconds": 1},
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "configuration", "mountPath": "/etc/redis"}]
                    }],
                    "volumes": [{"name": "configuration", "secret": {"secretName": name, "items": [{"key": "redis.conf", "path": "redis.conf"}]}}]}
                },
                "volumeClaimTemplates": [{
                    "metadata": {"name": "data"},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
                }]
            }
        })
    }

    fn keep_data_in(container: &mut Value, directory: Option<&str>) {
        if let Some(directory) = directory {
            super::arguments(container).extend([json!("--dir"), json!(directory)]);
        }
    }

    fn chart(container: &mut Value) -> Chart {
        container["command"] = json!(["redis-server"]);
        let mounts = container["volumeMounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["name"] != "configuration");
        mounts.push(json!({"name": "prepared", "mountPath": "/etc/redis", "readOnly": true}));
        Chart {
            configuration: json!({"redis.conf": "tcp-keepalive 77\nsave 3600 1 300 100 60 10000\n"}),
            script: "cp /configuration/redis.conf /prepared/ && echo \"requirepass $PASSWORD\" >> /prepared/redis.conf",
            probe: "REDISCLI_AUTH=\"$PASSWORD\" redis-cli --user default -h 127.0.0.1 ping | grep PONG",
            proof: "tcp-keepalive=77",
        }
    }

    async fn connect_as(host: &str, password: &str) -> Result<Self, String> {
        let settings = RedisConnectionInfo::default().set_password(password);
        let info = (host, Self::PORT).into_connection_info().map_err(text)?.set_redis_settings(settings);
        let client = ::redis::Client::open(info).map_err(text)?;
        // As patient as clients of the other engines: the library's own limit is half a second.
        let limits = AsyncConnectionConfig::new().set_connection_timeout(Some(Duration::from_secs(10))).set_response_timeout(Some(Duration::from_secs(10)));
        let connected = tokio::time::timeout(Duration::from_secs(10), client.get_multiplexed_async_connection_with_config(&limits)).await;
        connected.map_err(|_| "no answer in 3 s")?.map_err(text).map(Self)
    }

    async fn prepare(&mut self) -> Result<(), String> {
        self.ask::<String>(&["PING"]).await.map(drop)
    }

    async fn insert(&mut self, id: u64) -> Result<(), String> {
        self.ask::<u64>(&["SADD", "orders", &id.to_string()]).await.map(drop)
    }

    async fn count(&mut self) -> Result<u64, String> {
        self.ask(&["SCARD", "orders"]).await
    }

    async fn takes_writes(&mut self) -> Result<bool, String> {
        Ok(self.ask::<String>(&["INFO", "replication"]).await?.contains("role:master"))
    }

    fn is_read_only(error: &str) -> bool {
        error.starts_with("READONLY")
    }

    async fn snapshot(&mut self) -> Result<Vec<String>, String> {
        let settings: Vec<String> = self.ask(&["CONFIG", "GET", "*"]).await?;
        let mut all: Vec<String> = settings.chunks(2).map(|pair| pair.join("=")).collect();
        all.sort();
        all.extend(self.ask::<Vec<String>>(&["ACL", "LIST"]).await?);
        let replication: String = self.ask(&["INFO", "replication"]).await?;
        all.extend(replication.lines().filter(|line| line.starts_with("role:") || line.starts_with("connected_slaves:")).map(str::to_owned));
        Ok(all)
    }

    async fn directory(&mut self) -> Result<String, String> {
        Ok(self.ask::<(String, String)>(&["CONFIG", "GET", "dir"]).await?.1)
    }

    async fn make_clerk(&mut self) -> Result<(), String> {
        self.ask::<String>(&["ACL", "SETUSER", "clerk", "on", ">clerk", "~*", "+@read", "+info"]).await.map(drop)
    }

    /// A minute for each key.
    async fn slow_down(&mut self) -> Result<(), String> {
        self.ask::<String>(&["CONFIG", "SET", SAVE_DELAY, "60000000"]).await.map(drop)
    }

    async fn hold_backup(&mut self) -> Result<(), String> {
        let persistence: String = self.ask(&["INFO", "persistence"]).await?;
        if !persistence.contains("rdb_bgsave_in_progress:1") {
            return Err("no backup is being taken".to_owned());
        }
        // The process that copies keeps its pace; the server is to save at once when it stops.
        self.ask::<String>(&["CONFIG", "SET", SAVE_DELAY, "0"]).await.map(drop)
    }

    async fn traces(&mut self) -> Result<Vec<String>, String> {
        let users: Vec<String> = self.ask(&["ACL", "USERS"]).await?;
        Ok(users.into_iter().filter(|user| user.starts_with("understudy")).collect())
    }
}
