//! MongoDB.

use ::mongodb::bson::{Bson, Document, doc};
use ::mongodb::options::{ClientOptions, Credential, ServerAddress};
use ::mongodb::{Client, error::Error};
use serde_json::{Value, json};
use std::time::Duration;

use super::{Chart, Database, arguments};

/// A client of one MongoDB server, which asks no other of its set.
pub struct MongoDb(Client);

fn text(error: Error) -> String {
    error.to_string()
}

impl MongoDb {
    async fn run(&mut self, database: &str, command: Document) -> Result<Document, String> {
        let answered = tokio::time::timeout(Duration::from_secs(10), self.0.database(database).run_command(command)).await;
        answered.map_err(|_| "no answer in 10 s")?.map_err(text)
    }

    /// The collections of a database, but what a server writes about its own starts.
    async fn collections(&mut self, database: &str) -> Result<Vec<String>, String> {
        let listed = self.run(database, doc! {"listCollections": 1, "nameOnly": true}).await?;
        let found = listed.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).map_err(|error| error.to_string())?;
        let names = found.iter().filter_map(Bson::as_document).filter_map(|collection| collection.get_str("name").ok());
        let mut names: Vec<String> = names.filter(|name| *name != "startup_log").map(|name| format!("{database}.{name}")).collect();
        names.sort();
        Ok(names)
    }
}

impl Database for MongoDb {
    const ENGINE: &'static str = "MongoDB";
    const NAME: &'static str = "mongodb";
    const PREFIX: &'static str = "MONGODB";
    const PORT: u16 = 27017;
    const USER: &'static str = "root";
    const DRY_RUN: &'static str = "restart the source once";
    const LOGIN_REFUSED: &'static str = "Authentication failed";
    const REPLICATION_PASSWORD: &'static str = "cat /run/understudy/key/key";
    const REPLICAS: u32 = 2;
    const STEP: u32 = 2;
    const RESTARTS: bool = true;
    const ELECTS: bool = true;
    const KILLS: usize = 24;
    const TRACES: usize = 2;
    const LEAST_BACKUP: i64 = 100;
    const BY_HAND: &'static [&'static str] = &["--replSet", "db.dropDatabase()"];

    const CONTAINER: &'static str = "mongodb";
    const DIRECTORY: &'static str = "/data/db";
    // In the official image a directory, which nothing is mounted to.
    const UNFIT: &'static [&'static str] = &["--dbpath", "/data/configdb"];
    const UNFIT_SAYS: &'static [&'static str] = &["DataNotOnVolume", "the data directory /data/configdb of container mongodb", "keep the data on a volume"];
    const DEAF: &'static [&'static str] = &["--bind_ip", "127.0.0.1"];
    const CLERK_SAYS: &'static [&'static str] = &["NotPermitted", "user clerk may not", "name a user with the role root"];

    fn secret(password: &str) -> Value {
        json!({"username": Self::USER, "password": password})
    }

    fn stateful_set(name: &str) -> Value {
        let variable = |variable: &str, key: &str| json!({"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}});
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
            "spec": {
                "serviceName": name, "replicas": 1, "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"terminationGracePeriodSeconds": 30, "containers": [{
                        "name": "mongodb", "image": "mongo:6.0", "args": ["--wiredTigerCacheSizeGB", "0.25"],
                        "env": [{"name": "MONGO_INITDB_ROOT_USERNAME", "value": Self::USER}, variable("MONGO_INITDB_ROOT_PASSWORD", "password")],
                        "ports": [{"containerPort": Self::PORT}],
                        "readinessProbe": {"tcpSocket": {"port": Self::PORT}, "periodSeconds": 1},
                        "volumeMounts": [{"name": "data", "mountPath": "/data/db"}]
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
            arguments(container).extend([json!("--dbpath"), json!(directory)]);
        }
    }

    fn chart(container: &mut Value) -> Chart {
        arguments(container).extend([json!("--config"), json!("/etc/mongo/mongod.conf")]);
        let mounts = container["volumeMounts"].as_array_mut().unwrap();
        mounts.push(json!({"name": "prepared", "mountPath": "/etc/mongo", "readOnly": true}));
        Chart {
            configuration: json!({"mongod.conf": "net:\n  maxIncomingConnections: 777\n"}),
            script: "cp /configuration/mongod.conf /prepared/",
            probe: "MONGO_URI=\"mongodb://root:$PASSWORD@127.0.0.1:27017/admin?directConnection=true\" mongo-command '{\"ping\": 1}'",
            proof: "net.maxIncomingConnections: 777",
        }
    }

    async fn connect_as(host: &str, password: &str) -> Result<Self, String> {
        let address = ServerAddress::Tcp { host: host.to_owned(), port: Some(Self::PORT) };
        let mut options = ClientOptions::builder().hosts(vec![address]).build();
        options.direct_connection = Some(true);
        options.server_selection_timeout = Some(Duration::from_secs(3));
        options.max_pool_size = Some(1);
        options.retry_writes = Some(false);
        options.credential = Some(Credential::builder().username(Self::USER.to_owned()).password(password.to_owned()).source("admin".to_owned()).build());
        let mut client = Self(Client::with_options(options).map_err(text)?);
        client.run("admin", doc! {"ping": 1}).await?;
        Ok(client)
    }

    async fn prepare(&mut self) -> Result<(), String> {
        match self.run("shop", doc! {"create": "orders"}).await {
            Err(error) if !error.contains("already exists") => Err(error),
            _ => Ok(()),
        }
    }

    async fn insert(&mut self, id: u64) -> Result<(), String> {
        let document = doc! {"_id": i64::try_from(id).unwrap()};
        // An upsert: of a write whose answer was lost nobody knows whether it was made.
        let update = doc! {"q": document.clone(), "u": {"$set": document}, "upsert": true};
        let answer = self.run("shop", doc! {"update": "orders", "updates": [update]}).await?;
        match answer.get_array("writeErrors") {
            Ok(errors) => Err(format!("{errors:?}")),
            Err(_) => Ok(()),
        }
    }

    async fn count(&mut self) -> Result<u64, String> {
        let answer = self.run("shop", doc! {"count": "orders"}).await?;
        Ok(u64::try_from(answer.get_i32("n").map_err(|error| error.to_string())?).unwrap())
    }

    async fn takes_writes(&mut self) -> Result<bool, String> {
        self.run("admin", doc! {"hello": 1}).await?.get_bool("isWritablePrimary").map_err(|error| error.to_string())
    }

    fn is_read_only(error: &str) -> bool {
        error.contains("not primary")
    }

    async fn snapshot(&mut self) -> Result<Vec<String>, String> {
        let options = self.run("admin", doc! {"getCmdLineOpts": 1}).await?;
        let mut all = vec![options.get("argv").map(ToString::to_string).unwrap_or_default()];
        for (section, settings) in options.get_document("parsed").map_err(|error| error.to_string())? {
            all.extend(settings.as_document().into_iter().flatten().map(|(name, value)| format!("{section}.{name}: {value}")));
        }
        let users = self.run("admin", doc! {"usersInfo": 1}).await?;
        all.extend(users.get_array("users").into_iter().flatten().map(ToString::to_string));
        let roles = self.run("admin", doc! {"rolesInfo": 1}).await?;
        all.extend(roles.get_array("roles").into_iter().flatten().map(ToString::to_string));
        all.extend(self.collections("local").await?);
        Ok(all)
    }

    async fn directory(&mut self) -> Result<String, String> {
        let options = self.run("admin", doc! {"getCmdLineOpts": 1}).await?;
        let storage = options.get_document("parsed").and_then(|parsed| parsed.get_document("storage"));
        Ok(storage.ok().and_then(|storage| storage.get_str("dbPath").ok()).unwrap_or(Self::DIRECTORY).to_owned())
    }

    async fn make_clerk(&mut self) -> Result<(), String> {
        self.run("admin", doc! {"createUser": "clerk", "pwd": "clerk", "roles": ["readAnyDatabase"]}).await.map(drop)
    }

    /// So much that the dump takes more than a second.
    async fn slow_down(&mut self) -> Result<(), String> {
        for number in 0..320_i32 {
            let mut bytes = vec![0_u8; 1 << 20];
            rand::Rng::fill(&mut rand::rng(), &mut bytes[..]);
            let bytes = Bson::Binary(::mongodb::bson::Binary { subtype: ::mongodb::bson::spec::BinarySubtype::Generic, bytes });
            self.run("shop", doc! {"insert": "ballast", "documents": [{"_id": number, "bytes": bytes}]}).await?;
        }
        Ok(())
    }

    /// No lock holds up who reads, so it is this server that goes first, at once: it waits for nobody, and its container is started again until the pod is
    /// lost. Looked for without a pause, since the dump lasts little more than a second.
    async fn hold_backup(&mut self) -> Result<(), String> {
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            let running = self.run("admin", doc! {"currentOp": 1, "$all": true}).await?;
            if running.to_string().contains("mongodump") {
                let gone = self.run("admin", doc! {"shutdown": 1, "force": true, "timeoutSecs": 0}).await;
                return gone.map_or_else(|_| Ok(()), |answer| Err(format!("it goes on: {answer}")));
            }
        }
        Err("no backup is being taken".to_owned())
    }

    async fn traces(&mut self) -> Result<Vec<String>, String> {
        match self.run("admin", doc! {"replSetGetConfig": 1}).await {
            Ok(answer) => {
                let members = answer.get_document("config").and_then(|config| config.get_array("members")).map_err(|error| error.to_string())?;
                let hosts = members.iter().filter_map(Bson::as_document).filter_map(|member| member.get_str("host").ok());
                Ok(hosts.filter(|host| host.contains("-replica-")).map(str::to_owned).collect())
            }
            Err(_) => Ok(Vec::new()),
        }
    }
}
