//! The codes of warnings: stable words by which comments accept them, and readers find them in the documentation.

use std::fmt;
use std::str::FromStr;

use super::suggest::closest;

/// Declares the codes with their texts.
macro_rules! codes {
    ($($(#[$doc:meta])+ $name:ident = $text:literal),+ $(,)?) => {
        /// The stable code of a kind of warning. It is printed with the warning, and comments accept warnings by it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[$doc])+ $name),+ }

        impl Code {
            /// The codes in alphabetical order.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Returns the text of the code.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

codes! {
    /// A comment that is malformed or accepts nothing. This warning cannot be accepted.
    Accept = "accept",
    /// A name that is both allowed and denied.
    AllowedAndDenied = "allowed-and-denied",
    /// An entry that another entry covers.
    Covered = "covered",
    /// An entry that occurs twice.
    Duplicate = "duplicate",
    /// A reference to an object that was removed together with its file.
    Gone = "gone",
    /// An included policy that allows everything, of which only the lists count.
    IncludedAllowAll = "included-allow-all",
    /// An included policy with settings other than lists, of which only the lists count.
    IncludedSetting = "included-setting",
    /// A message that does not fit in an answer.
    LongMessage = "long-message",
    /// A configured directory that does not exist.
    NoDirectory = "no-directory",
    /// A policies directory without any policy file.
    NoPolicyFile = "no-policy-file",
    /// A list with too many entries to compare them all.
    NotCompared = "not-compared",
    /// A host that has different owners by path.
    SharedHost = "shared-host",
    /// A wildcard that matches names which strangers can register.
    SharedSuffix = "shared-suffix",
    /// A client with the address from which local programs use the API.
    ShutApi = "shut-api",
    /// A file below `presets/` that is not read.
    StrayPreset = "stray-preset",
    /// A test of an object that no longer exists.
    TestNotRun = "test-not-run",
    /// A policy that nothing refers to.
    Unused = "unused",
    /// A budget that limits nothing.
    UnusedBudget = "unused-budget",
    /// A denied wildcard that does not cover the name itself.
    WildcardAlone = "wildcard-alone",
    /// Clients without a policy for their phase.
    WithoutPolicy = "without-policy",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads the text of a code. The error is the help for an unknown one.
impl FromStr for Code {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let acceptable = || Self::ALL.iter().filter(|code| **code != Self::Accept).map(|code| code.as_str());
        match Self::ALL.iter().find(|code| code.as_str() == text && **code != Self::Accept) {
            Some(code) => Ok(*code),
            None => Err(match closest(text, acceptable()) {
                Some(code) => format!("did you mean `{code}`?"),
                None => format!(
                    "write the code that the warning shows, one of {}",
                    acceptable().collect::<Vec<_>>().join(", ")
                ),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_as_text() {
        for code in Code::ALL.iter().filter(|code| **code != Code::Accept) {
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert!(code.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{code}");
        }
    }
}
