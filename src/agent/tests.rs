//! The rules of restore and guard, on real directories.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::seed::{await_backup, clear, guard, is_released, release, restore};
use super::{AgentError, Common, Discard, Manifest, Restore, plain_name};
use crate::api::EngineKind;
use crate::engine::Identity;

fn request(root: &Path) -> Restore {
    let backup = root.join("backup/k3x9q2ab-1");
    fs::create_dir_all(backup.join("data/base")).unwrap();
    fs::write(backup.join("data/PG_VERSION"), "17\n").unwrap();
    fs::write(backup.join("data/base/1"), "rows").unwrap();
    let manifest = Manifest {
        engine: "PostgreSQL".into(),
        version: "17".into(),
        position: "0/1".into(),
        bytes: 7,
        checksum: "abc".into(),
        completed_at: "2026-11-24T00:00:00Z".into(),
        note: None,
    };
    fs::write(backup.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    Restore {
        common: Common { engine: EngineKind::PostgreSQL, termination_message: root.join("none") },
        volume: root.join("backup"),
        directory: "k3x9q2ab-1".into(),
        data_directory: root.join("volume/pgdata"),
        final_directory: None,
        identity: Identity::parse("k3x9q2ab").unwrap(),
        replica: 1,
        name: "orders-replica-1".into(),
        primary_host: "orders-primary".into(),
        primary_port: 5432,
    }
}

#[test]
fn a_manifest_that_is_too_long_for_a_message_leaves_out_its_position_and_stays_json() {
    let manifest = |position: usize, note: usize| Manifest {
        engine: "MySQL".into(),
        version: "9.7".into(),
        position: "\u{fc}".repeat(position / 2),
        bytes: 7,
        checksum: "abc".into(),
        completed_at: "2026-11-24T00:00:00Z".into(),
        note: Some("n".repeat(note)),
    };
    let parts = |manifest: &Manifest| {
        let text = manifest.report(4000).unwrap();
        assert!(text.len() <= 4000, "{}", text.len());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        ["position", "note", "checksum"].map(|part| value.get(part).is_some())
    };
    assert_eq!(parts(&manifest(3000, 100)), [true, true, true]);
    assert_eq!(parts(&manifest(5000, 100)), [false, true, true]);
    assert_eq!(parts(&manifest(5000, 5000)), [false, false, true]);
    let whole = manifest(100, 10);
    assert_eq!(serde_json::from_str::<Manifest>(&whole.report(4000).unwrap()).unwrap(), whole);
}

fn finish(request: &Restore, _: &Manifest) -> Result<(), AgentError> {
    let signal = request.data_directory.join("standby.signal");
    fs::write(&signal, "").map_err(AgentError::file("writing", &signal))
}

#[test]
fn a_restore_is_guarded_until_it_is_finished_and_not_done_twice() {
    let root = tempfile::tempdir().unwrap();
    let request = request(root.path());
    let data = &request.data_directory;
    fs::create_dir_all(data).unwrap();
    assert!(guard(data).is_err(), "an empty volume would become a new database");
    restore(&request, true, finish).unwrap();
    guard(data).unwrap();
    assert_eq!(fs::read_to_string(data.join("base/1")).unwrap(), "rows");
    fs::write(data.join("base/1"), "rows written since").unwrap();
    restore(&request, true, |_, _| panic!("done twice")).unwrap();
    assert_eq!(fs::read_to_string(data.join("base/1")).unwrap(), "rows written since");
}

#[test]
fn a_restore_that_was_killed_starts_over_and_is_never_served() {
    let root = tempfile::tempdir().unwrap();
    let request = request(root.path());
    let data = &request.data_directory;
    let killed = restore(&request, true, |_, _| Err(AgentError::Refused("killed".into())));
    assert!(killed.is_err());
    assert!(guard(data).is_err());
    fs::write(data.join("base/half"), "half a file").unwrap();
    restore(&request, true, finish).unwrap();
    guard(data).unwrap();
    assert!(!data.join("base/half").exists());
}

#[test]
fn a_restore_that_has_taken_the_place_of_other_data_is_not_staged_again() {
    let root = tempfile::tempdir().unwrap();
    let mut request = request(root.path());
    let (data, ours) = (request.data_directory.clone(), root.path().join("volume/.understudy-k3x9q2ab"));
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("PG_VERSION"), "16").unwrap();
    (request.data_directory, request.final_directory) = (ours.join("staged"), Some(data.clone()));
    let looked = |request: &Restore, _: &Manifest| {
        assert_eq!(request.served_at(), data);
        Ok(())
    };
    restore(&request, true, looked).unwrap();
    restore(&request, true, |_, _| panic!("done twice")).unwrap();
    assert_eq!(fs::read_to_string(data.join("PG_VERSION")).unwrap(), "16", "the server goes on");
    assert_eq!(fs::metadata(&ours).unwrap().permissions().mode() & 0o777, 0o700);
    // Swapped.
    fs::remove_dir_all(&data).unwrap();
    fs::rename(ours.join("staged"), &data).unwrap();
    let journal =
        r#"{"to": "staged", "phase": "done", "layout": "whole", "seed": {"backup": "k3x9q2ab-1", "replica": 1, "checksum": "abc"}, "dataDirectory": "/"}"#;
    fs::write(ours.join("journal.json"), journal).unwrap();
    restore(&request, true, |_, _| panic!("done twice")).unwrap();
    assert!(!ours.join("staged").exists());
    // Another one comes once that is over.
    request.replica = 2;
    let refused = restore(&request, true, |_, _| panic!("in the middle")).unwrap_err().to_string();
    assert!(refused.contains("record of another swap") && !ours.join("staged").exists(), "{refused}");
    fs::remove_file(ours.join("journal.json")).unwrap();
    restore(&request, true, |_, _| Ok(())).unwrap();
}

#[test]
fn data_that_is_not_ours_is_never_touched() {
    let root = tempfile::tempdir().unwrap();
    let request = request(root.path());
    let data = &request.data_directory;
    fs::create_dir_all(data).unwrap();
    fs::write(data.join("PG_VERSION"), "17").unwrap();
    let refused = restore(&request, true, finish).unwrap_err().to_string();
    assert!(refused.contains("is not empty (PG_VERSION)"), "{refused}");
    assert_eq!(fs::read_dir(data).unwrap().count(), 1);
}

#[test]
fn another_restore_is_not_overwritten() {
    let root = tempfile::tempdir().unwrap();
    let mut request = request(root.path());
    restore(&request, true, finish).unwrap();
    request.replica = 2;
    assert!(restore(&request, true, finish).unwrap_err().to_string().contains("another restore"));
}

#[test]
fn a_backup_without_manifest_does_not_exist() {
    let root = tempfile::tempdir().unwrap();
    let request = request(root.path());
    fs::remove_file(root.path().join("backup/k3x9q2ab-1/manifest.json")).unwrap();
    assert!(restore(&request, true, finish).unwrap_err().to_string().contains("no finished backup"));
    assert!(!request.data_directory.exists(), "nothing was touched");
}

#[tokio::test]
async fn a_restore_waits_while_the_backup_is_being_taken() {
    let root = tempfile::tempdir().unwrap();
    let request = request(root.path());
    let (done, partial) = (root.path().join("backup/k3x9q2ab-1"), root.path().join("backup/k3x9q2ab-1.partial"));
    fs::rename(&done, &partial).unwrap();
    let (brief, begun) = (Duration::from_millis(150), Instant::now());
    let finish_later = async {
        tokio::time::sleep(brief * 4).await;
        fs::rename(&partial, &done).unwrap();
    };
    tokio::join!(await_backup(&request, brief), finish_later);
    assert!(begun.elapsed() >= brief * 4, "it waits beyond its patience for one that is under way");
    restore(&request, true, finish).unwrap();
    // And not for ever for one that is not.
    fs::remove_dir_all(&done).unwrap();
    tokio::time::timeout(brief * 20, await_backup(&request, brief)).await.unwrap();
}

#[test]
fn a_copy_that_is_not_whole_is_not_finished() {
    let root = tempfile::tempdir().unwrap();
    let request = request(root.path());
    fs::write(root.path().join("backup/k3x9q2ab-1/data/base/1"), "row").unwrap();
    assert!(restore(&request, true, finish).is_err());
    assert!(guard(&request.data_directory).is_err());
}

#[test]
fn killed_before_its_last_step_it_starts_over() {
    let root = tempfile::tempdir().unwrap();
    let request = request(root.path());
    let data = &request.data_directory;
    restore(&request, true, finish).unwrap();
    fs::write(data.join("understudy.restoring"), "").unwrap();
    fs::write(data.join("base/1"), "half").unwrap();
    assert!(guard(data).is_err(), "everything is there, but nobody knows whether it has reached the disk");
    restore(&request, true, finish).unwrap();
    guard(data).unwrap();
    assert_eq!(fs::read_to_string(data.join("base/1")).unwrap(), "rows");
}

#[test]
fn what_the_file_system_brings_along_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let request = request(root.path());
    fs::create_dir_all(request.data_directory.join("lost+found")).unwrap();
    restore(&request, true, finish).unwrap();
    guard(&request.data_directory).unwrap();
    assert!(request.data_directory.join("lost+found").exists());
}

#[test]
fn a_volume_that_is_too_small_is_said_with_both_numbers() {
    let root = tempfile::tempdir().unwrap();
    let request = request(root.path());
    let path = root.path().join("backup/k3x9q2ab-1/manifest.json");
    let mut manifest: Manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest.bytes = 3 << 60;
    fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    let said = restore(&request, true, finish).unwrap_err().to_string();
    assert!(said.starts_with("the replica's volume has ") && said.contains(" free, and ") && said.ends_with(" are needed"), "{said}");
    assert!(!request.data_directory.join("base").exists() && guard(&request.data_directory).is_err());
    // One that is in use keeps some.
    manifest.bytes = crate::agent::free_bytes(root.path()).unwrap() - (32 << 20);
    fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    let staged = Restore { data_directory: root.path().join("volume/.understudy-k3x9q2ab/staged"), final_directory: Some("/".into()), ..request };
    let said = restore(&staged, true, finish).unwrap_err().to_string();
    assert!(said.starts_with("the target's volume has "), "{said}");
}

#[test]
fn modes_are_those_of_the_backup() {
    let root = tempfile::tempdir().unwrap();
    let request = request(root.path());
    let set = |path: &str, mode| fs::set_permissions(root.path().join("backup/k3x9q2ab-1/data").join(path), fs::Permissions::from_mode(mode)).unwrap();
    set("base", 0o700);
    set("base/1", 0o600);
    restore(&request, true, finish).unwrap();
    let mode = |path: &str| fs::metadata(request.data_directory.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("base"), mode("base/1")), (0o700, 0o700, 0o600));
}

#[test]
fn links_in_a_backup_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let request = request(root.path());
    std::os::unix::fs::symlink("/etc", root.path().join("backup/k3x9q2ab-1/data/link")).unwrap();
    assert!(restore(&request, true, finish).unwrap_err().to_string().contains("neither file nor directory"));
}

#[test]
fn names_of_directories_stay_where_they_are_put() {
    for name in ["..", "a/b", "", "/etc", "a b"] {
        assert!(plain_name(name).is_err(), "{name}");
    }
    assert!(plain_name("k3x9q2ab-1").is_ok());
}

#[test]
fn only_a_finished_restore_of_this_enabling_is_released_and_then_cleared() {
    let root = tempfile::tempdir().unwrap();
    let request = request(root.path());
    let data = &request.data_directory;
    let other = Identity::parse("aaaaaaaa").unwrap();
    fs::create_dir_all(data).unwrap();
    assert!(release(data, &request.identity).is_err());
    clear(data, &request.identity, |_| panic!("nothing of ours is there")).unwrap();
    restore(&request, true, finish).unwrap();
    assert!(release(data, &other).is_err() && !is_released(data));
    let refused = clear(data, &request.identity, |_| panic!("it follows a source")).unwrap_err().to_string();
    assert!(refused.contains("was not released"), "{refused}");
    // Nor is what was there before deleted then.
    let ours = root.path().join(format!("volume/.understudy-{}", request.identity.word()));
    fs::create_dir_all(ours.join("strays")).unwrap();
    let discard = Discard {
        mount: root.path().join("volume"),
        identity: request.identity.clone(),
        data_directory: Some(data.clone()),
        engine: Some(EngineKind::PostgreSQL),
        termination_message: root.path().join("message"),
    };
    let refused = super::discard(&discard).unwrap_err().to_string();
    assert!(refused.contains("was not released") && ours.join("strays").exists(), "{refused}");
    release(data, &request.identity).unwrap();
    release(data, &request.identity).unwrap();
    assert!(is_released(data));
    clear(data, &other, |_| panic!("it is of another enabling")).unwrap();
    // Copied to another restore, it says nothing.
    fs::write(data.join("understudy.seed.json"), r#"{"backup": "k3x9q2ab-2", "replica": 1, "checksum": "x"}"#).unwrap();
    assert!(!is_released(data));
    fs::copy(data.join("understudy.released.json"), data.join("understudy.seed.json")).unwrap();
    // Cut off in the middle, and again.
    assert!(clear(data, &request.identity, |_| Err(AgentError::Refused("cut off".into()))).is_err());
    assert!(is_released(data));
    fs::remove_file(data.join("understudy.seed.json")).unwrap();
    for _ in 0..2 {
        clear(data, &request.identity, |_| Ok(())).unwrap();
    }
    let left: Vec<_> =
        fs::read_dir(data).unwrap().map(|entry| entry.unwrap().file_name()).filter(|name| name.to_string_lossy().starts_with("understudy")).collect();
    assert!(left.is_empty(), "{left:?}");
}
