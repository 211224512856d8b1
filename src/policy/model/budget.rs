//! The budget of a policy: how much of what nobody named a client may look up, so that an allowed wildcard is a narrow
//! channel to the owner of the names below it.
//!
//! A wildcard (or `allow_all`) lets a client choose names, and whoever owns them choose answers: that carries any data in
//! both directions. What real work looks up below one wildcard is little that is new: names and answers come again.
//! So what is new is counted, with its octets; [`crate::engine`] keeps the accounts.

use std::fmt;

use crate::dns::name::{DisplayWire, LowerName, Suffixes};

/// What a client may look up below one wildcard (or, under `allow_all`, one registrable domain) that is new, a minute.
///
/// [`BURST`] minutes' worth of names and their octets may be used at once, [`ANSWER_BURST`] of answers, [`ADDRESS_BURST`] of
/// addresses and [`REPEAT_BURST`] of repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Budget {
    /// New names.
    pub names: u32,
    /// Octets of the labels of new names, as far as these are below the wildcard; a label of more than 16 octets counts as
    /// the square of its length by 16.
    pub octets: u32,
    /// Questions about known names that have to be asked again, as their answers are no longer kept.
    pub repeats: u32,
    /// Octets of new answers: data of types other than A, AAAA and DNSSEC's.
    pub answers: u32,
    /// Octets of new addresses, less where their prefixes are known, and of DNSSEC records.
    pub addresses: u32,
    /// Octets of the labels of one name, as far as these are below the wildcard.
    pub longest: u32,
    /// Labels of one name below the wildcard; names of IPv6 addresses in `ip6.arpa` are excepted.
    pub deepest: u32,
}

/// The minutes' worth of a budget that may be used at once.
pub const BURST: u32 = 5;

/// The minutes' worth of octets of answers that may be used at once.
pub const ANSWER_BURST: u32 = 3;

/// The minutes' worth of octets of addresses that may be used at once by whole answers; one more is kept for answers that are
/// cut down to an address.
pub const ADDRESS_BURST: u32 = 4;

/// The minutes' worth of repeats that may be used at once.
pub const REPEAT_BURST: u32 = 1;

/// How many times the budget of one domain a client under `allow_all` has over all domains.
pub const DOMAINS: u32 = 16;

impl Default for Budget {
    /// Returns what real work never uses up and a tunnel cannot live on: below one wildcard, 4 KiB out and 5 KiB in within the
    /// first minute, 1 KiB in each one after it.
    fn default() -> Self {
        Self { names: 64, octets: 960, repeats: 200, answers: 384, addresses: 640, longest: 128, deepest: 10 }
    }
}

impl Budget {
    /// Checks the length and the labels of a new name, as far as it is below the scope.
    ///
    /// # Errors
    /// [`Limit::Longest`] or [`Limit::Deepest`]: the name is never asked for.
    pub fn check_form(&self, qname: &LowerName, scope: Scope<'_>) -> Result<(), Limit> {
        /// The names of IPv6 addresses have 32 labels below this one (RFC 3596 §2.5).
        const REVERSE: &[u8] = b"\x03ip6\x04arpa\0";
        let octets = qname.as_wire().len().saturating_sub(scope.wire().len());
        if octets > usize::try_from(self.longest).unwrap_or(usize::MAX) {
            return Err(Limit::Longest);
        }
        let is_reverse = qname.suffixes().any(|suffix| suffix == REVERSE);
        if !is_reverse && u32::try_from(scope.labels(qname)).unwrap_or(u32::MAX) > self.deepest {
            return Err(Limit::Deepest);
        }
        Ok(())
    }

    /// Returns the limit that never lets a new name pass, whatever was used before.
    #[must_use]
    pub fn never(&self, qname: &LowerName, scope: Scope<'_>) -> Option<Limit> {
        let form = self.check_form(qname, scope).err();
        let names = (self.names == 0).then_some(Limit::Names);
        let octets = (scope.weight(qname) > self.octets.saturating_mul(BURST)).then_some(Limit::Octets);
        form.or(names).or(octets)
    }

    /// Returns a text about a limit that is used up: the limit, and the queries that go on.
    #[must_use]
    pub fn describe(&self, limit: Limit, scope: Scope<'_>) -> String {
        let what = match limit {
            Limit::Names => format!("{} new names a minute at {scope}", self.names),
            Limit::Octets => format!("{} octets of new names a minute at {scope}", self.octets),
            Limit::Repeats => format!("{} questions a minute for known names at {scope}", self.repeats),
            Limit::Answers => format!("{} octets of new answers a minute from {scope}", self.answers),
            Limit::Addresses => {
                format!("{} octets of new addresses and signatures a minute from {scope}", self.addresses)
            }
            Limit::Longest => format!("names of {} octets at {scope}", self.longest),
            Limit::Deepest => format!("names of {} labels at {scope}", self.deepest),
        };
        let until = match limit {
            Limit::Longest | Limit::Deepest => "others are never asked for",
            Limit::Repeats => "until it is released, old answers serve",
            Limit::Answers => "addresses go on, a few at a time",
            Limit::Addresses => "known addresses go on, new ones when it is released",
            Limit::Names | Limit::Octets => "known names go on, new ones when it is released",
        };
        format!("{what}; {until}")
    }
}

/// Writes the limits as they stand in a policy file.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, octets, repeats, answers, addresses, longest, deepest } = self;
        write!(f, "{{ names = {names}, octets = {octets}, repeats = {repeats}, answers = {answers}, ")?;
        write!(f, "addresses = {addresses}, longest = {longest}, deepest = {deepest} }}")
    }
}

/// One of the limits of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// New names.
    Names,
    /// Octets of new names.
    Octets,
    /// Known names that have to be asked for again.
    Repeats,
    /// Octets of new answers.
    Answers,
    /// Octets of new addresses and DNSSEC records.
    Addresses,
    /// The length of a name.
    Longest,
    /// The labels of a name.
    Deepest,
}

impl Limit {
    /// Returns the key of the limit in `budget`.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Names => "names",
            Self::Octets => "octets",
            Self::Repeats => "repeats",
            Self::Answers => "answers",
            Self::Addresses => "addresses",
            Self::Longest => "longest",
            Self::Deepest => "deepest",
        }
    }
}

/// What a budget is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// What is below the wildcard of an entry.
    Wildcard(&'a [u8]),
    /// What is at or below a registrable domain, under `allow_all`.
    Domain(&'a [u8]),
}

impl<'a> Scope<'a> {
    /// Returns the name it is called by, in wire format.
    #[must_use]
    pub const fn wire(self) -> &'a [u8] {
        match self {
            Self::Wildcard(wire) | Self::Domain(wire) => wire,
        }
    }

    /// Returns what the labels of a name below it count: their octets, with their lengths; of a label of more than
    /// [`USUAL_LABEL`] octets more, by the square, and twice as much where it is no hostname's. Everyday labels are short;
    /// tunnels make them as long as they can.
    #[must_use]
    pub fn weight(self, qname: &LowerName) -> u32 {
        let is_plain =
            |label: &[u8]| label.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'));
        let weights = qname.labels().take(self.labels(qname)).map(|label| {
            let weight = 1 + label.len().max(label.len() * label.len() / USUAL_LABEL);
            if is_plain(label) { weight } else { 2 * weight }
        });
        u32::try_from(weights.sum::<usize>()).unwrap_or(u32::MAX)
    }

    /// Returns how many labels of a name are below it.
    fn labels(self, qname: &LowerName) -> usize {
        qname.suffixes().count().saturating_sub(Suffixes::of(self.wire()).count())
    }
}

/// Writes the names it is kept for: an entry of the policy, or a domain and what is below it.
impl fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wildcard(wire) => write!(f, "*.{}", DisplayWire(wire)),
            Self::Domain(wire) => write!(f, "{} and below", DisplayWire(wire)),
        }
    }
}

/// The octets of a label up to which each counts as one.
const USUAL_LABEL: usize = 16;
