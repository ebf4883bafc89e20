//! Our line in the text of pg_hba.conf. Pure.

/// Marks a line before which a missing last newline had to be added, so that its removal restores the file to the byte.
const NEWLINE_ADDED: &str = " (+newline)";

/// Our line as it stands in the file: as given, or with the mark of a newline that was added before it.
#[must_use]
pub fn stands_in(file: &str, line: &str) -> Option<String> {
    let marked = format!("{line}{NEWLINE_ADDED}");
    file.lines().find(|found| *found == line || *found == marked).map(str::to_owned)
}

/// What to append to the file.
#[must_use]
pub fn addition(file: &str, line: &str) -> String {
    if file.is_empty() || file.ends_with('\n') { format!("{line}\n") } else { format!("\n{line}{NEWLINE_ADDED}\n") }
}

/// The file without our line; none if the line does not stand in it.
#[must_use]
pub fn without(file: &str, line: &str) -> Option<String> {
    let found = stands_in(file, line)?;
    let start = file.find(&found)?;
    let mut end = start + found.len();
    if file.get(end..).is_some_and(|rest| rest.starts_with('\n')) {
        end += 1;
    }
    let mut before = file.get(..start)?;
    let after = file.get(end..)?;
    if found.ends_with(NEWLINE_ADDED) && after.is_empty() {
        before = before.strip_suffix('\n').unwrap_or(before);
    }
    Some(format!("{before}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: &str = "host replication understudy_k3x9q2ab all scram-sha-256 # ours";

    proptest! {
        #[test]
        fn what_was_added_is_removed_to_the_byte(file in "([ -~]{0,20}\n){0,5}[ -~]{0,20}") {
            let added = format!("{file}{}", addition(&file, LINE));
            prop_assert!(stands_in(&added, LINE).is_some());
            prop_assert_eq!(without(&added, LINE), Some(file));
        }
    }

    #[test]
    fn a_line_that_others_wrote_after_ours_stays() {
        let file = format!("a\n{}b\n", addition("a\n", LINE));
        assert_eq!(without(&file, LINE).as_deref(), Some("a\nb\n"));
        assert_eq!(without("a\n", LINE), None);
        assert_eq!(stands_in(&format!("# {LINE}\n"), LINE), None);
    }
}
