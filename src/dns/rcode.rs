//! Response codes by number and by name.

use std::fmt;

/// A response code, with the upper eight bits that EDNS adds (RFC 6891 §6.1.3): 0 to 4095.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rcode(pub u16);

impl Rcode {
    /// No error; with an empty answer it is NODATA.
    pub const NOERROR: Self = Self(0);
    /// The message could not be read.
    pub const FORMERR: Self = Self(1);
    /// The server could not answer.
    pub const SERVFAIL: Self = Self(2);
    /// The name does not exist, nor anything below it.
    pub const NXDOMAIN: Self = Self(3);
    /// The server does not know how.
    pub const NOTIMP: Self = Self(4);
    /// The server does not want to.
    pub const REFUSED: Self = Self(5);
    /// A name that a DNAME record makes too long (RFC 6672 §2.2).
    pub const YXDOMAIN: Self = Self(6);
    /// An EDNS version that the server does not speak (RFC 6891 §9).
    pub const BADVERS: Self = Self(16);

    /// The codes that have a name.
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

    /// Returns the name, or nothing for a code that has none.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        Self::NAMED.iter().find(|(number, _)| *number == self.0).map(|(_, name)| *name)
    }
}

/// Writes the code's name, or `RCODE` and its number.
impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "RCODE{}", self.0),
        }
    }
}
