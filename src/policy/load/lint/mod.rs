//! Lints: warnings about policies that are valid but probably not intended. Lints about one policy's entries are in
//! [`entries`]; those that depend on several files are here, and run again for the files that a change affects.

use std::collections::HashSet;
use std::sync::Arc;

use crate::document::{Code, Diagnostic, Findings, Placed, Source, quoted};

use super::compile::Compiled;
use super::preset::is_built_in;
use super::references::Links;
use crate::policy::model::bindings::{Bindings, WithoutPolicy};
use crate::policy::model::spec::{ClientSpec, FileSpec, PRESET_PREFIX, Phase, PolicySpec, UNRESTRICTED};
use crate::policy::snapshot::Snapshot;

mod contradictions;
mod entries;
mod lists;

pub(crate) use self::entries::policy;
pub(crate) use self::lists::of_lists;

/// The state that lints about several files depend on.
pub(crate) struct CrossFileLints<'a> {
    pub(crate) compiled: &'a Compiled,
    pub(crate) snapshot: &'a Snapshot,
    /// The references between objects.
    pub(crate) links: &'a Links,
    /// The references of hostgate.toml to policies.
    pub(crate) bindings: &'a Bindings,
}

impl CrossFileLints<'_> {
    /// Adds the warnings about a file that depend on other files.
    pub(crate) fn warn_of_file(&self, file: &FileSpec, diagnostics: &mut Vec<Diagnostic>) {
        // Nobody wrote the client of held addresses; the fault of its file is reported.
        if file.clients.iter().any(ClientSpec::is_held) {
            return;
        }
        let mut findings = Findings::of(file.source.accepts());
        self.unused(file, &mut findings);
        self.open_blueprints(file, &mut findings);
        self.gone(file, &mut findings);
        for policy in file.policies() {
            self.included(policy, &mut findings);
            self.unused_budget(policy, &mut findings);
        }
        diagnostics.extend(findings.into_diagnostics(file.source.path()));
    }

    /// Warns about includes of policies that have settings other than lists, if the including policy does not set the
    /// same keys. Settings apply to a policy's own clients and are not included.
    fn included(&self, policy: &PolicySpec, findings: &mut Findings) {
        for included in &policy.include {
            let Some(definition) = self.compiled.policy(&included.value) else { continue };
            let id = quoted(&included.value);
            if definition.allow_all() && !policy.allow_all {
                findings.warn(Code::IncludedAllowAll, included.span, || {
                    let message = format!("{id} allows all, but only its lists are included");
                    let help = "write `allow_all = true` here if that is meant";
                    policy.source.warning(included.span, message).help(help)
                });
            }
            let settings = definition.spec.settings.iter().filter(|setting| policy.setting(setting.value).is_none());
            let settings: Vec<_> = settings.map(|setting| (quoted(setting.value), setting.span)).collect();
            if let Some((_, first)) = settings.first() {
                findings.warn(Code::IncludedSetting, included.span, || {
                    let keys = settings.iter().map(|(key, _)| &**key).collect::<Vec<_>>().join(", ");
                    let message = format!("{id} sets {keys}, but only its lists are included");
                    let place = definition.spec.source.place(first.start);
                    let warning = policy.source.warning(included.span, message).help("set them here too if needed");
                    warning.related(place, "set here")
                });
            }
        }
    }

    /// Warns about a budget without effect: the policy has no `allow_all`, and neither it nor its includes have a
    /// wildcard. With an include that is gone, this is unknown.
    fn unused_budget(&self, policy: &PolicySpec, findings: &mut Findings) {
        let (Some(span), Some(compiled)) = (policy.setting("budget"), self.compiled.policy(&policy.id.value)) else {
            return;
        };
        if policy.allow_all || compiled.allowed().has_wildcards() || compiled.gone().is_some() {
            return;
        }
        findings.warn(Code::UnusedBudget, span, || {
            let message = "`budget` is for names below a wildcard and for `allow_all`, and there is neither here";
            policy
                .source
                .warning(span, message)
                .help("remove it; a policy that includes this one does not get it either")
        });
    }

    /// Returns whether anything refers to a policy.
    pub(crate) fn is_used(&self, policy: &str) -> bool {
        !self.links.uses(policy).is_none() || self.bindings.refer_to(policy)
    }

    /// Warns about policies that nothing refers to, and about preset files that nothing includes and that replace no
    /// built-in preset.
    fn unused(&self, file: &FileSpec, findings: &mut Findings) {
        // Policies of the API, which have a record `[api.ID]`, are left out: the API creates a policy before the
        // objects that refer to it.
        let recorded: HashSet<&str> = file.records.iter().map(|record| &*record.id.value).collect();
        let unused = file.policies().iter().filter(|policy| !self.is_used(&policy.id.value));
        for policy in unused.filter(|policy| !recorded.contains(&*policy.id.value)) {
            let (what, help) = match policy.id.value.strip_prefix(PRESET_PREFIX) {
                Some(name) if is_built_in(name) => continue,
                Some(name) => {
                    ("preset", format!("no preset of this name is built in; include it as \"{PRESET_PREFIX}{name}\""))
                }
                None => {
                    ("policy", "name it in a client, a blueprint, an include or hostgate.toml, or remove it".to_owned())
                }
            };
            findings.warn(Code::Unused, policy.id.span, || {
                let message = format!("nothing refers to {what} {}", quoted(&policy.id.value));
                policy.source.warning(policy.id.span, message).help(help)
            });
        }
    }

    /// Warns about blueprints without a policy for a phase in which they have clients.
    fn open_blueprints(&self, file: &FileSpec, findings: &mut Findings) {
        for spec in file.blueprints() {
            let without = match (&self.bindings.default_policy, self.bindings.without_policy) {
                (Some(_), _) => return,
                (None, WithoutPolicy::Deny) => "denied everything",
                (None, WithoutPolicy::Unrestricted) => "unrestricted",
            };
            for phase in [Phase::Build, Phase::Runtime].into_iter().filter(|phase| spec.policy(*phase).is_none()) {
                let first = self.links.inheriting(&spec.id.value, phase).next();
                let first = first.and_then(|(file, number)| {
                    let client = file.clients.get(usize::try_from(number).ok()?)?;
                    Some((&file.source, client))
                });
                let Some((source, client)) = first else { continue };
                findings.warn(Code::WithoutPolicy, spec.id.span, || {
                    let (id, key) = (quoted(&spec.id.value), phase.policy_key());
                    let message =
                        format!("blueprint {id} has no `{key}`, so its {} clients are {without}", phase.as_str());
                    let place = source.place(client.id.span.start);
                    let warning = spec.source.warning(spec.id.span, message);
                    let help = format!(
                        "add `{key}` (\"{UNRESTRICTED}\" allows everything), or set `default_policy` or \
                         `without_policy` in hostgate.toml"
                    );
                    warning.help(help).related(place, format!("such as client {}", quoted(&client.id.value)))
                });
            }
        }
    }

    /// Warns about references to objects whose file was deleted. The clients concerned are denied.
    fn gone(&self, file: &FileSpec, findings: &mut Findings) {
        let mut warn = |source: &Source, id: &Placed<Arc<str>>, who: &dyn Fn() -> String| {
            findings.warn(Code::Gone, id.span, || gone(source, id, &who()));
        };
        for policy in file.policies() {
            for id in policy.include.iter().filter(|id| self.is_gone(&id.value)) {
                warn(&policy.source, id, &|| format!("clients of policy {} are", quoted(&policy.id.value)));
            }
        }
        for blueprint in file.blueprints() {
            let policies = blueprint.build_policy.iter().chain(&blueprint.runtime_policy);
            for id in policies.filter(|id| self.is_gone(&id.value)) {
                warn(&blueprint.source, id, &|| format!("clients of blueprint {} are", quoted(&blueprint.id.value)));
            }
        }
        for client in &file.clients {
            let reference = match (&client.policy, &client.blueprint) {
                (Some(id), _) => Some(id).filter(|id| self.is_gone(&id.value)),
                (None, Some(id)) => Some(id).filter(|id| self.snapshot.blueprint(&id.value).is_none()),
                (None, None) => None,
            };
            if let Some(id) = reference {
                warn(&file.source, id, &|| format!("client {} is", quoted(&client.id.value)));
            }
        }
    }

    /// Adds the warnings about policies that hostgate.toml names and whose file was deleted.
    pub(crate) fn warn_of_bindings(&self, diagnostics: &mut Vec<Diagnostic>) {
        for binding in self.bindings.iter().filter(|binding| self.is_gone(&binding.policy)) {
            if let Some((source, span)) = &binding.written {
                let reference = Placed { value: Arc::clone(&binding.policy), span: *span };
                diagnostics.push(
                    gone(source, &reference, "the clients it applies to are").unless_accepted(Code::Gone, source),
                );
            }
        }
    }

    /// Returns whether no policy has this id. For a reference in force, this means that the policy's file was deleted:
    /// any other unknown id is an error.
    fn is_gone(&self, policy: &str) -> bool {
        policy != UNRESTRICTED && self.compiled.policy(policy).is_none()
    }
}

/// Returns the warning about a reference to an object whose file was deleted.
fn gone(source: &Source, reference: &Placed<Arc<str>>, who: &str) -> Diagnostic {
    let message = format!("{} is gone with its file: {who} denied everything", quoted(&reference.value));
    source.warning(reference.span, message).help("define it again, or refer to something else")
}

#[cfg(test)]
mod tests {
    use crate::policy::testing::Directory;

    /// A client of the policy `p`, so that the policy is used.
    const CLIENT: &str = "[client.c]\nsources = [\"192.0.2.1\"]\npolicy = \"p\"\n";

    #[test]
    fn mistakes_are_warned_about_at_their_place() {
        const CASES: &[(&str, &[&str])] = &[
            ("allowed_hostnames = [\"a.test\", \"*.b.test\", \"b.test\"]", &[]),
            (
                "allowed_hostnames = [\"*.github.io\", \"github.io\"]",
                &[
                    "p/p.toml:2:22: `*.github.io` matches names that strangers can have: `github.io` is shared by many owners: name the hosts that are needed",
                ],
            ),
            (
                "private_answers = [\"*.s3.amazonaws.com\"]",
                &["p/p.toml:2:20: `*.s3.amazonaws.com` matches names that strangers can have"],
            ),
            ("allow_all = true\ndenied_hostnames = [\"*.github.io\", \"github.io\"]", &[]),
            ("allowed_hostnames = [\"*.a.test\"]", &[]),
            (
                "allow_all = true\ndenied_hostnames = [\"*.a.test\"]",
                &["p/p.toml:3:21: `*.a.test` does not deny `a.test` itself: add \"a.test\" if it is to be denied too"],
            ),
            // Another policy may include it.
            ("denied_hostnames = [\"*.a.test\"]", &["p/p.toml:2:21: `*.a.test` does not deny `a.test` itself"]),
            ("allow_all = true\ndenied_hostnames = [\"*.zip\", \"*.net.kg\"]", &[]),
            ("allowed_hostnames = [\"a.test\"]\ndenied_hostnames = [\"*.a.test\"]", &[]),
            (
                "allowed_hostnames = [\"a.test\",\n\n  'A.test.']",
                &[
                    "p/p.toml:4:3: `a.test` is listed twice in `allowed_hostnames`: remove one of them (p/p.toml:2:22: first listed here)",
                ],
            ),
            (
                "allowed_hostnames = [\"x.a.test\", \"*.a.test\", \"a.test\", \"*.y.a.test\"]",
                &[
                    "p/p.toml:2:22: `x.a.test` is covered by `*.a.test`: remove it (p/p.toml:2:34: `*.a.test` is here)",
                    "p/p.toml:2:56: `*.y.a.test` is covered by `*.a.test`",
                ],
            ),
            ("allow_all = true\nallowed_hostnames = [\"mask.icloud.com\", \"*.icloud.com\"]", &[]),
            ("include = [\"preset:npm\", \"preset:npm\"]", &["p/p.toml:2:26: `preset:npm` is included twice"]),
            (
                "allowed_hostnames_files = [\"l.txt\", \"l.txt\"]",
                &[
                    "p/l.txt:1:1: `*.github.io` matches names",
                    "p/l.txt:3:1: `l.test` is listed twice: remove one of them (p/l.txt:2:1: first listed here) [duplicate]",
                    "p/l.txt:4:1: `x.github.io` is covered by `*.github.io`",
                    "p/p.toml:2:37: list file `l.txt` is given twice",
                ],
            ),
            (
                "allowed_hostnames = [\"l.test\"]\nallowed_hostnames_files = [\"l.txt\"]",
                &[
                    "p/l.txt:1:1: ",
                    "p/l.txt:3:1: ",
                    "p/l.txt:4:1: ",
                    "p/p.toml:2:22: `l.test` is covered by `l.test`: remove it (p/l.txt:2:1: `l.test` is here)",
                ],
            ),
            (
                "message = \"\"\"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\"\"\"",
                &["p/p.toml:2:11: `message` is longer than 200 bytes"],
            ),
        ];
        for (text, expected) in CASES {
            let files = [
                ("p.toml", format!("[policy.p]\n{text}\n{CLIENT}")),
                ("l.txt", "*.github.io\nl.test\nl.test\nx.github.io\n".to_owned()),
            ];
            let files: Vec<_> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
            let warnings = Directory::of(&files).warnings();
            assert_eq!(warnings.len(), expected.len(), "{text}: {warnings:#?}");
            for (warning, start) in warnings.iter().zip(*expected) {
                assert!(warning.starts_with(start), "{text}: {warning}");
            }
        }
    }

    #[test]
    fn names_allowed_and_denied_are_reported_with_both_places() {
        const FILES: &[(&str, &str)] = &[
            ("allow.txt", "l.test\nm.test\nn.test\n"),
            ("block.txt", "x.test\nm.test\nn.test\n*.pythonhosted.org\npythonhosted.org\n"),
            ("copy.txt", "m.test\nl.test\nn.test\n"),
        ];
        const CASES: &[(&str, &[&str])] = &[
            (
                "allowed_hostnames = [\"a.test\", \"b.test\"]\ndenied_hostnames = [\"a.test\"]",
                &[
                    "p/p.toml:2:22: `a.test` is allowed and denied: denying wins: remove one of them (p/p.toml:3:21: denied here) [allowed-and-denied]",
                ],
            ),
            (
                "allowed_hostnames = [\"x.a.test\", \"*.b.test\"]\ndenied_hostnames = [\"*.a.test\", \"a.test\", \"x.b.test\"]",
                &[
                    "p/p.toml:2:22: `x.a.test`, which is allowed, is denied by `*.a.test`: remove one of them (p/p.toml:3:21: denied here)",
                ],
            ),
            (
                "allowed_hostnames = [\"x.test\", \"m.test\", \"n.test\"]\ndenied_hostnames_files = [\"block.txt\"]",
                &[
                    "p/p.toml:2:22: `x.test` is allowed and denied by a list file: denying wins (and 2 more entries): remove one of them (p/block.txt:1:1: denied here)",
                ],
            ),
            (
                "include = [\"preset:pypi\"]\ndenied_hostnames_files = [\"block.txt\"]",
                &[
                    "p/p.toml:3:27: `*.pythonhosted.org` is allowed by `preset:pypi` and denied by a list file: denying wins: remove one of them (<built-in>/presets/pypi.toml:",
                ],
            ),
            (
                "include = [\"preset:go\"]\ndenied_hostnames = [\"storage.googleapis.com\", \"example.com\"]",
                &["p/p.toml:3:21: `storage.googleapis.com` is allowed by `preset:go` and denied: denying wins"],
            ),
            (
                "allowed_hostnames_files = [\"allow.txt\"]\ndenied_hostnames_files = [\"block.txt\"]",
                &[
                    "p/p.toml:3:27: `m.test` is allowed by a list file and denied by a list file: denying wins (and 1 more entry)",
                ],
            ),
            (
                "allowed_hostnames_files = [\"allow.txt\", \"block.txt\", \"copy.txt\"]",
                &[
                    "p/p.toml:2:54: list file `p/copy.txt` adds nothing: all 3 entries are in `p/allow.txt` too: remove one of them [covered]",
                ],
            ),
            (
                "allowed_hostnames = [\"l.test\", \"z.test\", \"m.test\"]\nallowed_hostnames_files = [\"allow.txt\"]",
                &[
                    "p/p.toml:2:22: `l.test` is covered by `l.test` (and 1 more entry): remove it (p/allow.txt:1:1: `l.test` is here)",
                ],
            ),
            (
                "allow_all = true\ndenied_hostnames_files = [\"block.txt\", { path = \"block.txt\", subdomains = true }]",
                &["p/p.toml:3:27: list file `p/block.txt` adds nothing: all 5 entries are in `p/block.txt` too"],
            ),
            (
                "allow_all = true\ndenied_hostnames_files = [{ path = \"block.txt\", subdomains = true }]\nallowed_hostnames = [\"y.x.test\"]",
                &["p/p.toml:4:22: `y.x.test`, which is allowed, is denied by `*.x.test` by a list file"],
            ),
        ];
        for (text, expected) in CASES {
            let text = format!("[policy.p]\n{text}\n{CLIENT}");
            let files: Vec<_> = FILES.iter().copied().chain([("p.toml", &*text)]).collect();
            let warnings = Directory::of(&files).warnings();
            assert_eq!(warnings.len(), expected.len(), "{text}: {warnings:#?}");
            for (warning, start) in warnings.iter().zip(*expected) {
                assert!(warning.starts_with(start), "{text}: {warning}");
            }
        }
    }

    #[test]
    fn comments_accept_warnings_of_their_line_and_useless_ones_are_reported() {
        const CASES: &[(&str, &[&str])] = &[
            (
                "allowed_hostnames = [\n\"*.github.io\", # hostgate: accept shared-suffix: ours\n\"*.gitlab.io\"]",
                &["Accepted 3 shared-suffix ours", "Warning 4 shared-suffix"],
            ),
            (
                "# hostgate: accept shared-suffix, duplicate: both\nallowed_hostnames = [\"*.github.io\", \"*.github.io\"]",
                &["Accepted 3 shared-suffix both", "Accepted 3 duplicate both"],
            ),
            (
                "allow_all = true\ndenied_hostnames = [\"*.a.test\"] # hostgate: accept wildcard-alone: the apex is ours",
                &["Accepted 3 wildcard-alone the apex is ours"],
            ),
            (
                "allowed_hostnames = [\"a.test\"] # hostgate: accept allowed-and-denied: off for now\ndenied_hostnames = [\"a.test\"]",
                &["Accepted 2 allowed-and-denied off for now"],
            ),
            ("allow_all = true # hostgate: accept covered: x", &["Warning 2 accept"]),
            (
                "allowed_hostnames = [\"*.github.io\"] # hostgate: accept shared-suffix",
                &["Warning 2 shared-suffix", "Warning 2 accept"],
            ),
            (
                "denied_hostnames_files = [\"w.txt\"] # hostgate: accept wildcard-alone, duplicate: from elsewhere",
                &["Accepted 2 wildcard-alone from elsewhere", "Accepted 3 duplicate from elsewhere"],
            ),
            (
                "denied_hostnames_files = [\"w.txt\"] # hostgate: accept duplicate: x",
                &["Accepted 3 duplicate x", "Warning 2 wildcard-alone"],
            ),
            ("denied_hostnames_files = [\"a.txt\"]", &["Warning 3 accept", "Accepted 2 wildcard-alone kept"]),
            ("allowed_hostnames_files = [\"a.txt\"]", &["Warning 1 accept", "Warning 3 accept"]),
        ];
        for (text, expected) in CASES {
            let text = format!("[policy.p]\n{text}\n{CLIENT}");
            let lists = [
                ("w.txt", "a.test\n*.w.test\na.test\n"),
                (
                    "a.txt",
                    "# hostgate: accept wildcard-alone: kept\n*.w.test\nb.test # hostgate: accept duplicate: stale",
                ),
            ];
            let files: Vec<_> = lists.into_iter().chain([("p.toml", &*text)]).collect();
            let (_, told) = Directory::of(&files).start().unwrap();
            let mut told: Vec<_> = told
                .iter()
                .map(|it| {
                    let reason = it.reason.as_ref().map(|reason| format!(" {reason}")).unwrap_or_default();
                    format!("{:?} {} {}{reason}", it.severity, it.place.line, it.code.unwrap())
                })
                .collect();
            told.sort_unstable();
            let mut expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
            expected.sort_unstable();
            // A comment in a list accepts warnings about lines of that list only.
            assert_eq!(told.len(), expected.len(), "{text}: {told:?}");
            assert_eq!(told, expected, "{text}");
        }
    }

    #[test]
    fn included_entries_count_as_the_name_itself_and_are_not_checked_for_copies() {
        let base = "[policy.base]\nallowed_hostnames = [\"a.test\"]\n";
        let p =
            "[policy.p]\nallowed_hostnames = [\"*.a.test\", \"github.com\"]\ninclude = [\"base\", \"preset:github\"]\n";
        let warnings = Directory::of(&[("p.toml", &format!("{base}{p}{CLIENT}"))]).warnings();
        assert_eq!(warnings, [""; 0]);
    }

    #[test]
    fn included_settings_and_budgets_without_a_wildcard_are_warned_about() {
        const CASES: &[(&str, &str, &[&str])] = &[
            (
                "include = [\"q\"]",
                "allowed_hostnames = [\"*.a.test\"]\nbudget = { names = 500 }\ncname = \"inspect\"",
                &[
                    "p/p.toml:2:12: `q` sets `budget`, `cname`, but only its lists are included: set them here too if needed (p/p.toml:5:1: set here) [included-setting]",
                ],
            ),
            (
                "include = [\"q\"] # hostgate: accept included-setting: the usual one is enough here",
                "allowed_hostnames = [\"*.a.test\"]\nbudget = \"off\"",
                &[],
            ),
            ("include = [\"q\"]\nbudget = \"off\"", "allowed_hostnames = [\"*.a.test\"]\nbudget = { names = 1 }", &[]),
            ("include = [\"q\"]", "allowed_hostnames = [\"*.a.test\"]\nmessage = \"x\"\nname = \"y\"", &[]),
            ("include = [\"q\"]\nallow_all = true", "allow_all = true", &[]),
            ("include = [\"preset:npm\", \"q\"]\nbudget = { names = 1 }", "", &[]),
            ("include = [\"q\"]\nbudget = { names = 1 }\nallow_all = true", "", &[]),
            (
                "include = [\"q\"]\nallowed_hostnames = [\"a.test\"]\ndenied_hostnames = [\"b.test\", \"*.b.test\"]\nbudget = { names = 1 }",
                "allowed_hostnames = [\"c.test\"]",
                &[
                    "p/p.toml:5:1: `budget` is for names below a wildcard and for `allow_all`, and there is neither here",
                ],
            ),
            (
                "include = [\"q\"]\nallowed_hostnames = [\"a.test\"]\nbudget = \"off\" # hostgate: accept unused-budget: later",
                "",
                &[],
            ),
        ];
        for (p, q, expected) in CASES {
            let text = format!("[policy.p]\n{p}\n[policy.q]\n{q}\n{CLIENT}");
            let (_, told) = Directory::of(&[("p.toml", &text)]).start().unwrap();
            let warnings: Vec<_> = told.iter().filter(|it| it.is_warning()).map(ToString::to_string).collect();
            assert_eq!(warnings.len(), expected.len(), "{text}: {warnings:#?}");
            for (warning, start) in warnings.iter().zip(*expected) {
                assert!(warning.starts_with(start), "{text}: {warning}");
            }
        }
    }

    #[test]
    fn unused_policies_and_blueprints_without_a_policy_are_warned_about() {
        let text = format!(
            "[policy.p]\n[policy.unused]\n[policy.all]\nallow_all = true\n[policy.i]\ninclude = [\"all\"]\n[blueprint.b]\nbuild_policy = \"i\"\n{CLIENT}[client.d]\nsources = [\"192.0.2.2\"]\nblueprint = \"b\"\n"
        );
        let warnings = Directory::of(&[
            ("x.toml", &text),
            ("presets/own.toml", "[policy.own]\nallow_all = true\n"),
            ("presets/deep/x.toml", ""),
        ])
        .warnings();
        let expected = [
            "p/presets/deep/x.toml: the file is not read",
            "p/presets/own.toml:1:9: nothing refers to preset `preset:own`",
            "p/x.toml:2:9: nothing refers to policy `unused`",
            "p/x.toml:6:12: `all` allows all, but only its lists are included",
            "p/x.toml:7:12: blueprint `b` has no `runtime_policy`, so its runtime clients are denied everything: add `runtime_policy` (\"unrestricted\" allows everything), or set `default_policy` or `without_policy` in hostgate.toml (p/x.toml:12:9: such as client `d`)",
        ];
        assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
        for (warning, start) in warnings.iter().zip(expected) {
            assert!(warning.starts_with(start), "{warning}");
        }
        let mut bound = Directory::of(&[("x.toml", "[policy.p]\n")]);
        assert_eq!(bound.warnings().len(), 1);
        assert_eq!(bound.default_policy("p").warnings(), [""; 0]);
    }
}
