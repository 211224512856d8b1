//! The presets: policy files that are built into the binary. A file in `presets/` replaces the preset of its name.

use std::hash::RandomState;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use crate::document::{Diagnostic, Source};

use super::read::{Role, read_file};
use crate::policy::model::spec::{FileSpec, PolicySpec};

/// Declares the presets: each name stands for `policies/presets/NAME.toml`.
macro_rules! presets {
    ($($name:literal),+ $(,)?) => {
        /// The presets by name, in alphabetical order, with their text.
        const TEXTS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../policies/presets/", $name, ".toml")))),+];
    };
}

presets!(
    "alpine",
    "anthropic",
    "bun",
    "conda",
    "copilot",
    "crates",
    "cursor",
    "debian",
    "deno",
    "docker",
    "ecr-public",
    "gcr",
    "gemini",
    "github",
    "github-runner",
    "gitlab",
    "go",
    "hashicorp",
    "huggingface",
    "jsr",
    "k8s",
    "maven",
    "mcr",
    "npm",
    "nuget",
    "openai",
    "packagist",
    "playwright",
    "pypi",
    "pytorch",
    "quay",
    "rubygems",
    "ubuntu",
);

/// The folder in the paths of built-in objects.
pub const BUILT_IN: &str = "<built-in>";

/// Returns whether a preset of this name is built in.
pub(crate) fn is_built_in(name: &str) -> bool {
    TEXTS.iter().any(|(known, _)| *known == name)
}

/// Returns the built-in presets, which are parsed once in a process. Their sets share [`shared_hasher`].
pub(crate) fn built_in() -> &'static [Arc<PolicySpec>] {
    static READ: LazyLock<Vec<Arc<PolicySpec>>> = LazyLock::new(|| {
        let read = TEXTS.iter().map(|(name, text)| read_built_in(name, text).0);
        read.flat_map(|spec| spec.policies().to_vec()).collect()
    });
    &READ
}

/// Returns the hash key of all name sets. It is random, chosen once in a process, so that a suffix is hashed once for
/// the sets of presets and of files.
pub(crate) fn shared_hasher() -> &'static RandomState {
    static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    &HASHER
}

/// Parses a built-in preset.
fn read_built_in(name: &str, text: &str) -> (FileSpec, Vec<Diagnostic>) {
    let path: Arc<Path> = Path::new(&format!("{BUILT_IN}/presets/{name}.toml")).into();
    read_file(&Source::new(path, text), Role::Preset(name), shared_hasher())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Remarks, Severity};
    use crate::policy::testing::{Directory, lines, verdict};

    #[test]
    fn presets_have_no_warnings_and_each_entry_has_a_reason() {
        for (name, text) in TEXTS {
            let (spec, diagnostics) = read_built_in(name, text);
            let warned: Vec<_> = diagnostics.iter().filter(|it| it.severity != Severity::Accepted).collect();
            assert!(warned.is_empty(), "{name}: {warned:?}");
            assert_eq!(spec.policies().len(), 1, "{name}");
            let policy = &spec.policies()[0];
            assert_eq!(*policy.id.value, format!("preset:{name}"));
            assert!(!policy.allowed.is_empty() && policy.denied.is_empty() && !policy.allow_all, "{name}");
            assert!(policy.name.as_deref() == Some(name) && policy.description.is_some(), "{name}");
            assert!(text.contains("# Documented: https://"), "{name} names no page that documents it");
            let remarks = Remarks::of(&policy.source);
            for entry in policy.allowed.iter() {
                let (line, _) = entry.line_and_column();
                assert!(remarks.above(line).is_some_and(|reason| reason.len() > 10), "{name}: {entry} has no reason");
            }
            assert!(text.lines().all(|line| line.chars().count() <= 120), "{name}");
        }
        assert!(TEXTS.is_sorted());
        assert!(is_built_in("npm") && !is_built_in("pipy"));
    }

    #[test]
    fn presets_allow_no_shared_suffix_or_host() {
        let mut directory = Directory::of(&[("p.toml", "")]);
        for name in [
            "play.golang.org",
            "play.rust-lang.org",
            "paste.ubuntu.com",
            "gist.github.io",
            "x.s3.amazonaws.com",
            "x.blob.core.windows.net",
            "x.cloudfront.net",
            "x.pkg.dev",
            "upload.pypi.org",
        ] {
            let include = TEXTS.iter().map(|(name, _)| format!("\"preset:{name}\"")).collect::<Vec<_>>().join(", ");
            directory.write("p.toml", &format!("[policy.p]\ninclude = [{include}]\n")).default_policy("p");
            assert_eq!(verdict(directory.library().snapshot(), "192.0.2.1", name), "deny not-listed", "{name}");
        }
    }

    #[test]
    fn shipped_preset_files_replace_the_built_in_ones_without_warnings() {
        let mut directory = Directory::of(&[("p.toml", "")]);
        let include = TEXTS.iter().map(|(name, _)| format!("\"preset:{name}\"")).collect::<Vec<_>>().join(", ");
        directory.write("p.toml", &format!("[policy.p]\ninclude = [{include}]\n")).default_policy("p");
        let warnings = |directory: &Directory| {
            let told = directory.start().unwrap().1;
            lines(told.iter().filter(|it| it.severity != Severity::Accepted))
        };
        assert_eq!(warnings(&directory), [""; 0]);
        for (name, text) in TEXTS {
            directory.write(&format!("presets/{name}.toml"), text);
        }
        assert_eq!(warnings(&directory), [""; 0]);
    }
}
