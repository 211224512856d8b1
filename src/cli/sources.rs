//! What a command works on: the configuration file and the policies directory.

use std::io;
use std::path::{Path, PathBuf};

use crate::bounds::MAX_FILE;
use crate::config::Config;
use crate::document::Diagnostic;
use crate::regular_file;
use crate::reload::Loaded;

/// The configuration file that is taken without `--config`, if it is there.
const DEFAULT_FILE: &str = "hostgate.toml";

/// Reads the configuration: `path`, else `./hostgate.toml` if it is there, else the defaults.
///
/// # Errors
/// All that is wrong with it.
pub(super) fn read_config(path: Option<PathBuf>) -> Result<(Option<PathBuf>, Config), Vec<Diagnostic>> {
    let path = match path {
        Some(path) => path,
        None if Path::new(DEFAULT_FILE).exists() => PathBuf::from(DEFAULT_FILE),
        None => return Ok((None, Config::default_in(Path::new("")))),
    };
    let text = regular_file::read_text(&path, MAX_FILE).map_err(|error| {
        let help = match error.kind() {
            io::ErrorKind::NotFound => "check the path, or leave --config away to use the defaults",
            io::ErrorKind::PermissionDenied => "make it readable for the user hostgate runs as",
            _ => "it has to be a UTF-8 text file",
        };
        vec![Diagnostic::about_file(&path, format!("the configuration cannot be read: {error}")).help(help)]
    })?;
    let config = Config::parse(&path, text)?;
    Ok((Some(path), config))
}

/// Loads configuration and policies as `serve` does; `policies` replaces what the configuration says.
///
/// # Errors
/// All that is wrong with them.
pub(super) fn load(
    path: Option<PathBuf>,
    policies: Option<PathBuf>,
) -> Result<(Option<PathBuf>, Config, Loaded), Vec<Diagnostic>> {
    let (path, mut config) = read_config(path)?;
    if let Some(policies) = policies {
        config.policies = policies;
    }
    let loaded = Loaded::start(&config)?;
    Ok((path, config, loaded))
}
