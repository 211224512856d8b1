//! Response codes, by number and by mnemonic.

use std::fmt;

/// A response code of 12 bits: four in the header and the upper eight in the OPT record (RFC 6891 §6.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rcode(pub u16);

impl Rcode {
    /// No error. With an empty answer section this is NODATA.
    pub const NOERROR: Self = Self(0);
    /// Format error: the server could not interpret the query.
    pub const FORMERR: Self = Self(1);
    /// Server failure: the server could not answer because of a problem of its own.
    pub const SERVFAIL: Self = Self(2);
    /// Name error: the name does not exist, nor does any name below it (RFC 8020).
    pub const NXDOMAIN: Self = Self(3);
    /// Not implemented: the server does not support this kind of query.
    pub const NOTIMP: Self = Self(4);
    /// Refused: the server declines to answer by its own policy.
    pub const REFUSED: Self = Self(5);
    /// The name that a DNAME substitution yields is too long (RFC 6672 §2.2).
    pub const YXDOMAIN: Self = Self(6);
    /// Unsupported EDNS version (RFC 6891 §9).
    pub const BADVERS: Self = Self(16);

    /// The mnemonics that clients and upstreams use, as IANA's registry spells them.
    const NAMED: &'static [(u16, &'static str)] = &[
        (0, "NOERROR"),
        (1, "FORMERR"),
        (2, "SERVFAIL"),
        (3, "NXDOMAIN"),
        (4, "NOTIMP"),
        (5, "REFUSED"),
        (6, "YXDOMAIN"),
        (7, "YXRRSET"),
        (8, "NXRRSET"),
        (9, "NOTAUTH"),
        (10, "NOTZONE"),
        (11, "DSOTYPENI"),
        (16, "BADVERS"),
        (23, "BADCOOKIE"),
    ];

    /// Returns the mnemonic of the code, or `None` if it has none.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Self::NAMED.iter().find(|(number, _)| *number == self.0).map(|(_, name)| *name)
    }
}

/// Writes the mnemonic, or `RCODE` and the number if there is none.
impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "RCODE{}", self.0),
        }
    }
}
