//! Positions in an engine's log, and how far one is behind another.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::resources::format_bytes;

/// A position in a source's log. Only positions of one source compare, and only those of the same kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// So many bytes from the beginning.
    Bytes(u64),
    /// Everything that was executed.
    Transactions(TransactionSet),
    /// So many bytes from the beginning of one history of the source, which begins another one after some restarts. Positions of different histories do
    /// not compare: neither reaches the other.
    Offset {
        /// What the source calls this history.
        history: String,
        /// Bytes.
        bytes: u64,
    },
    /// A point in time of the source's clock. Servers that elect among themselves settle by themselves who is ahead of whom.
    Timestamp {
        /// Seconds since 1970.
        seconds: u32,
        /// Counts what was written within that second.
        increment: u32,
    },
}

impl Default for Position {
    fn default() -> Self {
        Self::Bytes(0)
    }
}

impl Position {
    /// Everything up to the other one is behind this one. The default is behind all.
    #[must_use]
    pub fn reaches(&self, other: &Self) -> bool {
        *other == Self::default() || matches!(self.partial_cmp(other), Some(Ordering::Equal | Ordering::Greater))
    }
}

impl Position {
    /// As plain numbers and names: how an engine writes positions of its own kind it says itself.
    #[must_use]
    pub fn plain(&self) -> String {
        match self {
            Self::Bytes(bytes) => bytes.to_string(),
            Self::Transactions(set) => set.text(),
            Self::Offset { history, bytes } => format!("{history}:{bytes}"),
            Self::Timestamp { seconds, increment } => format!("{seconds}:{increment}"),
        }
    }

    /// What the other one holds and this one lacks, in words that stay the same while this one grows: the transactions, or just that it is ahead. None where it
    /// lacks nothing, or where the two do not compare.
    #[must_use]
    pub fn lacks(&self, other: &Self) -> Option<String> {
        match (self, other) {
            (Self::Transactions(mine), Self::Transactions(theirs)) => {
                let missing = theirs.without(mine).text();
                (!missing.is_empty()).then_some(missing)
            }
            (Self::Timestamp { .. }, Self::Timestamp { .. }) => None,
            _ => (self < other).then(|| "it is ahead of the source".to_owned()),
        }
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bytes(mine), Self::Bytes(theirs)) => Some(mine.cmp(theirs)),
            (Self::Transactions(mine), Self::Transactions(theirs)) => mine.partial_cmp(theirs),
            (Self::Offset { history: mine, bytes }, Self::Offset { history: theirs, bytes: other }) if mine == theirs => Some(bytes.cmp(other)),
            (Self::Timestamp { seconds, increment }, Self::Timestamp { seconds: theirs, increment: other }) => Some((seconds, increment).cmp(&(theirs, other))),
            _ => None,
        }
    }
}

/// Transactions by origin, as intervals of their numbers: for MySQL a GTID set (manual, "GTID Format and Storage").
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TransactionSet(BTreeMap<String, Vec<(u64, u64)>>);

impl TransactionSet {
    /// From the text of a GTID set: `uuid:1-5:7, uuid:tag:1-3`. None if it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut all = BTreeMap::<String, Vec<(u64, u64)>>::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (uuid, rest) = part.split_once(':')?;
            let mut origin = uuid.to_lowercase();
            for word in rest.split(':').map(str::trim) {
                if word.starts_with(|first: char| first.is_ascii_digit()) {
                    let (first, last) = word.split_once('-').unwrap_or((word, word));
                    let interval = (first.parse().ok()?, last.parse().ok()?);
                    (interval.0 <= interval.1).then_some(())?;
                    all.entry(origin.clone()).or_default().push(interval);
                } else {
                    origin = format!("{}:{word}", uuid.to_lowercase());
                }
            }
        }
        all.values_mut().for_each(join);
        Some(Self(all))
    }

    /// How many transactions of this set the other one lacks.
    #[must_use]
    pub fn missing_in(&self, other: &Self) -> u64 {
        let none = Vec::new();
        let of = |(origin, mine): (&String, &Vec<(u64, u64)>)| {
            let theirs = other.0.get(origin).unwrap_or(&none);
            let common = |mine: &(u64, u64)| theirs.iter().map(|theirs| (theirs.1.min(mine.1) + 1).saturating_sub(theirs.0.max(mine.0))).sum::<u64>();
            mine.iter().map(|interval| interval.1 - interval.0 + 1 - common(interval)).sum::<u64>()
        };
        self.0.iter().map(of).sum()
    }

    /// The transactions of this set that the other one lacks.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let none = Vec::new();
        let mut left = BTreeMap::new();
        for (origin, mine) in &self.0 {
            let theirs = other.0.get(origin).unwrap_or(&none);
            let mut rest = Vec::new();
            for &(first, last) in mine {
                let mut next = first;
                for &(start, end) in theirs.iter().filter(|(start, end)| *end >= first && *start <= last) {
                    if start > next {
                        rest.push((next, start - 1));
                    }
                    next = next.max(end.saturating_add(1));
                }
                if next <= last {
                    rest.push((next, last));
                }
            }
            if !rest.is_empty() {
                left.insert(origin.clone(), rest);
            }
        }
        Self(left)
    }

    /// The set as it is written, without spaces.
    #[must_use]
    pub fn text(&self) -> String {
        let interval = |(first, last): &(u64, u64)| if first == last { first.to_string() } else { format!("{first}-{last}") };
        let of = |(origin, all): (&String, &Vec<(u64, u64)>)| format!("{origin}:{}", all.iter().map(interval).collect::<Vec<_>>().join(":"));
        self.0.iter().map(of).collect::<Vec<_>>().join(",")
    }
}

/// Sorts intervals and joins those that touch.
fn join(intervals: &mut Vec<(u64, u64)>) {
    intervals.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for &(first, last) in intervals.iter() {
        match joined.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    *intervals = joined;
}

impl PartialOrd for TransactionSet {
    /// By inclusion: sets of which neither holds the other do not compare.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self.missing_in(other), other.missing_in(self)) {
            (0, 0) => Some(Ordering::Equal),
            (0, _) => Some(Ordering::Less),
            (_, 0) => Some(Ordering::Greater),
            _ => None,
        }
    }
}

/// How far a replica is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lag {
    /// So many bytes of the source's log.
    Bytes(u64),
    /// So many transactions.
    Transactions(u64),
    /// So many seconds.
    Seconds(u64),
}

impl Lag {
    /// From the source's position and that of a replica.
    #[must_use]
    pub fn between(source: &Position, replica: &Position) -> Self {
        match (source, replica) {
            (Position::Bytes(source), Position::Bytes(replica)) => Self::Bytes(source.saturating_sub(*replica)),
            (Position::Transactions(source), Position::Transactions(replica)) => Self::Transactions(source.missing_in(replica)),
            (Position::Offset { history, bytes }, Position::Offset { history: theirs, bytes: applied }) if history == theirs => {
                Self::Bytes(bytes.saturating_sub(*applied))
            }
            (Position::Bytes(bytes) | Position::Offset { bytes, .. }, _) => Self::Bytes(*bytes),
            (Position::Timestamp { seconds, .. }, Position::Timestamp { seconds: applied, .. }) => Self::Seconds(u64::from(seconds.saturating_sub(*applied))),
            (Position::Timestamp { seconds, .. }, _) => Self::Seconds(u64::from(*seconds)),
            (Position::Transactions(source), _) => Self::Transactions(source.missing_in(&TransactionSet::default())),
        }
    }

    /// The number, in the unit of its kind.
    #[must_use]
    pub fn amount(self) -> u64 {
        match self {
            Self::Bytes(amount) | Self::Transactions(amount) | Self::Seconds(amount) => amount,
        }
    }

    /// In coarse steps, so that the status of a busy database does not tick: `under 16.0 MiB`, `under 1000 transactions`, `under 20 s`.
    #[must_use]
    pub fn words(self) -> String {
        const MIB: u64 = 1 << 20;
        const BYTES: [u64; 6] = [16 * MIB, 64 * MIB, 256 * MIB, 1024 * MIB, 4096 * MIB, 16384 * MIB];
        const TRANSACTIONS: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
        // A server that is idle writes to its log every ten seconds.
        const SECONDS: [u64; 5] = [20, 60, 300, 1800, 7200];
        let (steps, write): (&[u64], fn(u64) -> String) = match self {
            Self::Bytes(_) => (&BYTES, format_bytes),
            Self::Transactions(_) => (&TRANSACTIONS, |amount| format!("{amount} transactions")),
            Self::Seconds(_) => (&SECONDS, |amount| format!("{amount} s")),
        };
        match steps.iter().find(|step| self.amount() < **step) {
            Some(step) => format!("under {}", write(*step)),
            None => format!("over {}", steps.last().map(|most| write(*most)).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4350f323-7565-4e59-8763-4b1b83a0ce0e";

    #[test]
    fn sets_are_read_as_mysql_writes_them() {
        let text = format!("{A}:1-5:7:domain:1-2,\n{B}:9");
        let set = TransactionSet::parse(&text).unwrap();
        assert_eq!(set.text(), format!("{A}:1-5:7,{A}:domain:1-2,{B}:9"));
        assert_eq!(TransactionSet::parse("").unwrap(), TransactionSet::default());
        assert_eq!(TransactionSet::parse(&format!("{A}:1-3:4-6")).unwrap().text(), format!("{A}:1-6"));
        for wrong in ["x", &format!("{A}:5-1"), &format!("{A}:1-x")] {
            assert_eq!(TransactionSet::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn lag_is_said_in_steps() {
        assert_eq!(Lag::Bytes(0).words(), "under 16.0 MiB");
        assert_eq!(Lag::Bytes(1 << 60).words(), "over 16.0 GiB");
        assert_eq!(Lag::Seconds(3).words(), "under 20 s");
        assert_eq!(Lag::Transactions(1_000).words(), "under 10000 transactions");
    }

    #[test]
    fn positions_of_different_histories_prove_nothing() {
        let at = |history: &str, bytes| Position::Offset { history: history.to_owned(), bytes };
        assert!(at("a", 2).reaches(&at("a", 1)) && at("a", 1).reaches(&at("a", 1)) && !at("a", 1).reaches(&at("a", 2)));
        assert!(!at("a", 2).reaches(&at("b", 1)) && !at("b", 1).reaches(&at("a", 2)) && !Position::Bytes(9).reaches(&at("a", 1)));
        assert!(at("a", 0).reaches(&Position::default()), "the default is behind all");
        assert_eq!(Lag::between(&at("a", 7), &at("a", 3)), Lag::Bytes(4));
        assert_eq!(Lag::between(&at("a", 7), &at("b", 6)), Lag::Bytes(7));
    }

    fn set(numbers: &BTreeSet<u64>) -> TransactionSet {
        let text: Vec<String> = numbers.iter().map(u64::to_string).collect();
        if text.is_empty() { TransactionSet::default() } else { TransactionSet::parse(&format!("{A}:{}", text.join(":"))).unwrap() }
    }

    proptest! {
        #[test]
        fn sets_compare_by_inclusion(a in proptest::collection::btree_set(1u64..20, 0..12), b in proptest::collection::btree_set(1u64..20, 0..12)) {
            let (first, second) = (set(&a), set(&b));
            prop_assert_eq!(first.missing_in(&second), a.difference(&b).count() as u64);
            prop_assert_eq!(first <= second, a.is_subset(&b));
            prop_assert_eq!(first >= second, a.is_superset(&b));
            prop_assert_eq!(first.without(&second), set(&a.difference(&b).copied().collect()));
            prop_assert_eq!(TransactionSet::parse(&first.text()).unwrap(), first);
        }
    }
}
