//! The backup: consistent, verifiable, and restored with the database's own tool.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use ::mongodb::bson::{Timestamp, doc};
use understudy::engine::mongodb::MongoDb;
use understudy::engine::{Engine, Position};

use super::common::{PASSWORD, Serving, Workshop, succeed};
use super::server::{Server, batch, command, give, inside};
use super::set::Set;
use super::writer::Writer;

const NAME: &str = "k3x9q2ab-1";

/// A program in place of the database's own `mongodump`, for the agent of this workshop.
fn instead(shop: &Workshop, script: &str) {
    let path = shop.path("instead/mongodump");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// One that notes its arguments, and what the file holds that it is told to read; then it is the real one.
fn noting(shop: &Workshop) {
    let notes = inside(&shop.path("notes"));
    fs::create_dir(shop.path("notes")).unwrap();
    give(&shop.path("notes"));
    let script = format!("echo run >>{0}/runs; printf '%s\\n' \"$@\" >{0}/arguments; exec /usr/bin/mongodump \"$@\"", notes.display());
    instead(shop, &script);
}

/// Files below a directory that hold a text.
fn holding(directory: &Path, text: &str) -> Vec<String> {
    let mut search = Command::new("grep");
    let found = search.args(["--recursive", "--fixed-strings", "--files-with-matches", "--text", "--", text]).arg(directory).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Restores the backup into a server as a person does it, the password in a file where there is one.
fn restore(shop: &Workshop, into: &Server) {
    let mut restore = command(Path::new("/usr/bin/mongorestore"));
    restore.args(["--host", "127.0.0.1", "--port", &into.port.to_string(), "--oplogReplay"]);
    if !into.password.is_empty() {
        let file = into.root.path().join("login.yaml");
        fs::write(&file, format!("password: {}\n", serde_json::to_string(&into.password).unwrap())).unwrap();
        give(&file);
        restore.args(["--username", "root", "--authenticationDatabase", "admin", "--config"]).arg(inside(&file));
    }
    succeed({
        restore.arg(inside(&shop.path(&format!("backup/{NAME}/data"))));
        restore
    });
}

#[tokio::test]
async fn a_backup_taken_under_writes_restores_to_its_position_and_shows_no_password() {
    let set = Set::of(Server::new(PASSWORD).await).await;
    set.source.run("shop", doc! {"createIndexes": "orders", "indexes": [{"key": {"pieces": 1}, "name": "pieces"}]}).await.unwrap();
    let writer = Writer::to(&set.source);
    writer.goes_on().await;
    let first = writer.acknowledged();
    noting(&set.shop);
    let taken = succeed(set.shop.backup(&set.source, NAME));
    writer.goes_on().await;

    let manifest = set.shop.manifest();
    let position = MongoDb::parse_position(manifest["position"].as_str().unwrap()).unwrap();
    assert_eq!(MongoDb::format_position(&position), manifest["position"]);
    assert_eq!((manifest["engine"].as_str(), manifest["version"].as_str()), (Some("MongoDB"), Some(set.source.facts().await.version.as_str())));
    assert!(MongoDb::summary(&set.source.facts().await).position.reaches(&position));
    let directory = set.shop.path(&format!("backup/{NAME}"));
    let list = directory.join("SHA256SUMS");
    assert_eq!(understudy::agent::checksum(&fs::read(&list).unwrap()), manifest["checksum"]);
    let mut check = Command::new("sha256sum");
    check.args(["--check", "--strict"]).arg(&list).current_dir(directory.join("data"));
    assert!(String::from_utf8(succeed(check).stdout).unwrap().contains("shop/orders.bson: OK"));

    let arguments = fs::read_to_string(set.shop.path("notes/arguments")).unwrap();
    assert!(arguments.contains("--config") && !arguments.contains(PASSWORD), "{arguments}");
    let log = [taken.stdout, taken.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    assert!(log.contains("mongodump") && !log.contains(PASSWORD), "{log}");
    let quoted = serde_json::to_string(PASSWORD).unwrap();
    assert_eq!(holding(&set.shop.path("credentials"), PASSWORD).len(), 1, "the search finds what is there");
    for text in [PASSWORD, &quoted] {
        assert_eq!(holding(&set.shop.path("backup"), text), [""; 0]);
    }
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o077, 0, "nobody else reads it");

    succeed(set.shop.backup(&set.source, NAME));
    assert_eq!(set.shop.manifest(), manifest, "one that exists is reported again");
    assert_eq!(fs::read_to_string(set.shop.path("notes/runs")).unwrap().lines().count(), 1, "and not taken again");

    // Everything up to the position, and nothing after it: as the source's own log has it.
    let Position::Timestamp { seconds, increment } = position else { panic!("{position:?}") };
    let until = Timestamp { time: seconds, increment };
    let written =
        doc! {"find": "oplog.rs", "filter": {"ns": "shop.orders", "op": "i", "ts": {"$lte": until}}, "batchSize": 100_000, "projection": {"o._id": 1}};
    let written = batch(&set.source.run("local", written).await.unwrap());
    let count = i64::try_from(written.len()).unwrap();
    assert!(count >= first, "{count} orders until the position, and {first} before the backup began");
    for password in ["", PASSWORD] {
        let server = Server::new(password).await;
        restore(&set.shop, &server);
        assert_eq!((server.orders_below(i64::MAX).await, server.orders_below(count).await), (count, count), "restored with the password {password:?}");
        let indexes = batch(&server.run("shop", doc! {"listIndexes": "orders"}).await.unwrap());
        assert!(indexes.iter().any(|index| index.get_str("name").is_ok_and(|name| name == "pieces")), "{indexes:?}");
        let users = server.run("admin", doc! {"usersInfo": "root"}).await.unwrap();
        assert_eq!(users.get_array("users").unwrap().len(), 1, "users are in it");
    }
    writer.end(&set.source).await;
}

#[tokio::test]
async fn a_backup_that_fails_leaves_one_sentence_and_nothing_else() {
    let set = Set::of(Server::new(PASSWORD).await).await;
    let failing = |script: &str| {
        instead(&set.shop, script);
        assert!(!set.shop.backup(&set.source, NAME).output().unwrap().status.success());
        assert!(!set.shop.path(&format!("backup/{NAME}")).exists(), "without a manifest it does not exist");
        assert_eq!(holding(&set.shop.path("backup"), "password"), [""; 0], "the login is gone");
        set.shop.message()
    };
    let said = failing("echo '2026-01-01T00:00:00.000+0000\tFailed: error writing data: no space left on device' >&2; exit 1");
    assert!(said.starts_with("mongodump failed: ") && said.contains("no space left on device"), "{said}");
    assert_eq!(said.lines().count(), 1);
    // One that says nothing, and writes half of a document.
    let said = failing("while [ \"$1\" != --out ]; do shift; done; mkdir -p $2/shop; printf '\\100\\000\\000\\000x' >$2/shop/orders.bson; : >$2/oplog.bson");
    assert!(said.contains("shop/orders.bson") && said.contains("it ends within a document"), "{said}");
    let said = failing("while [ \"$1\" != --out ]; do shift; done; mkdir $2");
    assert!(said.contains("oplog.bson"), "{said}");

    // Ended from outside while the tool runs.
    instead(&set.shop, &format!("echo running >{}; exec sleep 60", inside(&set.shop.path("notes")).display()));
    fs::write(set.shop.path("notes"), "").unwrap();
    give(&set.shop.path("notes"));
    let mut agent = set.shop.backup(&set.source, NAME).spawn().unwrap();
    let begun = async || fs::read_to_string(set.shop.path("notes")).is_ok_and(|text| text.contains("running")).then_some(());
    super::common::until(begun, || set.shop.message()).await;
    assert_eq!(holding(&set.shop.path("backup"), "password").len(), 1, "the tool has its login in a file");
    rustix::process::kill_process(rustix::process::Pid::from_child(&agent), rustix::process::Signal::TERM).unwrap();
    assert!(!agent.wait().unwrap().success());
    assert_eq!(holding(&set.shop.path("backup"), "password"), [""; 0], "the login is gone");
    assert!(set.shop.message().contains("SIGTERM"), "{}", set.shop.message());

    fs::remove_file(set.shop.path("instead/mongodump")).unwrap();
    succeed(set.shop.backup(&set.source, NAME));
}
