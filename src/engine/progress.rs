//! How far a copy is, told so that it does not tick.

use crate::resources::format_bytes;

/// How far a copy is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Copied so far.
    pub copied: u64,
    /// To be copied in all, where that is known.
    pub total: Option<u64>,
}

impl Progress {
    /// In percent, in steps of ten: a copy changes the status ten times at most. None where it is not known how much there is to copy.
    #[must_use]
    pub fn percent(self) -> Option<u32> {
        let percent = self.copied.saturating_mul(100).checked_div(self.total?)?;
        u32::try_from(percent.min(100) / 10 * 10).ok()
    }

    /// For people, in the same steps: `40 % of 1.2 GiB`.
    #[must_use]
    pub fn words(self) -> Option<String> {
        Some(format!("{} % of {}", self.percent()?, format_bytes(self.total?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_said_in_steps_of_ten_percent() {
        let of = |copied, total| Progress { copied, total }.percent();
        assert_eq!([of(0, Some(200)), of(99, Some(200)), of(199, Some(200)), of(200, Some(200))], [Some(0), Some(40), Some(90), Some(100)]);
        assert_eq!(of(300, Some(200)), Some(100), "the whole is an estimate");
        assert_eq!((of(7, None), of(7, Some(0))), (None, None));
        assert_eq!(of(u64::MAX, Some(u64::MAX)), Some(0), "too large for a percentage, and no panic");
        assert_eq!(Progress { copied: 600 << 20, total: Some(1 << 30) }.words().as_deref(), Some("50 % of 1.0 GiB"));
        assert_eq!(Progress { copied: 1, total: None }.words(), None);
    }
}
