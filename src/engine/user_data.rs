//! What a server holds that its users made, in words with numbers.

use std::collections::BTreeMap;

use crate::resources::format_bytes;

/// How many are named.
const NAMED: usize = 5;

/// Something that users made: a database with something in it, an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holding {
    /// In bytes, or whatever else it is measured by.
    size: u64,
    words: String,
}

impl Holding {
    /// Something with a size.
    pub fn new(size: u64, words: impl Into<String>) -> Self {
        Self { size, words: words.into() }
    }

    /// Something that is there or not: an account, or what could not be looked into.
    pub fn named(words: impl Into<String>) -> Self {
        Self::new(0, words)
    }

    /// A database by what was found in it: so many of each kind.
    pub fn database(name: &str, kinds: &BTreeMap<String, u64>, bytes: u64) -> Self {
        let mut kinds: Vec<_> = kinds.iter().collect();
        kinds.sort_by_key(|(_, number)| std::cmp::Reverse(**number));
        let kinds = kinds.iter().map(|(kind, number)| counted(**number, kind)).collect::<Vec<_>>().join(", ");
        let size = if bytes == 0 { String::new() } else { format!(" (about {})", format_bytes(rounded(bytes))) };
        Self::new(bytes, format!("database {name}: {kinds}{size}"))
    }
}

/// Bytes to an eighth of the power of two below: what is told goes into a status, which is not to tick with what is written.
fn rounded(bytes: u64) -> u64 {
    let step = bytes.checked_ilog2().map_or(1, |log| 1 << log.saturating_sub(3));
    bytes.next_multiple_of(step)
}

/// A number of things that comes and goes with what is written, in two digits for the same reason.
pub(super) fn about(number: u64, kind: &str) -> String {
    let step = 10_u64.pow(number.checked_ilog10().unwrap_or(0).saturating_sub(1));
    let rounded = number - number % step;
    format!("{}{}", if rounded == number { "" } else { "about " }, counted(rounded, kind))
}

/// A number of things: "1 table", "2 libraries".
pub(super) fn counted(number: u64, kind: &str) -> String {
    match kind.strip_suffix('y') {
        _ if number == 1 => format!("1 {kind}"),
        Some(stem) if !stem.ends_with(['a', 'e', 'o']) => format!("{number} {stem}ies"),
        _ => format!("{number} {kind}s"),
    }
}

/// In words, the largest first; how many there are besides those that are named comes last.
pub(super) fn told(mut held: Vec<Holding>) -> Vec<String> {
    held.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.words.cmp(&b.words)));
    let more = held.len().saturating_sub(NAMED);
    let rest = (more > 0).then(|| format!("{more} more"));
    held.into_iter().take(NAMED).map(|holding| holding.words).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_told_first_and_how_many_are_not_named() {
        let held = |number: u64| (0..number).map(|n| Holding::new(n, format!("database d{n}"))).collect::<Vec<_>>();
        assert_eq!(told(vec![]), [""; 0]);
        assert_eq!(told(held(2)), ["database d1", "database d0"]);
        assert_eq!(told(held(5)).len(), 5);
        let told = told([held(7), vec![Holding::named("role app")]].concat());
        assert_eq!((told.len(), told[0].as_str(), told[5].as_str()), (6, "database d6", "3 more"));
    }

    #[test]
    fn a_database_is_told_by_what_is_in_it() {
        let kinds = [("function", 1), ("table", 12), ("library", 2)].map(|(kind, number)| (kind.to_owned(), number)).into();
        assert_eq!(Holding::database("shop", &kinds, 3 << 20).words, "database shop: 12 tables, 2 libraries, 1 function (about 3.0 MiB)");
        assert_eq!(Holding::database("shop", &[("view".to_owned(), 1)].into(), 0).words, "database shop: 1 view");
        assert_eq!(counted(2, "key"), "2 keys");
    }

    #[test]
    fn what_is_told_does_not_tick() {
        let bytes = [0, 1, 15, 17, 1_350_000_000, 1_450_000_000, u64::MAX >> 1].map(rounded);
        assert_eq!(bytes, [0, 1, 15, 18, 11 << 27, 11 << 27, 1 << 63]);
        let keys = [0, 1, 99, 100, 4187, 4111, u64::MAX].map(|number| about(number, "key"));
        assert_eq!(keys[..4], ["0 keys", "1 key", "99 keys", "100 keys"]);
        assert_eq!(keys[4..], ["about 4100 keys", "about 4100 keys", "about 18000000000000000000 keys"]);
    }
}
