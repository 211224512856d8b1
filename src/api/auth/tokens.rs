//! The bearer tokens of `[control] token_file`, read again whenever the file has changed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use crate::api::auth::TokenRole;
use crate::api::auth::secret_file::{self, FileError};
use crate::document::{Diagnostic, Place, Severity};
use crate::reload::FileVersion;
use crate::reload::out_of_date::Beginning;
use crate::util::hex;
use crate::util::lock;
use crate::util::regular_file::{self, is_resource_shortage};

/// The prefix of a line with the hash of a token.
const HASHED: &str = "sha256:";
/// The shortest token: 96 random bits in hexadecimal would be 24 characters, in base 64 sixteen.
const SHORTEST: usize = 16;
/// The hexadecimal digits of the hash that audit records name a token by.
const NAMED_BY: usize = 8;

/// The token file and its tokens.
pub(in crate::api) struct TokenFile {
    path: PathBuf,
    read: Mutex<ReadTokens>,
    error: FileError,
}

struct ReadTokens {
    /// The version of the file that was read; `None` if a later change might have the same one, or it could not be read.
    version: Option<FileVersion>,
    /// The tokens; `None` while the file is bad: one that was revoked in it must not be accepted.
    tokens: Option<Arc<[Token]>>,
    /// Whether a shortage of the system is the reason for `None`.
    is_shortage: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Token {
    /// The SHA-256 of the token.
    hash: [u8; SHA256_OUTPUT_LEN],
    role: TokenRole,
}

/// The reason why no token is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) enum Unreadable {
    /// The file is bad.
    Bad,
    /// The system has no file descriptors or no memory left, or the disk fails.
    Shortage,
}

impl TokenFile {
    /// Reads the file. While it is bad, no token is accepted.
    pub(in crate::api) fn open(path: &Path) -> Self {
        let read = ReadTokens { version: None, tokens: None, is_shortage: false };
        let file = Self { path: path.to_owned(), read: Mutex::new(read), error: FileError::default() };
        file.look();
        file
    }

    /// Returns the role and the name of a token; `None` if the file does not have it now.
    ///
    /// The file's version is checked each time, which takes a microsecond, so that a removed token is refused at once.
    ///
    /// # Errors
    /// The file is bad or cannot be read.
    pub(in crate::api) fn find(&self, token: &[u8]) -> Result<Option<(TokenRole, String)>, Unreadable> {
        let tokens = self.current()?;
        let hash = digest(&SHA256, token);
        // All tokens are compared in constant time, so that the time says nothing about how close a guess is.
        // The index is selected without a branch, too.
        let mut found = 0_u64;
        for (number, token) in (1..).zip(tokens.iter()) {
            let same: Choice = token.hash.as_slice().ct_eq(hash.as_ref());
            found = u64::conditional_select(&found, &number, same);
        }
        let token = usize::try_from(found).ok().and_then(|number| tokens.get(number.checked_sub(1)?));
        Ok(token.map(|token| {
            let name = format!("{}:{}", token.role.as_str(), &hex(&token.hash)[..NAMED_BY]);
            (token.role, name)
        }))
    }

    pub(in crate::api) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file if it has changed.
    pub(in crate::api) fn look(&self) {
        let _ = self.current();
    }

    /// Returns the error of the file, and the time at which it began.
    pub(in crate::api) fn error(&self) -> Option<(String, Beginning)> {
        self.error.get()
    }

    /// Returns the tokens in the file.
    fn current(&self) -> Result<Arc<[Token]>, Unreadable> {
        let mut read = lock(&self.read);
        let is_same = read.version.is_some() && read.version == FileVersion::at(&self.path);
        if !is_same {
            let (was_read, path) = (read.tokens.is_some(), self.path.display());
            match read.update(&self.path) {
                Ok(is_new) => {
                    if self.error.clear() || is_new && was_read {
                        let count = read.tokens.as_ref().map_or(0, |tokens| tokens.len());
                        tracing::info!(%path, count, "tokens read anew");
                    }
                }
                Err(wrong) => {
                    let error = wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                    if self.error.set(&error) {
                        if read.is_shortage {
                            tracing::error!(%path, error, "token file cannot be read now; nobody is let in to the API");
                        } else {
                            tracing::error!(%path, error, "token file is bad; nobody is let in to the API");
                        }
                    }
                }
            }
        }
        read.tokens.clone().ok_or(if read.is_shortage { Unreadable::Shortage } else { Unreadable::Bad })
    }
}

impl ReadTokens {
    /// Reads the file. Returns whether its tokens are others than before.
    fn update(&mut self, path: &Path) -> Result<bool, Vec<Diagnostic>> {
        let now = SystemTime::now();
        let before = self.tokens.take();
        self.version = None;
        let read = secret_file::read(path);
        self.is_shortage = read.is_err() && regular_file::open(path).is_err_and(|error| is_resource_shortage(&error));
        let (octets, version) = read.map_err(|wrong| vec![*wrong])?;
        let tokens: Arc<[Token]> = parse(path, &octets)?.into();
        // A file that was written just now, or while it was read, is read again the next time.
        self.version = Some(version).filter(|version| !version.is_racy(now) && FileVersion::at(path) == Some(*version));
        let is_new = before.as_ref() != Some(&tokens);
        self.tokens = Some(tokens);
        Ok(is_new)
    }
}

/// Parses a token file. No message contains a part of a token.
fn parse(path: &Path, octets: &[u8]) -> Result<Vec<Token>, Vec<Diagnostic>> {
    let path: Arc<Path> = path.into();
    let mut wrong = Vec::new();
    let mut tokens: Vec<Token> = Vec::new();
    let mut lines: Vec<u32> = Vec::new();
    for (number, line) in (1..).zip(octets.split(|octet| *octet == b'\n')) {
        let column = 1 + line.iter().take_while(|octet| octet.is_ascii_whitespace()).count();
        let place = Place { path: Arc::clone(&path), line: number, column: u32::try_from(column).unwrap_or(u32::MAX) };
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let mut tell = |message: String, help: &str| {
            let (severity, help) = (Severity::Error, Some(help.to_owned()));
            wrong.push(Diagnostic {
                code: None,
                reason: None,
                severity,
                place: place.clone(),
                message,
                help,
                related: Vec::new(),
                excerpt: None,
                unquoted: None,
            });
        };
        match parse_line(line) {
            Ok(token) => {
                if let Some(same) = tokens.iter().position(|known| known.hash == token.hash) {
                    tell(
                        format!("line {} has the same token", lines[same]),
                        "give each its own, or take one of the lines out",
                    );
                } else {
                    tokens.push(token);
                    lines.push(number);
                }
            }
            Err((message, help)) => tell(message.to_owned(), help),
        }
    }
    if tokens.is_empty() && wrong.is_empty() {
        let none = Diagnostic::about_file(&path, "it has no token, so nobody could use the API");
        wrong.push(none.help("write one into it, as `openssl rand -hex 32` makes"));
    }
    if wrong.is_empty() { Ok(tokens) } else { Err(wrong) }
}

/// Parses one line. An error has the reason and the help.
fn parse_line(line: &[u8]) -> Result<Token, (&'static str, &'static str)> {
    const SHAPE: &str = "a line is `[ROLE ]TOKEN`; ROLE is `admin` or `viewer`";
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let (role, token) = match (words.next(), words.next(), words.next()) {
        (Some(token), None, _) | (Some(b"admin"), Some(token), None) => (TokenRole::Admin, token),
        (Some(b"viewer"), Some(token), None) => (TokenRole::Viewer, token),
        (_, Some(_), None) => return Err(("the first word is no role", SHAPE)),
        _ => return Err(("there are more than two words", SHAPE)),
    };
    if let Some(digits) = token.strip_prefix(HASHED.as_bytes()) {
        let help = "write the 64 hexadecimal digits of SHA-256, as `printf %s TOKEN | sha256sum` gives them";
        let hash = unhex(digits).ok_or(("`sha256:` is not followed by a SHA-256", help))?;
        return Ok(Token { hash, role });
    }
    let help = "make one with `openssl rand -hex 32`";
    if !token.iter().all(u8::is_ascii_graphic) {
        return Err(("the token has characters that are not visible ASCII, which no HTTP header carries", help));
    }
    if token.len() < SHORTEST {
        return Err(("the token is shorter than 16 characters, so it could be guessed", help));
    }
    let mut hash = [0; SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest(&SHA256, token).as_ref());
    Ok(Token { hash, role })
}

/// Parses a SHA-256 in hexadecimal.
fn unhex(digits: &[u8]) -> Option<[u8; SHA256_OUTPUT_LEN]> {
    let digit = |octet: u8| char::from(octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut hash = [0; SHA256_OUTPUT_LEN];
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != hash.len() || !rest.is_empty() {
        return None;
    }
    for (octet, [high, low]) in hash.iter_mut().zip(pairs) {
        *octet = digit(*high)? << 4 | digit(*low)?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses a file; returns the roles, or the errors.
    fn read(text: &str) -> Result<Vec<TokenRole>, Vec<String>> {
        let tokens = parse(Path::new("token"), text.as_bytes());
        let roles = tokens.map(|tokens| tokens.iter().map(|token| token.role).collect());
        roles.map_err(|wrong| wrong.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_line_is_a_role_and_a_token_or_its_hash() {
        let text = "# people\r\n\r\n0123456789abcdef\r\n  viewer\tviewer-0123456789 \nadmin admin-0123456789abc\n\
                    viewer sha256:9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08";
        assert_eq!(read(text), Ok(vec![TokenRole::Admin, TokenRole::Viewer, TokenRole::Admin, TokenRole::Viewer]));
        let hashed = parse_line(b"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08").unwrap();
        assert_eq!(hashed.hash.as_slice(), digest(&SHA256, b"test").as_ref());
    }

    #[test]
    fn everything_wrong_is_told_at_once_and_no_token_with_it() {
        let secret = "s3cret-s3cret-s3cret";
        let text = format!(
            "short\n{secret} {secret}\nadmin {secret} {secret}\nsha256:12\nviewer\n{secret}\n  viewer {secret}\n\u{e4}{secret}"
        );
        let told = read(&text).unwrap_err();
        let begins = [
            "token:1:1: the token is shorter than 16 characters",
            "token:2:1: the first word is no role",
            "token:3:1: there are more than two words",
            "token:4:1: `sha256:` is not followed by a SHA-256",
            "token:5:1: the token is shorter than 16 characters",
            "token:7:3: line 6 has the same token",
            "token:8:1: the token has characters that are not visible ASCII",
        ];
        assert_eq!(told.len(), begins.len(), "{told:#?}");
        for (told, begin) in told.iter().zip(begins) {
            assert!(told.starts_with(begin) && !told.contains(secret), "{told}");
        }
        for empty in ["", "\n# nothing\n"] {
            assert!(read(empty).unwrap_err()[0].starts_with("token: it has no token"));
        }
    }
}
