//! Our line in the text of pg_hba.conf. Pure.

use super::hba_line;
use crate::engine::Identity;

/// Marks a line before which a missing last newline had to be added, so that its removal restores the file to the byte.
const NEWLINE_ADDED: &str = " (+newline)";

/// A word for a shell: in single quotes, whatever it holds.
#[must_use]
pub fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Our line stands in the file: as given, or with the mark of a newline that was added before it.
#[must_use]
pub fn stands_in(file: &str, line: &str) -> bool {
    let marked = format!("{line}{NEWLINE_ADDED}");
    file.split('\n').any(|found| found == line || found == marked)
}

/// The enablings whose line stands in the file.
pub fn identities(file: &str) -> impl Iterator<Item = Identity> {
    file.split('\n').filter_map(|line| Identity::of_role(line.split(' ').nth(2)?).filter(|identity| stands_in(line, &hba_line(identity))))
}

/// The shell command that appends our line to a file with this text. Appended: `COPY … TO 'file'` would truncate first.
#[must_use]
pub fn addition(path: &str, file: &str, line: &str) -> String {
    let text = if file.is_empty() || file.ends_with('\n') { format!("{line}\n") } else { format!("\n{line}{NEWLINE_ADDED}\n") };
    format!("printf %s {} >> {}", shell_word(&text), shell_word(path))
}

/// The shell command that takes our line out of a file with this text: to a file beside, then with `cat` back into place, which keeps inode, owner
/// and mode. The line is found by its content, so that what others write meanwhile stays.
#[must_use]
pub fn removal(path: &str, file: &str, line: &str) -> String {
    let marked = format!("{line}{NEWLINE_ADDED}");
    let (path, beside) = (shell_word(path), shell_word(&format!("{path}.understudy")));
    // `grep` ends its last line with a newline; the file had none, or we gave it one.
    let back = if !file.ends_with('\n') || file.ends_with(&format!("{marked}\n")) { format!("printf %s \"$(cat {beside})\"") } else { format!("cat {beside}") };
    let (line, marked) = (shell_word(line), shell_word(&marked));
    // In the C locale every byte is text; status 1 says that nothing is left.
    format!("LC_ALL=C grep -a -vxF -e {line} -e {marked} {path} > {beside}; test $? -le 1 && {back} > {path}; status=$?; rm -f {beside}; exit $status")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    const LINE: &str = "host replication understudy_k3x9q2ab all scram-sha-256 # ours";

    /// A file at an awkward path.
    fn file(text: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("it's $(a) \"path\".conf");
        fs::write(&path, text).unwrap();
        (root, path)
    }

    fn shell(command: &str) {
        assert!(std::process::Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
    }

    fn text(path: &PathBuf) -> String {
        String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
    }

    fn add(path: &PathBuf) {
        shell(&addition(path.to_str().unwrap(), &text(path), LINE));
    }

    fn remove(path: &PathBuf) {
        shell(&removal(path.to_str().unwrap(), &text(path), LINE));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_was_added_is_removed_to_the_byte(before in proptest::collection::vec(prop_oneof![Just(b'\n'), 1_u8..=255], 0..40)) {
            let (_root, path) = file(&before);
            let inode = fs::metadata(&path).unwrap().ino();
            prop_assert!(!stands_in(&text(&path), LINE));
            add(&path);
            prop_assert!(stands_in(&text(&path), LINE));
            remove(&path);
            prop_assert_eq!(fs::read(&path).unwrap(), before);
            prop_assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
            prop_assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
        }
    }

    #[test]
    fn what_others_wrote_after_our_line_stays() {
        for (before, after, rest) in [("a\n", "b\n", "a\nb\n"), ("a", "b\n", "a\nb\n"), ("a\n", "b", "a\nb"), ("a\n", "\n\n", "a\n\n\n")] {
            let (_root, path) = file(before.as_bytes());
            add(&path);
            fs::write(&path, text(&path) + after).unwrap();
            remove(&path);
            assert_eq!(text(&path), rest);
        }
    }

    #[test]
    fn a_line_that_only_looks_like_ours_is_not() {
        for other in [format!("# {LINE}\n"), format!("{LINE} \n"), format!("{LINE}, too\n")] {
            assert!(!stands_in(&other, LINE));
            let (_root, path) = file(other.as_bytes());
            remove(&path);
            assert_eq!(text(&path), other);
        }
    }

    #[test]
    fn whose_lines_there_are_is_read_from_the_file() {
        let lines = ["k3x9q2ab", "zzzzzzz9"].map(|word| hba_line(&Identity::parse(word).unwrap()));
        let others =
            ["host replication all all scram-sha-256", "host replication understudy_aaaaaaaa all scram-sha-256", "host replication understudy_x all trust"];
        let file = format!("{}\n{}\nhost all{NEWLINE_ADDED}\n{}{NEWLINE_ADDED}\n# {}", lines[0], others.join("\n"), lines[1], lines[1]);
        let found: Vec<_> = identities(&file).map(|identity| identity.word().to_owned()).collect();
        assert_eq!(found, ["k3x9q2ab", "zzzzzzz9"]);
    }

    #[test]
    fn words_survive_the_shell_whatever_they_hold() {
        for text in ["plain", "with space", "it's", "$(reboot)", "a;b", "\\'", "", "two\nlines"] {
            let output = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", shell_word(text))]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
    }
}
