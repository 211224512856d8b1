//! Collection of entries from a format's reader: deduplicated patterns, and remarks about entries left out or changed.
//!
//! All readers share it, so the meaning of names, wildcards and repetitions is decided in one place.

use std::collections::HashSet;

use crate::dns::name::LowerName;
use crate::policy::matching::pattern::{Pattern, Purpose, hostname};

/// The effect of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Effect {
    /// Names of the entry may be resolved.
    Allow,
    /// Names of the entry are denied.
    Deny,
}

/// The names that an entry covers in its own format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// The name itself; with `--subdomains` all names below it as well.
    Name,
    /// The name itself, as the format defines explicitly.
    Exact,
    /// All names below the name, at any depth, without the name itself.
    Below,
    /// The names one label below the name.
    OneLabel,
    /// The name and all names below it.
    Both,
}

/// An entry that a remark quotes, with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QuotedEntry {
    /// The line number, from 1.
    pub(crate) line: u32,
    /// The text of the entry.
    pub(crate) text: String,
}

/// A remark about entries: the number of entries and the first of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remark {
    /// The words of the remark, a sentence without a full stop.
    pub(crate) what: &'static str,
    /// The number of entries it applies to.
    pub(crate) count: usize,
    /// The first [`Remarks::SHOWN`] entries.
    pub(crate) first: Vec<QuotedEntry>,
}

/// Remarks in the order of their first entries.
#[derive(Debug, Default)]
pub(super) struct Remarks(Vec<Remark>);

impl Remarks {
    /// The number of entries quoted per remark.
    const SHOWN: usize = 3;

    /// Counts an entry under a remark, and quotes it if it is among the first.
    pub(super) fn add(&mut self, what: &'static str, line: u32, text: &str) {
        // A reader has a handful of different remarks, so a linear search is enough.
        let at = self.0.iter().position(|remark| remark.what == what).unwrap_or_else(|| {
            self.0.push(Remark { what, count: 0, first: Vec::new() });
            self.0.len() - 1
        });
        let remark = &mut self.0[at];
        remark.count += 1;
        if remark.first.len() < Self::SHOWN {
            remark.first.push(QuotedEntry { line, text: text.to_owned() });
        }
    }

    pub(super) fn into_vec(self) -> Vec<Remark> {
        self.0
    }
}

/// An entry converted to a pattern of hostgate.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// The effect; `None` if the format does not define it.
    effect: Option<Effect>,
    pattern: Pattern,
    /// The line number of the entry.
    line: u32,
}

/// The receiver of entries from a format's reader.
pub(super) struct Collector {
    /// The effect of entries whose format does not define one.
    default_effect: Option<Effect>,
    /// True if a bare name also covers all names below it.
    subdomains: bool,
    entries: Vec<Entry>,
    /// The entries left out, by reason.
    left_out: Remarks,
    /// The entries whose meaning changed, by reason.
    changed: Remarks,
    /// The number of entries read, including those left out.
    read: usize,
}

/// The result of collecting, in order and without repetition.
#[derive(Debug, Default)]
pub(super) struct Collected {
    /// Patterns of names that are allowed.
    pub(super) allowed: Vec<Pattern>,
    /// Patterns of names that are denied.
    pub(super) denied: Vec<Pattern>,
    /// Patterns whose effect neither the format nor the caller defines.
    pub(super) unknown: Vec<Pattern>,
    /// Remarks about entries that are left out.
    pub(super) left_out: Vec<Remark>,
    /// Remarks about entries whose meaning changed.
    pub(super) changed: Vec<Remark>,
    /// The number of entries that others make redundant.
    pub(super) repeated: usize,
    /// The number of entries read.
    pub(super) read: usize,
}

impl Collector {
    /// Creates a collector without entries.
    pub(super) fn new(default_effect: Option<Effect>, subdomains: bool) -> Self {
        Self {
            default_effect,
            subdomains,
            entries: Vec::new(),
            left_out: Remarks::default(),
            changed: Remarks::default(),
            read: 0,
        }
    }

    /// Adds an entry about `name`; `effect` is `None` if the format does not define it.
    pub(super) fn take(&mut self, line: u32, effect: Option<Effect>, scope: Scope, name: &str) {
        self.read += 1;
        let effect = effect.or(self.default_effect);
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
        // hostgate has no pattern for one label, so the entry is widened, and a remark says so.
        if scope == Scope::OneLabel {
            let what = "wildcards for one label there cover names at every depth here";
            self.changed.add(what, line, &format!("*.{name}"));
        }
        // No single pattern of hostgate covers a name and its subdomains.
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

    /// Adds an entry in hostgate's own form, `x` or `*.x`; a bare name covers `scope`.
    pub(super) fn take_pattern(&mut self, line: u32, effect: Option<Effect>, scope: Scope, text: &str) {
        match text.strip_prefix("*.") {
            Some(base) => self.take(line, effect, Scope::Below, base),
            None => self.take(line, effect, scope, text),
        }
    }

    /// Reports an entry as left out.
    pub(super) fn leave_out(&mut self, line: u32, why: &'static str, text: &str) {
        self.read += 1;
        self.left_out.add(why, line, text);
    }

    /// Reports that an added entry means something else in hostgate.
    pub(super) fn remark(&mut self, line: u32, what: &'static str, text: &str) {
        self.changed.add(what, line, text);
    }

    /// Returns the patterns without repetitions, without those that others cover, and without those that have no
    /// effect.
    pub(super) fn finish(self) -> Collected {
        let Self { default_effect: _, subdomains: _, entries, mut left_out, changed, read } = self;
        let denied: Covered<'_> = entries.iter().filter(|entry| entry.effect == Some(Effect::Deny)).collect();
        // Other systems let exceptions win over denials. Here a denial wins, so they would have no effect.
        let is_exception = |entry: &&Entry| entry.effect == Some(Effect::Allow) && denied.covers(entry);
        let (exceptions, others): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(is_exception);
        let mut last = None;
        for entry in &exceptions {
            // A name and its subdomains may come from one entry, which counts once.
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
        let (allowed, denied, unknown) = (of(Some(Effect::Allow)), of(Some(Effect::Deny)), of(None));
        let repeated = others.len() - allowed.len() - denied.len() - unknown.len();
        let (left_out, changed) = (left_out.into_vec(), changed.into_vec());
        Collected { allowed, denied, unknown, left_out, changed, repeated, read }
    }
}

/// An index of the names that entries cover.
struct Covered<'e> {
    /// The names covered by themselves.
    exact: HashSet<&'e LowerName>,
    /// The wire names below which all names are covered.
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
    /// Returns whether all names of an entry are below another entry's name.
    fn is_below(&self, entry: &Entry) -> bool {
        // Few lists have nested wildcards; without any, the ancestors need no walk.
        !self.below.is_empty()
            && ancestors(entry.pattern.name().as_wire()).any(|ancestor| self.below.contains(ancestor))
    }

    /// Returns whether all names of an entry are covered.
    fn covers(&self, entry: &Entry) -> bool {
        let same = match &entry.pattern {
            Pattern::Exact(name) => self.exact.contains(name),
            Pattern::Below(name) => self.below.contains(name.as_wire()),
        };
        same || self.is_below(entry)
    }
}

/// Returns the ancestors of a wire name, without the root.
fn ancestors(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(above(wire), |wire| above(wire))
}

/// Returns the parent of a wire name; `None` for the root.
fn above(wire: &[u8]) -> Option<&[u8]> {
    let rest = wire.get(1 + usize::from(*wire.first()?)..)?;
    (rest.len() > 1).then_some(rest)
}

/// Parses a hostname. The error is the reason to leave it out.
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

/// Parses a pattern as the loader of lists does. The error is the reason to leave it out.
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

/// The reason to leave out an entry that covers every name.
pub(super) const EVERYTHING: &str =
    "entries that stand for every name: `allow_all = true` allows all, and what is not allowed is denied";
