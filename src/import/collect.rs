//! The entries that a reader finds, and what is said about those that it leaves out or changes.

use std::collections::HashSet;

use crate::dns::name::LowerName;
use crate::policy::matching::pattern::{Pattern, Purpose, hostname};

/// True if an entry allows names or denies them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Effect {
    /// It allows.
    Allow,
    /// It denies.
    Deny,
}

/// What an entry covers in the format it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The name; with `--subdomains` everything below as well.
    Name,
    /// The name, and the format says that it is exactly this one.
    Exact,
    /// Every name below, at any depth, without the name itself.
    Below,
    /// Names one label below.
    OneLabel,
    /// The name and every name below.
    Both,
}

/// One place of something that is said, with the text that stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The line, from 1.
    pub(crate) line: u32,
    /// The entry.
    pub(crate) text: String,
}

/// Something that is said about entries: how many there are, and the first of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remark {
    /// What is said, as a sentence without an end.
    pub(crate) what: &'static str,
    /// Entries it is said of.
    pub(crate) count: usize,
    /// The first of them.
    pub(crate) first: Vec<Found>,
}

/// Remarks in the order in which they came up.
#[derive(Debug, Default)]
pub(super) struct Remarks(Vec<Remark>);

impl Remarks {
    /// How many entries of each remark are kept.
    const SHOWN: usize = 3;

    /// Counts an entry, and keeps it if it is among the first.
    pub(super) fn add(&mut self, what: &'static str, line: u32, text: &str) {
        let at = self.0.iter().position(|remark| remark.what == what).unwrap_or_else(|| {
            self.0.push(Remark { what, count: 0, first: Vec::new() });
            self.0.len() - 1
        });
        let remark = &mut self.0[at];
        remark.count += 1;
        if remark.first.len() < Self::SHOWN {
            remark.first.push(Found { line, text: text.to_owned() });
        }
    }

    /// Returns the remarks.
    pub(super) fn into_vec(self) -> Vec<Remark> {
        self.0
    }
}

/// A pattern as it is written for hostgate.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// What it does; `None` where the format does not say.
    effect: Option<Effect>,
    /// The pattern.
    pattern: Pattern,
    /// Where it was read.
    line: u32,
}

/// Takes entries from a reader.
pub(super) struct Collector {
    /// What entries do whose format does not say.
    unsaid: Option<Effect>,
    /// True if a bare name covers everything below as well.
    subdomains: bool,
    /// The patterns so far.
    entries: Vec<Entry>,
    /// Entries that are left out, and why.
    left_out: Remarks,
    /// Entries that mean something else here.
    changed: Remarks,
    /// Entries read, left out or not.
    read: usize,
}

/// What a collector has taken, in order and without repetition.
#[derive(Debug, Default)]
pub(super) struct Collected {
    /// Patterns that allow.
    pub(super) allowed: Vec<Pattern>,
    /// Patterns that deny.
    pub(super) denied: Vec<Pattern>,
    /// Patterns of which neither the format nor the caller says what they do.
    pub(super) unsaid: Vec<Pattern>,
    /// Entries that are left out, and why.
    pub(super) left_out: Vec<Remark>,
    /// Entries that mean something else here.
    pub(super) changed: Vec<Remark>,
    /// Entries that say what others say.
    pub(super) repeated: usize,
    /// Entries read.
    pub(super) read: usize,
}

impl Collector {
    /// Starts without an entry.
    pub(super) fn new(unsaid: Option<Effect>, subdomains: bool) -> Self {
        Self {
            unsaid,
            subdomains,
            entries: Vec::new(),
            left_out: Remarks::default(),
            changed: Remarks::default(),
            read: 0,
        }
    }

    /// Takes an entry about `name`; `effect` is `None` where the format does not say what it does.
    pub(super) fn take(&mut self, line: u32, effect: Option<Effect>, scope: Scope, name: &str) {
        self.read += 1;
        let effect = effect.or(self.unsaid);
        let name = match parse_name(name) {
            Ok(parsed) => parsed,
            Err(why) => {
                self.left_out.add(why, line, name);
                return;
            }
        };
        let scope = match scope {
            Scope::Name if self.subdomains => {
                self.changed.add("names with everything below, as --subdomains says", line, &name.to_string());
                Scope::Both
            }
            Scope::Exact if self.subdomains => {
                self.changed.add(
                    "entries say that they are this name only; --subdomains does not change them",
                    line,
                    &name.to_string(),
                );
                scope
            }
            _ => scope,
        };
        if scope == Scope::OneLabel {
            let what = "wildcards for one label there cover names at every depth here";
            self.changed.add(what, line, &format!("*.{name}"));
        }
        if scope == Scope::Both && !self.subdomains {
            let what = "names with everything below are written as two entries, `x` and `*.x`";
            self.changed.add(what, line, &name.to_string());
        }
        if matches!(scope, Scope::Name | Scope::Exact | Scope::Both) {
            self.entries.push(Entry { effect, pattern: Pattern::Exact(name.clone()), line });
        }
        if matches!(scope, Scope::Below | Scope::OneLabel | Scope::Both) {
            let text = format!("*.{name}");
            match parse(&text, effect) {
                Ok(pattern) => self.entries.push(Entry { effect, pattern, line }),
                Err(why) => self.left_out.add(why, line, &text),
            }
        }
    }

    /// Takes an entry in hostgate's own form, `x` or `*.x`; a bare name covers what `scope` says.
    pub(super) fn take_pattern(&mut self, line: u32, effect: Option<Effect>, scope: Scope, text: &str) {
        match text.strip_prefix("*.") {
            Some(base) => self.take(line, effect, Scope::Below, base),
            None => self.take(line, effect, scope, text),
        }
    }

    /// Leaves an entry out.
    pub(super) fn leave(&mut self, line: u32, why: &'static str, text: &str) {
        self.read += 1;
        self.left_out.add(why, line, text);
    }

    /// Says that an entry that was taken means something else here.
    pub(super) fn remark(&mut self, line: u32, what: &'static str, text: &str) {
        self.changed.add(what, line, text);
    }

    /// Returns what was taken: without repetition, without what another entry covers, without what has no effect.
    pub(super) fn finish(self) -> Collected {
        let Self { unsaid: _, subdomains: _, entries, mut left_out, changed, read } = self;
        let denied: Covered<'_> = entries.iter().filter(|entry| entry.effect == Some(Effect::Deny)).collect();
        let is_exception = |entry: &&Entry| entry.effect == Some(Effect::Allow) && denied.covers(entry);
        let (exceptions, others): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(is_exception);
        let mut last = None;
        for entry in &exceptions {
            // A name and what is below it were one entry.
            if last.replace((entry.line, entry.pattern.name())) != Some((entry.line, entry.pattern.name())) {
                let what = "exceptions from names that are denied: here a denial always wins";
                left_out.add(what, entry.line, &entry.pattern.name().to_string());
            }
        }
        let of = |effect: Option<Effect>| -> Vec<Pattern> {
            let of_effect = || others.iter().copied().filter(move |entry| entry.effect == effect);
            let (covered, mut seen): (Covered<'_>, HashSet<&Pattern>) = (of_effect().collect(), HashSet::new());
            let of_effect = of_effect().filter(|entry| !covered.is_below(entry) && seen.insert(&entry.pattern));
            of_effect.map(|entry| entry.pattern.clone()).collect()
        };
        let (allowed, denied, unsaid) = (of(Some(Effect::Allow)), of(Some(Effect::Deny)), of(None));
        let repeated = others.len() - allowed.len() - denied.len() - unsaid.len();
        let (left_out, changed) = (left_out.into_vec(), changed.into_vec());
        Collected { allowed, denied, unsaid, left_out, changed, repeated, read }
    }
}

/// The names that entries cover.
struct Covered<'e> {
    /// Names by themselves.
    exact: HashSet<&'e LowerName>,
    /// Wire names below which everything is covered.
    below: HashSet<&'e [u8]>,
}

impl<'e> FromIterator<&'e Entry> for Covered<'e> {
    fn from_iter<I: IntoIterator<Item = &'e Entry>>(entries: I) -> Self {
        let mut covered = Self { exact: HashSet::new(), below: HashSet::new() };
        for entry in entries {
            match &entry.pattern {
                Pattern::Exact(name) => covered.exact.insert(name),
                Pattern::Below(name) => covered.below.insert(name.as_wire()),
            };
        }
        covered
    }
}

impl Covered<'_> {
    /// Returns whether everything an entry covers lies below another entry's name.
    fn is_below(&self, entry: &Entry) -> bool {
        // Few lists have wildcards of which one covers another; without any there is nothing to walk.
        !self.below.is_empty()
            && ancestors(entry.pattern.name().as_wire()).any(|ancestor| self.below.contains(ancestor))
    }

    /// Returns whether everything an entry covers is covered.
    fn covers(&self, entry: &Entry) -> bool {
        let same = match &entry.pattern {
            Pattern::Exact(name) => self.exact.contains(name),
            Pattern::Below(name) => self.below.contains(name.as_wire()),
        };
        same || self.is_below(entry)
    }
}

/// Returns the wire names above one, the root left out.
fn ancestors(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(above(wire), |wire| above(wire))
}

/// Returns the wire name one label above; `None` for the root.
fn above(wire: &[u8]) -> Option<&[u8]> {
    let rest = wire.get(1 + usize::from(*wire.first()?)..)?;
    (rest.len() > 1).then_some(rest)
}

/// Reads a hostname; an error is the reason for which it is left out.
fn parse_name(text: &str) -> Result<LowerName, &'static str> {
    if crate::list_format::is_address(text.trim_matches(['[', ']'])) || text.parse::<ipnet::IpNet>().is_ok() {
        return Err("addresses and prefixes: hostgate decides by name (`allowed_cidrs` takes them)");
    }
    let Ok(name) = hostname(text) else { return Err("names that are no hostnames") };
    match parse(&name.to_string(), None) {
        Ok(Pattern::Exact(name)) => Ok(name),
        Ok(Pattern::Below(_)) | Err(_) => Err("names that are no hostnames"),
    }
}

/// Reads a pattern as the loader of lists does it; an error is the reason for which it is left out.
fn parse(text: &str, effect: Option<Effect>) -> Result<Pattern, &'static str> {
    let purpose = if effect == Some(Effect::Deny) { Purpose::Deny } else { Purpose::Allow };
    Pattern::parse_for(text, purpose).map_err(|error| {
        if error.is_everything {
            EVERYTHING
        } else {
            "wildcards on a public suffix, under which anyone can register a name"
        }
    })
}

/// The reason for which an entry for every name is left out.
pub(super) const EVERYTHING: &str =
    "entries that stand for every name: `allow_all = true` allows all, and what is not allowed is denied";
