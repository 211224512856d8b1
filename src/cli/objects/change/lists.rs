//! The lists of a policy (hostnames, prefixes) and their edits: additions and removals, or a replacement.

use std::collections::HashSet;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::OWN;
use crate::document::closest;
use crate::policy::matching::pattern::Pattern;

/// An edit of a list.
pub(super) enum Edit<'a, T> {
    Keep,
    Change { add: &'a [T], remove: &'a [T] },
    Replace(&'a [T]),
}

impl<'a, T> Edit<'a, T> {
    /// Chooses the edit by the options given; clap allows only one kind of them.
    pub(super) fn new(add: &'a [T], remove: &'a [T], set: &'a [T], is_emptied: bool) -> Self {
        match (add, remove, set) {
            (_, _, set) if is_emptied || !set.is_empty() => Self::Replace(set),
            ([], [], _) => Self::Keep,
            _ => Self::Change { add, remove },
        }
    }
}

/// The hostnames that a policy allows.
pub(super) struct Names<'a> {
    /// The entries of the policy itself, as written.
    own: Vec<&'a str>,
    /// The entries from its includes and list files.
    elsewhere: Vec<&'a str>,
    /// The policy as the API shows it.
    policy: &'a Value,
}

impl<'a> Names<'a> {
    /// Reads the hostnames from a policy as the API shows it.
    pub(super) fn of(policy: &'a Value) -> Self {
        let all = strings(&policy["egress"]["allowed_hostnames"]);
        if !policy[OWN].is_array() {
            return Self { own: all, elsewhere: Vec::new(), policy };
        }
        let own = strings(&policy[OWN]);
        // The API lists the policy's own entries first.
        let elsewhere = all.into_iter().skip(own.len()).collect();
        Self { own, elsewhere, policy }
    }

    /// Returns the policy's own entries.
    pub(super) fn into_own(self) -> impl Iterator<Item = String> {
        self.own.into_iter().map(str::to_owned)
    }

    /// Returns the entries from includes and list files.
    pub(super) fn elsewhere(&self) -> impl Iterator<Item = &'a str> {
        self.elsewhere.iter().copied()
    }

    /// Returns the policy's own entries after an edit; `None` if they do not change. Adds to `notes` the additions
    /// without effect, and the names that stay allowed or denied regardless.
    ///
    /// # Errors
    /// An argument is not a hostname, or is to be removed and not in the list.
    pub(super) fn edited(&self, edit: &Edit<'_, String>, notes: &mut Vec<String>) -> Result<Option<Value>, String> {
        let (mut after, add, remove): (Vec<&str>, &[String], &[String]) = match edit {
            Edit::Keep => return Ok(None),
            Edit::Replace(set) => (Vec::new(), set, &[]),
            Edit::Change { add, remove } => (self.own.clone(), add, remove),
        };
        let (add, remove) = (parsed(add)?, parsed(remove)?);
        if let Some((text, _)) = add.iter().find(|(_, pattern)| remove.iter().any(|(_, removed)| removed == pattern)) {
            return Err(format!("`{text}` is to be added and to be removed: decide"));
        }
        let known = |names: &[&str]| names.iter().filter_map(|name| Pattern::parse(name).ok()).collect::<HashSet<_>>();
        let (own, elsewhere) = (known(&self.own), known(&self.elsewhere));
        let missing = remove.iter().filter(|(_, pattern)| !own.contains(pattern));
        let missing: Vec<String> =
            missing.map(|(text, pattern)| self.missing(text, elsewhere.contains(pattern))).collect();
        if !missing.is_empty() {
            return Err(missing.join("; "));
        }
        let gone: HashSet<&Pattern> = remove.iter().map(|(_, pattern)| pattern).collect();
        after.retain(|name| Pattern::parse(name).map_or(true, |pattern| !gone.contains(&pattern)));
        let mut there = known(&after);
        for (text, pattern) in &add {
            if own.contains(pattern) && matches!(edit, Edit::Change { .. }) {
                notes.push(format!("`{text}` is in its list already"));
            } else if elsewhere.contains(pattern) && !own.contains(pattern) {
                notes.push(format!("`{text}` is allowed already, by {}", self.from()));
            } else if there.insert(pattern.clone()) {
                // A name that stays keeps its spelling.
                let written = self.own.iter().find(|name| Pattern::parse(name).is_ok_and(|own| own == *pattern));
                after.push(written.copied().unwrap_or(text));
            }
            let denying = strings(&self.policy["denied_hostnames"]).into_iter().find(|denied| covers(denied, pattern));
            notes.extend(denying.map(|denied| format!("`{text}` stays denied, by `{denied}` of denied_hostnames")));
        }
        if self.policy["egress"]["allow_all"] == true {
            notes.push("it has allow_all: every hostname is allowed, whatever its list says".to_owned());
        }
        Ok((after != self.own).then(|| json!(after)))
    }

    /// Returns a note for each removed name that the policy still allows.
    pub(super) fn still_allowed(&self, removed: &[String]) -> impl Iterator<Item = String> {
        let texts = removed.iter().filter_map(|text| Some((text, Pattern::parse(text).ok()?)));
        texts.filter_map(|(text, pattern)| {
            let own = self.own.iter().find(|entry| covers(entry, &pattern)).map(|entry| format!("`{entry}`"));
            let included = || {
                let entry = self.elsewhere.iter().find(|entry| covers(entry, &pattern));
                entry.map(|entry| format!("`{entry}` of {}", self.from()))
            };
            own.or_else(included).map(|entry| format!("`{text}` is still allowed, by {entry}"))
        })
    }

    /// Returns the error for a name that cannot be removed.
    fn missing(&self, text: &str, is_elsewhere: bool) -> String {
        if is_elsewhere {
            return format!("`{text}` is allowed by {}: it can be changed there, in the policy's file", self.from());
        }
        match closest(text, self.own.iter().copied()) {
            Some(near) => format!("`{text}` is not in its list (did you mean `{near}`?)"),
            None => format!("`{text}` is not in its list"),
        }
    }

    /// Returns the source of the entries that are not the policy's own.
    fn from(&self) -> String {
        let include = strings(&self.policy["include"]).join(", ");
        if include.is_empty() { "a list file".to_owned() } else { format!("what it includes ({include})") }
    }
}

/// The prefixes that a policy keeps (`allowed_cidrs`), which DNS does not enforce.
pub(super) struct Prefixes<'a>(Vec<&'a Value>);

impl<'a> Prefixes<'a> {
    /// Reads the prefixes from a policy as the API shows it.
    pub(super) fn of(policy: &'a Value) -> Self {
        Self(policy["egress"]["allowed_cidrs"].as_array().into_iter().flatten().collect())
    }

    /// Returns the prefixes after an edit; `None` if they do not change.
    ///
    /// # Errors
    /// A prefix is to be removed and not in the list.
    pub(super) fn edited(&self, edit: &Edit<'_, IpNet>, notes: &mut Vec<String>) -> Result<Option<Value>, String> {
        let (before, add, remove): (&[&Value], &[IpNet], &[IpNet]) = match edit {
            Edit::Keep => return Ok(None),
            Edit::Replace(set) => (&[], set, &[]),
            Edit::Change { add, remove } => (&self.0, add, remove),
        };
        let net = |entry: &Value| entry["cidr"].as_str().and_then(|text| text.parse::<IpNet>().ok());
        if let Some(absent) = remove.iter().find(|prefix| !before.iter().any(|entry| net(entry) == Some(**prefix))) {
            return Err(format!("`{absent}` is not among its prefixes"));
        }
        let kept = before.iter().filter(|entry| net(entry).is_none_or(|prefix| !remove.contains(&prefix)));
        let mut after: Vec<Value> = kept.map(|entry| (*entry).clone()).collect();
        for prefix in add {
            let is_whole =
                |entry: &Value| net(entry) == Some(*prefix) && entry["ports"].as_array().is_none_or(Vec::is_empty);
            if after.iter().any(is_whole) {
                notes.push(format!("`{prefix}` is among its prefixes already"));
            } else {
                after.push(json!({ "cidr": prefix.to_string() }));
            }
        }
        Ok((!after.iter().eq(self.0.iter().copied())).then_some(after.into()))
    }
}

/// Parses hostnames and wildcards.
///
/// # Errors
/// An argument is neither.
fn parsed(texts: &[String]) -> Result<Vec<(&str, Pattern)>, String> {
    let read = |text: &'_ String| match Pattern::parse(text) {
        Ok(pattern) => Ok(pattern),
        Err(error) => Err(format!("{error}: {}", error.help)),
    };
    texts.iter().map(|text| Ok((text.as_str(), read(text)?))).collect()
}

/// Returns whether an entry matches every name that a pattern matches.
fn covers(entry: &str, pattern: &Pattern) -> bool {
    match (Pattern::parse(entry), pattern) {
        (Ok(entry), Pattern::Exact(name)) => entry.matches(name),
        (Ok(Pattern::Below(base)), Pattern::Below(name)) => name.is_at_or_below(&base),
        _ => false,
    }
}

/// Returns the strings in an array.
fn strings(array: &Value) -> Vec<&str> {
    array.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Edits a policy that has two names of its own, a wildcard of its own, and one from an include.
    fn edited(add: &[&str], remove: &[&str], set: &[&str]) -> (Result<Option<Value>, String>, Vec<String>) {
        let policy = json!({
            "include": ["preset:npm"], "denied_hostnames": ["*.bad.test"],
            "hostgate_own_hostnames": ["A.test", "b.c.test", "*.c.test"],
            "egress": { "allowed_hostnames": ["A.test", "b.c.test", "*.c.test", "*.npmjs.org"] },
        });
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<String>>();
        let (add, remove, set) = (owned(add), owned(remove), owned(set));
        let mut notes = Vec::new();
        (Names::of(&policy).edited(&Edit::new(&add, &remove, &set, false), &mut notes), notes)
    }

    #[test]
    fn edits_compare_names_as_policies_do_and_change_only_own_entries() {
        let three = ["A.test", "b.c.test", "*.c.test"];
        for (add, remove, set, expected, note) in [
            (&["d.test"][..], &[][..], &[][..], Some(json!(["A.test", "b.c.test", "*.c.test", "d.test"])), ""),
            (&["a.TEST."], &[], &[], None, "`a.TEST.` is in its list already"),
            (&["*.npmjs.org"], &[], &[], None, "`*.npmjs.org` is allowed already, by what it includes (preset:npm)"),
            (
                &["x.bad.test", "x.bad.test"],
                &[],
                &[],
                Some(json!(["A.test", "b.c.test", "*.c.test", "x.bad.test"])),
                "stays denied, by `*.bad.test`",
            ),
            (&[], &["a.test"], &[], Some(json!(["b.c.test", "*.c.test"])), ""),
            (&[], &["b.c.test"], &[], Some(json!(["A.test", "*.c.test"])), ""),
            (&["d.test"], &["*.c.test"], &[], Some(json!(["A.test", "b.c.test", "d.test"])), ""),
            (&[], &[], &["a.test", "e.test", "E.test"], Some(json!(["A.test", "e.test"])), ""),
            (&[], &[], &["*.npmjs.org"], Some(json!([])), "is allowed already, by what it includes"),
            (&[], &[], &three, None, ""),
            (&[], &[], &[], None, ""),
        ] {
            let (after, notes) = edited(add, remove, set);
            assert_eq!(after, Ok(expected), "{add:?} {remove:?} {set:?}");
            let notes = notes.join("\n");
            assert!(notes.contains(note) && (note.is_empty() == notes.is_empty()), "{add:?} {remove:?}: {notes}");
        }
    }

    #[test]
    fn names_still_allowed_after_removal_are_reported() {
        let policy = json!({
            "include": ["base"], "hostgate_own_hostnames": ["*.c.test"],
            "egress": { "allowed_hostnames": ["*.c.test", "a.test", "*.x.test"] },
        });
        let removed = ["b.c.test", "A.test", "gone.test", "*.y.x.test"].map(str::to_owned);
        let said: Vec<String> = Names::of(&policy).still_allowed(&removed).collect();
        let expected = [
            "`b.c.test` is still allowed, by `*.c.test`",
            "`A.test` is still allowed, by `a.test` of what it includes (base)",
            "`*.y.x.test` is still allowed, by `*.x.test` of what it includes (base)",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn removing_an_absent_entry_is_an_error() {
        for (add, remove, expected) in [
            (&[][..], &["a.tst"][..], "`a.tst` is not in its list (did you mean `A.test`?)"),
            (&[], &["a.test", "nothing-like-it.test"], "`nothing-like-it.test` is not in its list"),
            (
                &[],
                &["*.npmjs.org"],
                "`*.npmjs.org` is allowed by what it includes (preset:npm): it can be changed there",
            ),
            (&["*.com"], &[], "pattern `*.com`: `com` is a public suffix"),
            (&["a.test"], &["A.test"], "`a.test` is to be added and to be removed"),
        ] {
            let (after, _) = edited(add, remove, &[]);
            let error = after.unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn prefixes_keep_their_ports() {
        let policy = json!({ "egress": { "allowed_cidrs": [
            { "cidr": "192.0.2.0/24", "ports": [{ "port": 443 }] }, { "cidr": "198.51.100.0/24" },
        ] } });
        let edited = |add: &[&str], remove: &[&str], set: &[&str]| {
            let parsed = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
            let (add, remove, set) = (parsed(add), parsed(remove), parsed(set));
            Prefixes::of(&policy).edited(&Edit::new(&add, &remove, &set, false), &mut Vec::new())
        };
        let [first, second] = [0, 1].map(|number| policy["egress"]["allowed_cidrs"][number].clone());
        let third = json!({ "cidr": "203.0.113.0/24" });
        assert_eq!(edited(&["203.0.113.0/24"], &[], &[]), Ok(Some(json!([first, second, third]))));
        assert_eq!(edited(&["198.51.100.0/24"], &[], &[]), Ok(None));
        assert_eq!(edited(&[], &["192.0.2.0/24"], &[]), Ok(Some(json!([second]))));
        assert_eq!(edited(&[], &[], &["203.0.113.0/24"]), Ok(Some(json!([third]))));
        assert_eq!(edited(&[], &["192.0.2.0/25"], &[]), Err("`192.0.2.0/25` is not among its prefixes".to_owned()));
    }
}
