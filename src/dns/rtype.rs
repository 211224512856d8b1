//! Record types, by number and by mnemonic.

use std::fmt;
use std::str::FromStr;

/// A record type or question type (RFC 1035 §3.2.2); any of the 65,536 numbers is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordType(pub u16);

/// Declares a constant for each named type, and the table that maps numbers to names.
macro_rules! record_types {
    ($($name:ident = $number:literal),+ $(,)?) => {
        impl RecordType {
            $(
                #[doc = concat!("The type `", stringify!($name), "`.")]
                pub const $name: Self = Self($number);
            )+

            /// The named types, sorted by number for binary search.
            const NAMED: &'static [(u16, &'static str)] = &[$(($number, stringify!($name))),+];
        }
    };
}

record_types! {
    A = 1, NS = 2, MD = 3, MF = 4, CNAME = 5, SOA = 6, MB = 7, MG = 8, MR = 9, NULL = 10, WKS = 11, PTR = 12,
    HINFO = 13, MINFO = 14, MX = 15, TXT = 16, RP = 17, AFSDB = 18, RT = 21, SIG = 24, KEY = 25, PX = 26, AAAA = 28, LOC = 29,
    NXT = 30, SRV = 33, NAPTR = 35, KX = 36, CERT = 37, DNAME = 39, OPT = 41, DS = 43, SSHFP = 44, IPSECKEY = 45,
    RRSIG = 46, NSEC = 47, DNSKEY = 48, DHCID = 49, NSEC3 = 50, NSEC3PARAM = 51, TLSA = 52, SMIMEA = 53, HIP = 55,
    CDS = 59, CDNSKEY = 60, OPENPGPKEY = 61, CSYNC = 62, ZONEMD = 63, SVCB = 64, HTTPS = 65, SPF = 99, EUI48 = 108,
    EUI64 = 109, TKEY = 249, TSIG = 250, IXFR = 251, AXFR = 252, MAILB = 253, MAILA = 254, ANY = 255, URI = 256,
    CAA = 257,
}

impl RecordType {
    /// Returns the type's mnemonic, or `None` if it has none.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        // A and AAAA are nearly all of the queries, so they skip the search.
        match self {
            Self::A => Some("A"),
            Self::AAAA => Some("AAAA"),
            _ => Self::NAMED.binary_search_by_key(&self.0, |(number, _)| *number).ok().map(|at| Self::NAMED[at].1),
        }
    }

    /// Returns whether the number is a question-only or meta type (RFC 6895 §3.1: 41, 128 to 255). No record has such a
    /// type and no policy can allow one.
    #[must_use]
    pub const fn is_meta(self) -> bool {
        self.0 == 0 || self.0 == 41 || (self.0 >= 128 && self.0 <= 255)
    }
}

/// Writes the mnemonic, or `TYPE` and the number (RFC 3597 §5).
impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

/// The error of text that is not a record type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no record type (write a name such as `AAAA`, or `TYPE` and a number)")]
pub struct UnknownType(String);

/// Reads a mnemonic in any case, or `TYPE123` (RFC 3597 §5).
impl FromStr for RecordType {
    type Err = UnknownType;

    fn from_str(text: &str) -> Result<Self, UnknownType> {
        let upper = text.to_ascii_uppercase();
        if let Some((number, _)) = Self::NAMED.iter().find(|(_, name)| *name == upper) {
            return Ok(Self(*number));
        }
        upper
            .strip_prefix("TYPE")
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .map(Self)
            .ok_or_else(|| UnknownType(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_types_are_sorted_and_round_trip() {
        assert!(RecordType::NAMED.is_sorted());
        for (number, name) in RecordType::NAMED {
            assert_eq!(name.parse(), Ok(RecordType(*number)));
            assert_eq!(RecordType(*number).to_string(), *name);
        }
        assert_eq!("type65400".parse(), Ok(RecordType(65400)));
        assert_eq!(RecordType(65400).to_string(), "TYPE65400");
        assert!("TYPE65536".parse::<RecordType>().is_err());
        assert!("TYPE+1".parse::<RecordType>().is_err());
    }
}
