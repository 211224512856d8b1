//! The place and the token of the API for a command: from the command line, else the environment, else the
//! configuration.

use std::path::{Path, PathBuf};

use super::arguments::ApiOptions;
use crate::cli::http::{Api, Place};
use crate::cli::sources::{self, Search};
use crate::document::Diagnostic;

/// The reason why the API cannot be called.
pub(super) enum AccessError {
    /// The options make no sense.
    Usage(String),
    /// The configuration has no API, or no usable token.
    Config(String),
    /// The configuration has errors.
    Files(Vec<Diagnostic>),
    /// The system refused something.
    Failed(String),
}

/// The environment variable that holds a token.
const TOKEN: &str = "HOSTGATE_TOKEN";

/// Returns a client of the API, and a line that names its place and the origin of its token.
///
/// # Errors
/// The place or the token is unknown or unusable.
pub(super) fn open(place: ApiOptions, outer: Option<PathBuf>) -> Result<(Api, String), AccessError> {
    let ApiOptions { url, ca, token_file, config, json: _ } = place;
    let ca = ca.as_deref();
    let token = match &token_file {
        Some(path) => Some((read_token(path)?, path.display().to_string())),
        None => std::env::var(TOKEN).ok().filter(|token| !token.is_empty()).map(|token| (token, TOKEN.to_owned())),
    };
    let (place, (token, origin)) = match (url, token) {
        (Some(url), Some(token)) => (Place::parse(&url, ca).map_err(AccessError::Usage)?, token),
        (url, token) => {
            // The token of the system's configuration is for the system's API, so it is not sent to another place.
            let search = if url.is_some() { Search::Here } else { Search::HereThenSystem };
            let (path, config) = sources::read_config(config.or(outer), search).map_err(AccessError::Files)?;
            let control = config.control.as_ref().ok_or_else(|| missing(path.as_deref(), url.is_some()))?;
            let place = match url {
                Some(url) => Place::parse(&url, ca),
                None => Place::of(control, ca),
            };
            let of_configuration = || Ok((read_token(&control.token_file)?, control.token_file.display().to_string()));
            let (token, mut origin) = token.map_or_else(of_configuration, Ok)?;
            if let Some(path) = &path {
                origin = format!("{origin} ({})", path.display());
            }
            let token = (token, origin);
            (place.map_err(AccessError::Usage)?, token)
        }
    };
    let told = format!("{place}, with the token of {origin}");
    let api = Api::new(place, token).map_err(|error| AccessError::Failed(format!("runtime: {error}")))?;
    Ok((api, told))
}

/// Returns the error of a configuration without `[control]`.
fn missing(path: Option<&Path>, has_place: bool) -> AccessError {
    let file = path.map_or_else(|| "no configuration file here".to_owned(), |path| path.display().to_string());
    if has_place {
        return AccessError::Usage(format!(
            "no token: name one with --token-file FILE or {TOKEN} ({file}, and no [control])"
        ));
    }
    AccessError::Config(match path {
        Some(_) => format!("{file}: the table [control] is missing, so the API is off (or name its place with --url)"),
        None => format!("{}: name one with --config FILE, or the API with --url and --token-file", sources::no_file()),
    })
}

/// Reads the token to send from a token file.
fn read_token(path: &Path) -> Result<String, AccessError> {
    let told = |error: &dyn std::fmt::Display| AccessError::Config(format!("{}: {error}", path.display()));
    let text =
        crate::util::regular_file::read_text(path, crate::bounds::MAX_SECRET).map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                told(&format!("{error} (run this as the user hostgate runs as, or name another --token-file)"))
            }
            _ => told(&error),
        })?;
    first_token(&text)
        .map(str::to_owned)
        .ok_or_else(|| told(&format!("it has only hashes of tokens (name another --token-file, or set {TOKEN})")))
}

/// Returns the first admin token in a token file that is not a hash, or else the first viewer token.
fn first_token(text: &str) -> Option<&str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let tokens: Vec<(bool, &str)> = lines
        .map(|line| match line.split_once(char::is_whitespace) {
            Some((role, token)) => (role == "admin", token.trim_start()),
            None => (true, line),
        })
        .filter(|(_, token)| !token.starts_with("sha256:"))
        .collect();
    // The token of a viewer suffices for `list` and `show`.
    let admin = tokens.iter().find(|(is_admin, _)| *is_admin);
    admin.or_else(|| tokens.first()).map(|(_, token)| *token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_admin_token_is_sent() {
        const CASES: &[(&str, Option<&str>)] = &[
            ("secret\n", Some("secret")),
            ("# a comment\n\n  viewer v\nadmin  a \nb", Some("a")),
            ("viewer v\n", Some("v")),
            ("sha256:00\nadmin sha256:11\nviewer v", Some("v")),
            ("admin sha256:11\nx", Some("x")),
            ("sha256:00\n", None),
            ("", None),
        ];
        for (text, expected) in CASES {
            assert_eq!(first_token(text), *expected, "{text:?}");
        }
    }
}
