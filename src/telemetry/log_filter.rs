//! The filter of the log: the key `log` of `hostgate.toml`, as levels of targets.
//!
//! `tracing-subscriber` has an `EnvFilter` for this, which also selects by spans and the values of fields. hostgate has no
//! spans, and the regular expressions for those values took 14 s to build (2026-11-30).

use tracing_subscriber::filter::{LevelFilter, Targets};

/// Returns the filter of a configuration without the key: `info`.
pub(crate) fn default() -> Targets {
    beside_h2().with_default(LevelFilter::INFO)
}

/// Returns the filter that `text` describes: `LEVEL` or `TARGET=LEVEL`, with commas between. A target counts for what is
/// below it too, and of two that hold a line the longer one.
///
/// # Errors
///
/// The entry that is neither.
pub(crate) fn parse(text: &str) -> Result<Targets, Error> {
    let mut filter = beside_h2();
    let mut entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).peekable();
    if entries.peek().is_none() {
        return Err(Error::Empty);
    }
    for entry in entries {
        filter = match entry.split_once('=') {
            None => filter.with_default(level(entry)?),
            Some((target, written)) => match target.trim() {
                "" => return Err(Error::NoTarget(entry.to_owned())),
                target => filter.with_target(target, level(written.trim())?),
            },
        };
    }
    Ok(filter)
}

/// Returns a filter without what h2 says, unless a target is added that names it: it warns of single frames, so clients of
/// the API could fill the log.
fn beside_h2() -> Targets {
    Targets::new().with_target("h2", LevelFilter::OFF)
}

/// Reads a level by its name, in upper or lower case.
fn level(name: &str) -> Result<LevelFilter, Error> {
    const LEVELS: [LevelFilter; 6] = [
        LevelFilter::OFF,
        LevelFilter::ERROR,
        LevelFilter::WARN,
        LevelFilter::INFO,
        LevelFilter::DEBUG,
        LevelFilter::TRACE,
    ];
    let found = LEVELS.into_iter().find(|level| level.to_string().eq_ignore_ascii_case(name));
    found.ok_or_else(|| Error::UnknownLevel(name.to_owned()))
}

/// The reason why a text is no filter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// It has no entry.
    #[error("no level")]
    Empty,
    /// `=LEVEL`.
    #[error("`{}`: no target before `=`", .0.escape_debug())]
    NoTarget(String),
    /// A level that does not exist.
    #[error("unknown level `{}`", .0.escape_debug())]
    UnknownLevel(String),
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn the_longest_target_decides_and_h2_is_left_out_unless_named() {
        const CASES: [(&str, &str, Level, bool); 14] = [
            ("info", "hostgate::reload", Level::INFO, true),
            ("info", "hostgate::reload", Level::DEBUG, false),
            ("INFO", "rustls", Level::INFO, true),
            ("off", "hostgate", Level::ERROR, false),
            ("warn,hostgate::reload=debug", "hostgate::reload::watch", Level::DEBUG, true),
            ("hostgate::reload=debug, warn", "hostgate::listen", Level::INFO, false),
            (" warn , hostgate = trace ,", "hostgate::listen", Level::TRACE, true),
            ("trace,hostgate=debug,hostgate::listen=error", "hostgate::listen::udp", Level::WARN, false),
            ("hostgate=info", "rustls", Level::ERROR, false),
            ("info,warn", "hostgate", Level::INFO, false),
            ("trace", "h2::proto", Level::ERROR, false),
            ("trace,h2=warn", "h2::proto", Level::WARN, true),
            ("h2=debug", "h2::proto", Level::DEBUG, true),
            ("info,h2::proto=debug", "h2::proto::streams", Level::DEBUG, true),
        ];
        for (text, target, level, expected) in CASES {
            let filter = parse(text).unwrap();
            assert_eq!(filter.would_enable(target, &level), expected, "{text}: {target} {level}");
        }
    }

    #[test]
    fn default_is_info() {
        assert_eq!(default(), parse("info").unwrap());
    }

    #[test]
    fn what_is_no_filter_is_told_by_its_entry() {
        const CASES: [(&str, &str); 8] = [
            ("", "no level"),
            (" , ", "no level"),
            ("inof", "unknown level `inof`"),
            ("info,hostgate::reload", "unknown level `hostgate::reload`"),
            ("hostgate=", "unknown level ``"),
            ("hostgate=3", "unknown level `3`"),
            ("=info", "`=info`: no target before `=`"),
            ("a=b=info", "unknown level `b=info`"),
        ];
        for (text, expected) in CASES {
            assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
        }
    }
}
