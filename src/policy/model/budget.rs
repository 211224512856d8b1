//! The budget of a policy: a limit on names and answers that are new to a client, which makes an allowed wildcard a
//! narrow channel to the owner of the names below it.
//!
//! A wildcard (or `allow_all`) lets a client choose names, and their owner choose answers: together they carry any data
//! in both directions. Real work below a wildcard asks for the same names and gets the same answers again and again. So
//! new names and answers are counted, with their octets; [`crate::engine`] keeps the accounts.

use std::fmt;

use crate::dns::name::{DisplayWire, LowerName, Suffixes};

/// The limits, per minute, on what is new to a client below one wildcard or, under `allow_all`, in one registrable
/// domain.
///
/// At once a client may use [`BURST`] minutes' worth of names and their octets, [`ANSWER_BURST`] of answers,
/// [`ADDRESS_BURST`] of addresses and [`REPEAT_BURST`] of repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Budget {
    /// The new names.
    pub names: u32,
    /// The octets of the labels of new names, as far as these are below the wildcard. A label of more than 16 octets
    /// counts as the square of its length divided by 16.
    pub octets: u32,
    /// The questions about known names that have to be asked again, as their answers have left the cache.
    pub repeats: u32,
    /// The octets of new answers: data of types other than A, AAAA and DNSSEC's.
    pub answers: u32,
    /// The octets of new addresses, fewer if their prefixes are known, and of DNSSEC records.
    pub addresses: u32,
    /// The octets of the labels of one name, as far as these are below the wildcard.
    pub longest: u32,
    /// The labels of one name below the wildcard, except for names of IPv6 addresses in `ip6.arpa`.
    pub deepest: u32,
}

/// The minutes' worth of new names that may be used at once.
pub const BURST: u32 = 5;

/// The minutes' worth of octets of answers that may be used at once.
pub const ANSWER_BURST: u32 = 3;

/// The minutes' worth of octets of addresses that may be used at once by whole answers. One more minute's worth is
/// reserved for answers that are cut down to one address.
pub const ADDRESS_BURST: u32 = 4;

/// The minutes' worth of repeats that may be used at once.
pub const REPEAT_BURST: u32 = 1;

/// The budget of a client under `allow_all` over all domains, as a multiple of the budget of one domain.
pub const DOMAINS: u32 = 16;

impl Default for Budget {
    /// Returns a budget that real work does not use up and that is too small for a tunnel: below one wildcard, 4 KiB
    /// out and 5 KiB in within the first minute, 1 KiB in each minute after it.
    fn default() -> Self {
        Self { names: 64, octets: 960, repeats: 200, answers: 384, addresses: 640, longest: 128, deepest: 10 }
    }
}

impl Budget {
    /// Checks the length and the label count of a new name, as far as it is below the scope.
    ///
    /// # Errors
    /// [`Limit::Longest`] or [`Limit::Deepest`]: the name is never asked for.
    pub fn check_form(&self, qname: &LowerName, scope: Scope<'_>) -> Result<(), Limit> {
        /// The suffix of the names of IPv6 addresses, which have 32 labels below it (RFC 3596 §2.5).
        const REVERSE: &[u8] = b"\x03ip6\x04arpa\0";
        let octets = qname.as_wire().len().saturating_sub(scope.wire().len());
        if octets > usize::try_from(self.longest).unwrap_or(usize::MAX) {
            return Err(Limit::Longest);
        }
        // Reverse look-ups of IPv6 addresses are everyday queries, and their 32 labels have one hexadecimal digit each.
        let is_reverse = qname.suffixes().any(|suffix| suffix == REVERSE);
        if !is_reverse && u32::try_from(scope.labels(qname)).unwrap_or(u32::MAX) > self.deepest {
            return Err(Limit::Deepest);
        }
        Ok(())
    }

    /// Returns the limit that refuses a new name even if no budget was used; `None` if the name can pass.
    #[must_use]
    pub fn never(&self, qname: &LowerName, scope: Scope<'_>) -> Option<Limit> {
        let form = self.check_form(qname, scope).err();
        let names = (self.names == 0).then_some(Limit::Names);
        // So many octets are never available at once, however long the client waits.
        let octets = (scope.weight(qname) > self.octets.saturating_mul(BURST)).then_some(Limit::Octets);
        form.or(names).or(octets)
    }

    /// Returns a text about a limit that is reached: the limit, and which queries are still answered.
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

/// Writes the limits in the syntax of a policy file.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, octets, repeats, answers, addresses, longest, deepest } = self;
        write!(f, "{{ names = {names}, octets = {octets}, repeats = {repeats}, answers = {answers}, ")?;
        write!(f, "addresses = {addresses}, longest = {longest}, deepest = {deepest} }}")
    }
}

/// A limit of a budget; the variants are the fields of [`Budget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The number of new names.
    Names,
    /// The octets of new names.
    Octets,
    /// The questions for known names that have to be asked again.
    Repeats,
    /// The octets of new answers.
    Answers,
    /// The octets of new addresses and DNSSEC records.
    Addresses,
    /// The length of a name.
    Longest,
    /// The label count of a name.
    Deepest,
}

impl Limit {
    /// Returns the key of the limit in a policy file's `budget`.
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

/// The names that share one account of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// The names below a wildcard entry, by the wire name of the wildcard.
    Wildcard(&'a [u8]),
    /// The names at or below a registrable domain, under `allow_all`, by the domain's wire name.
    Domain(&'a [u8]),
}

impl<'a> Scope<'a> {
    /// Returns the wire name of the wildcard or the domain.
    #[must_use]
    pub const fn wire(self) -> &'a [u8] {
        match self {
            Self::Wildcard(wire) | Self::Domain(wire) => wire,
        }
    }

    /// Returns the cost of a name: the octets of its labels below the scope, with their length octets.
    ///
    /// A label of more than [`USUAL_LABEL`] octets costs more, by its square, and one that no hostname has costs twice
    /// as much. Everyday labels are short; tunnels make them as long as they can.
    #[must_use]
    pub fn weight(self, qname: &LowerName) -> u32 {
        let is_hostname_label =
            |label: &[u8]| label.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'));
        let weights = qname.labels().take(self.labels(qname)).map(|label| {
            // 1 for the length octet.
            let weight = 1 + label.len().max(label.len() * label.len() / USUAL_LABEL);
            if is_hostname_label(label) { weight } else { 2 * weight }
        });
        u32::try_from(weights.sum::<usize>()).unwrap_or(u32::MAX)
    }

    /// Returns the number of labels of a name below the scope.
    fn labels(self, qname: &LowerName) -> usize {
        qname.suffixes().count().saturating_sub(Suffixes::of(self.wire()).count())
    }
}

/// Writes the scope as text: the wildcard, or the domain "and below".
impl fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wildcard(wire) => write!(f, "*.{}", DisplayWire(wire)),
            Self::Domain(wire) => write!(f, "{} and below", DisplayWire(wire)),
        }
    }
}

/// The length of a label in octets up to which each octet costs one.
const USUAL_LABEL: usize = 16;
