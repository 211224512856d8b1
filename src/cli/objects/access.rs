//! Where the API is and by which token: what the command line says, else the environment, else the configuration.

use std::path::{Path, PathBuf};

use super::arguments::Where;
use crate::cli::http::{Api, Place};
use crate::cli::sources::{self, Search};
use crate::document::Diagnostic;

/// Why the API cannot even be asked.
pub(super) enum Wrong {
    /// What the command line says makes no sense.
    Usage(String),
    /// The configuration lacks something.
    Config(String),
    /// The configuration is bad.
    Files(Vec<Diagnostic>),
    /// The system refuses something.
    Failed(String),
}

/// The environment's token.
const TOKEN: &str = "HOSTGATE_TOKEN";

/// Makes what asks the API, and says where that is and whose token it sends.
///
/// # Errors
/// It is unclear where it is or by which token, or one of them is bad.
pub(super) fn open(place: Where, outer: Option<PathBuf>) -> Result<(Api, String), Wrong> {
    let Where { url, ca, token_file, config, json: _ } = place;
    let ca = ca.as_deref();
    let token = match &token_file {
        Some(path) => Some((read_token(path)?, path.display().to_string())),
        None => std::env::var(TOKEN).ok().filter(|token| !token.is_empty()).map(|token| (token, TOKEN.to_owned())),
    };
    let (place, (token, origin)) = match (url, token) {
        (Some(url), Some(token)) => (Place::parse(&url, ca).map_err(Wrong::Usage)?, token),
        (url, token) => {
            // A token of the system's is for the system's API, wherever a command may be sent.
            let search = if url.is_some() { Search::Here } else { Search::HereThenSystem };
            let (path, config) = sources::read_config(config.or(outer), search).map_err(Wrong::Files)?;
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
            (place.map_err(Wrong::Usage)?, token)
        }
    };
    let told = format!("{place}, with the token of {origin}");
    let api = Api::new(place, token).map_err(|error| Wrong::Failed(format!("runtime: {error}")))?;
    Ok((api, told))
}

/// Says what is missing where the configuration has no `[control]`.
fn missing(path: Option<&Path>, has_place: bool) -> Wrong {
    let file = path.map_or_else(|| "no configuration file here".to_owned(), |path| path.display().to_string());
    if has_place {
        return Wrong::Usage(format!(
            "no token: name one with --token-file FILE or {TOKEN} ({file}, and no [control])"
        ));
    }
    Wrong::Config(match path {
        Some(_) => format!("{file}: there is no [control], by which the API is served (or --url says where it is)"),
        None => format!("{}: name one with --config FILE, or the API with --url and --token-file", sources::no_file()),
    })
}

/// Reads the token to send from a token file.
fn read_token(path: &Path) -> Result<String, Wrong> {
    let told = |error: &dyn std::fmt::Display| Wrong::Config(format!("{}: {error}", path.display()));
    let text =
        crate::util::regular_file::read_text(path, crate::bounds::MAX_SECRET).map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => {
                told(&format!("{error} (run this as the user hostgate runs as, or name another --token-file)"))
            }
            _ => told(&error),
        })?;
    first_token(&text).map(str::to_owned).ok_or_else(|| {
        told(&format!("it has no token as it is, only hashes (name another --token-file, or set {TOKEN})"))
    })
}

/// Returns the first token of an admin that stands in a token file as it is, else the first one of a viewer.
fn first_token(text: &str) -> Option<&str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let tokens: Vec<(bool, &str)> = lines
        .map(|line| match line.split_once(char::is_whitespace) {
            Some((role, token)) => (role == "admin", token.trim_start()),
            None => (true, line),
        })
        .filter(|(_, token)| !token.starts_with("sha256:"))
        .collect();
    let admin = tokens.iter().find(|(is_admin, _)| *is_admin);
    admin.or_else(|| tokens.first()).map(|(_, token)| *token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_admins_token_is_sent() {
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
