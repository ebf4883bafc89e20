//! GTIDs switched on and off online, one step after the other from whatever is found (manual, "Changing GTID Mode on Online Servers"). Pure.

use super::facts::{Persisted, SourceFacts};
use super::plan::Step;
use crate::api::Change;

/// `gtid_mode` from off to on; the server refuses to skip one (error 1788).
pub const MODES: [&str; 4] = ["OFF", "OFF_PERMISSIVE", "ON_PERMISSIVE", "ON"];
/// `enforce_gtid_consistency` from off to on; with WARN the server says what it would refuse.
pub const ENFORCE: [&str; 3] = ["OFF", "WARN", "ON"];
/// Name of the variable with [`MODES`].
pub const GTID_MODE: &str = "gtid_mode";
/// Name of the variable with [`ENFORCE`].
pub const ENFORCE_CONSISTENCY: &str = "enforce_gtid_consistency";

fn place(ladder: &[&str], value: &str) -> Option<usize> {
    ladder.iter().position(|step| step.eq_ignore_ascii_case(value))
}

fn set(name: &str, value: &str) -> Step {
    Step::SetVariable { name: name.to_owned(), value: value.to_owned() }
}

/// The steps that switch GTIDs on; empty where they are on.
#[must_use]
pub fn up(facts: &SourceFacts) -> Vec<Step> {
    let mut steps = Vec::new();
    if facts.gtid_mode.value == "ON" {
        return steps;
    }
    let enforce = place(&ENFORCE, &facts.enforce.value).unwrap_or(0);
    steps.extend(ENFORCE.iter().skip(enforce + 1).map(|value| set(ENFORCE_CONSISTENCY, value)));
    let mode = place(&MODES, &facts.gtid_mode.value).unwrap_or(0);
    for value in MODES.iter().skip(mode + 1) {
        if *value == "ON" {
            steps.push(Step::AwaitNoAnonymous);
        }
        steps.push(set(GTID_MODE, value));
    }
    steps
}

/// A variable before the first change, as the record has it: `OFF`, or `OFF; persisted: ON`.
#[must_use]
pub fn describe(before: &Persisted) -> String {
    match &before.persisted {
        Some(persisted) => format!("{}; persisted: {persisted}", before.value),
        None => before.value.clone(),
    }
}

/// The same, read back.
#[must_use]
pub fn parse(text: &str) -> Persisted {
    match text.split_once("; persisted: ") {
        Some((value, persisted)) => Persisted { value: value.to_owned(), persisted: Some(persisted.to_owned()) },
        None => Persisted { value: text.to_owned(), persisted: None },
    }
}

/// What the record says of a variable before the first change.
fn before(recorded: &[Change], name: &str) -> Option<Persisted> {
    let change = recorded.iter().find(|change| change.what == format!("setting {name}"))?;
    change.before.as_deref().map(parse)
}

/// The steps that put one variable back, down its ladder and with what was persisted; empty where the value in force is not one that was persisted by us.
fn back(ladder: &[&str], name: &str, now: &Persisted, before: &Persisted) -> Vec<Step> {
    let persisted_by_us = now.persisted.as_ref() == Some(&now.value) && now != before;
    let (Some(from), Some(to)) = (place(ladder, &now.value), place(ladder, &before.value)) else { return Vec::new() };
    if !persisted_by_us || from < to {
        return Vec::new();
    }
    let mut steps: Vec<Step> = ladder.get(to..from).unwrap_or_default().iter().rev().map(|value| set(name, value)).collect();
    if before.persisted.as_deref() != Some(before.value.as_str()) {
        steps.push(Step::RestorePersisted { name: name.to_owned(), before: before.persisted.clone() });
    }
    steps
}

/// The steps that put both variables back to what they were before us.
#[must_use]
pub fn down(facts: &SourceFacts, recorded: &[Change]) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(before) = before(recorded, GTID_MODE) {
        for step in back(&MODES, GTID_MODE, &facts.gtid_mode, &before) {
            if step == set(GTID_MODE, "OFF") {
                steps.push(Step::AwaitNoGtids);
            }
            steps.push(step);
        }
    }
    if let Some(before) = before(recorded, ENFORCE_CONSISTENCY) {
        // With gtid_mode ON, kept by the user, it has to stay.
        let kept = facts.gtid_mode.value == "ON" && !steps.iter().any(|step| matches!(step, Step::SetVariable { name, .. } if name == GTID_MODE));
        if !kept {
            steps.extend(back(&ENFORCE, ENFORCE_CONSISTENCY, &facts.enforce, &before));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(mode: &str, enforce: &str) -> SourceFacts {
        let found = |value: &str| Persisted { value: value.to_owned(), persisted: None };
        SourceFacts { gtid_mode: found(mode), enforce: found(enforce), ..SourceFacts::default() }
    }

    fn words(steps: &[Step]) -> Vec<String> {
        let word = |step: &Step| match step {
            Step::SetVariable { value, name } => format!("{}={value}", name.split('_').next().unwrap()),
            Step::RestorePersisted { name, before } => format!("{}:{before:?}", name.split('_').next().unwrap()),
            Step::AwaitNoAnonymous | Step::AwaitNoGtids => "wait".to_owned(),
            other => panic!("{other:?}"),
        };
        steps.iter().map(word).collect()
    }

    #[test]
    fn the_ladder_begins_where_the_server_stands() {
        let up = |mode, enforce| words(&up(&facts(mode, enforce))).join(" ");
        assert_eq!(up("OFF", "OFF"), "enforce=WARN enforce=ON gtid=OFF_PERMISSIVE gtid=ON_PERMISSIVE wait gtid=ON");
        assert_eq!(up("OFF", "WARN"), "enforce=ON gtid=OFF_PERMISSIVE gtid=ON_PERMISSIVE wait gtid=ON");
        assert_eq!(up("OFF_PERMISSIVE", "ON"), "gtid=ON_PERMISSIVE wait gtid=ON");
        assert_eq!(up("ON_PERMISSIVE", "ON"), "wait gtid=ON");
        assert_eq!(up("ON", "ON"), "");
    }

    #[test]
    fn it_goes_down_to_where_it_was_found_and_no_further() {
        let recorded = |mode: &str, enforce: &str| {
            let change = |name: &str, before: &str| Change { what: format!("setting {name}"), before: Some(before.to_owned()), after: "ON".to_owned() };
            vec![change(GTID_MODE, mode), change(ENFORCE_CONSISTENCY, enforce)]
        };
        let now = |mode: &str, enforce: &str| {
            let ours = |value: &str| Persisted { value: value.to_owned(), persisted: Some(value.to_owned()) };
            SourceFacts { gtid_mode: ours(mode), enforce: ours(enforce), ..SourceFacts::default() }
        };
        let down = |facts: SourceFacts, recorded: Vec<Change>| words(&down(&facts, &recorded)).join(" ");
        assert_eq!(
            down(now("ON", "ON"), recorded("OFF", "OFF")),
            "gtid=ON_PERMISSIVE gtid=OFF_PERMISSIVE wait gtid=OFF gtid:None enforce=WARN enforce=OFF enforce:None"
        );
        assert_eq!(down(now("ON", "ON"), recorded("OFF_PERMISSIVE", "ON")), "gtid=ON_PERMISSIVE gtid=OFF_PERMISSIVE gtid:None enforce:None");
        assert_eq!(down(now("OFF", "WARN"), recorded("OFF", "OFF")), "gtid:None enforce=OFF enforce:None");
        assert_eq!(down(now("ON", "ON"), recorded("OFF; persisted: OFF", "OFF; persisted: OFF")).matches(':').count(), 0, "set back is persisted again");
        assert!(down(now("ON", "ON"), recorded("OFF; persisted: ON", "ON")).contains("gtid=OFF gtid:Some(\"ON\")"));
        assert_eq!(down(now("ON", "ON"), vec![]), "", "what is not on record is not ours");
    }

    #[test]
    fn what_the_user_took_over_stays() {
        let change = |name: &str| Change { what: format!("setting {name}"), before: Some("OFF".to_owned()), after: "ON".to_owned() };
        let recorded = [change(GTID_MODE), change(ENFORCE_CONSISTENCY)];
        // In a configuration file of theirs, and no longer in ours.
        assert_eq!(down(&facts("ON", "ON"), &recorded), vec![]);
        let half = SourceFacts { enforce: Persisted { value: "ON".into(), persisted: Some("ON".into()) }, ..facts("ON", "ON") };
        assert_eq!(down(&half, &recorded), vec![], "gtid_mode ON needs it");
    }

    #[test]
    fn what_was_persisted_before_survives_the_record() {
        for persisted in [None, Some("ON".to_owned())] {
            let before = Persisted { value: "OFF".into(), persisted };
            assert_eq!(parse(&describe(&before)), before);
        }
    }
}
