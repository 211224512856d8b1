//! The formats in which lists of hostnames are published, and how a file shows which one it is in.
//!
//! Pure, and below [`crate::policy`]: its list reader names the format of a list that is not in hostgate's own, and
//! `crate::import` reads all of them.

mod line;
mod structured;
#[cfg(test)]
mod tests;

use std::fmt;

use line::{Line, line};
pub(crate) use line::{is_address, is_cosmetic, is_name};
pub(crate) use structured::key_of;

/// A format that `hostgate import` reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Format {
    /// A hostname or wildcard a line: hostgate's own.
    Domains,
    /// Lines of a hosts file.
    Hosts,
    /// Squid's `dstdomain`, also `acl` lines.
    Squid,
    /// Rules of Adblock Plus, `AdGuard` and `uBlock` Origin.
    Adblock,
    /// Configuration of dnsmasq.
    Dnsmasq,
    /// Configuration of unbound: `local-zone` and `local-data`.
    Unbound,
    /// A response policy zone in the text form of zones.
    Rpz,
    /// The blocked-names and allowed-names files of dnscrypt-proxy.
    Dnscrypt,
    /// `host:port`, one or several a line.
    HostPort,
    /// URLs.
    Url,
    /// Regular expressions.
    Regex,
    /// The domain-list-community project of v2fly.
    V2fly,
    /// Rule providers and configuration of Clash and mihomo.
    Clash,
    /// Rule sets and configuration of Surge, and of the programs that took its syntax.
    Surge,
    /// Settings of Anthropic's sandbox-runtime and of Claude Code.
    SandboxRuntime,
    /// Workflows with `allowed-endpoints` of harden-runner.
    HardenRunner,
    /// GitHub Agentic Workflows.
    GhAw,
    /// The allow list of GitHub Copilot's firewall.
    Copilot,
    /// Network policies of Cilium.
    Cilium,
    /// Sandbox policies of NVIDIA `OpenShell`.
    OpenShell,
    /// Network rules of Docker's sandboxes.
    Docker,
}

impl Format {
    /// Every format, in the order in which they are listed.
    pub(crate) const ALL: [Self; 21] = [
        Self::Domains,
        Self::Hosts,
        Self::Squid,
        Self::Adblock,
        Self::Dnsmasq,
        Self::Unbound,
        Self::Rpz,
        Self::Dnscrypt,
        Self::HostPort,
        Self::Url,
        Self::Regex,
        Self::V2fly,
        Self::Clash,
        Self::Surge,
        Self::SandboxRuntime,
        Self::HardenRunner,
        Self::GhAw,
        Self::Copilot,
        Self::Cilium,
        Self::OpenShell,
        Self::Docker,
    ];

    /// Returns the name that `--as` takes.
    pub(crate) const fn name(self) -> &'static str {
        self.words().0
    }

    /// Returns other names that people may write for it.
    pub(crate) const fn aliases(self) -> &'static [&'static str] {
        match self {
            Self::Domains => &["plain", "wildcard", "list"],
            Self::Squid => &["dstdomain"],
            Self::Adblock => &["abp", "adguard", "ublock"],
            Self::Dnscrypt => &["dnscrypt-proxy", "blocked-names", "allowed-names"],
            Self::HostPort => &["endpoints"],
            Self::Url => &["urls"],
            Self::V2fly => &["v2ray", "geosite"],
            Self::Clash => &["mihomo"],
            Self::Surge => &["shadowrocket", "quantumult"],
            Self::SandboxRuntime => &["srt", "claude-code"],
            Self::GhAw => &["ghaw"],
            Self::OpenShell => &["open-shell"],
            Self::Docker => &["docker-sandbox", "sbx"],
            _ => &[],
        }
    }

    /// Returns what entries of it are, in the plural.
    pub(crate) const fn entries(self) -> &'static str {
        self.words().1
    }

    /// Returns what entries of it are where hostgate's own form is wanted, in the plural.
    pub(crate) const fn foreign_entries(self) -> &'static str {
        match self {
            Self::Domains => "hostnames in another form (quotes, commas, brackets or dashes, comments without `#`)",
            _ => self.entries(),
        }
    }

    /// Returns whether a list of bare names that holds a few entries of this format can be read as it without a loss: bare
    /// names mean there what they mean here, or nobody else writes such entries.
    const fn keeps_bare_names(self) -> bool {
        matches!(
            self,
            Self::Domains
                | Self::Squid
                | Self::HostPort
                | Self::Url
                | Self::V2fly
                | Self::Clash
                | Self::Surge
                | Self::Docker
        )
    }

    /// Returns whether its files are configurations of programs that say much besides names.
    const fn is_configuration(self) -> bool {
        matches!(self, Self::Squid | Self::Dnsmasq | Self::Unbound | Self::Surge)
    }

    /// Returns the name and the entries.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Domains => ("domains", "hostnames and wildcards"),
            Self::Hosts => ("hosts", "lines of a hosts file"),
            Self::Squid => ("squid", "Squid dstdomain entries"),
            Self::Adblock => ("adblock", "adblock rules"),
            Self::Dnsmasq => ("dnsmasq", "dnsmasq directives"),
            Self::Unbound => ("unbound", "unbound local-zone or local-data lines"),
            Self::Rpz => ("rpz", "records of a response policy zone (RPZ)"),
            Self::Dnscrypt => ("dnscrypt", "dnscrypt-proxy name patterns"),
            Self::HostPort => ("host-port", "hosts with ports"),
            Self::Url => ("url", "URLs"),
            Self::Regex => ("regex", "regular expressions"),
            Self::V2fly => ("v2fly", "v2fly domain-list entries"),
            Self::Clash => ("clash", "Clash rules"),
            Self::Surge => ("surge", "Surge rules"),
            Self::SandboxRuntime => ("sandbox-runtime", "sandbox-runtime settings"),
            Self::HardenRunner => ("harden-runner", "harden-runner endpoints"),
            Self::GhAw => ("gh-aw", "gh-aw network permissions"),
            Self::Copilot => ("copilot", "Copilot firewall entries"),
            Self::Cilium => ("cilium", "Cilium FQDN selectors"),
            Self::OpenShell => ("openshell", "OpenShell endpoints"),
            Self::Docker => ("docker", "Docker sandbox network rules"),
        }
    }
}

/// Writes the name.
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A format that a file seems to be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guess {
    /// The format.
    pub(crate) format: Format,
    /// Entries that show it; none where the structure of the whole file does.
    pub(crate) entries: usize,
    /// Entries of the file.
    pub(crate) of: usize,
    /// Entries that are hostnames or wildcards and nothing else, which many formats have.
    bare: usize,
}

/// Writes what the file seems to be, and how to have it read as that.
impl fmt::Display for Guess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, entries, of, .. } = self;
        match entries {
            0 => write!(f, "it seems to hold {}: try --as {format}", format.entries()),
            _ => write!(f, "{entries} of {of} entries seem to be {}: try --as {format}", format.entries()),
        }
    }
}

impl Guess {
    /// Returns whether a list that its reader refuses is to be told to be in this format, and not what is wrong with each of
    /// its lines: most of it is, or more than a slip of the hand.
    const fn is_told_as_one(&self) -> bool {
        /// Entries that nobody writes by accident.
        const NO_ACCIDENT: usize = 5;
        let explains_all = self.entries > 1 && self.entries + self.bare >= self.of;
        let is_most = self.entries * 2 >= self.of && (self.entries > 1 || self.of <= 1);
        explains_all || is_most || self.entries >= NO_ACCIDENT
    }
}

/// What a file seems to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Detected {
    /// A file in one format.
    One(Guess),
    /// A file that may be in several formats, the likeliest first.
    Several(Vec<Guess>),
    /// A file with entries that no format explains.
    Unknown,
    /// A file without any entry.
    Empty,
}

/// Looks which format a text is in.
pub(crate) fn detect(text: &str) -> Detected {
    let text = text.trim_start_matches('\u{feff}');
    let structured = structured::formats(text);
    if let Some((first, others)) = structured.split_first() {
        let guess = |format: &Format| Guess { format: *format, entries: 0, of: 0, bare: 0 };
        return if others.is_empty() {
            Detected::One(guess(first))
        } else {
            Detected::Several(structured.iter().map(guess).collect())
        };
    }
    let mut votes = [0_usize; Format::ALL.len()];
    let (mut entries, mut common, mut attributed) = (0, 0, 0);
    for content in text.lines() {
        match line(content) {
            Line::Nothing => continue,
            Line::Of(format) => votes[format as usize] += 1,
            Line::Common => common += 1,
            Line::Attributed => attributed += 1,
            Line::Unknown => {}
        }
        entries += 1;
    }
    let owner = if votes[Format::Dnscrypt as usize] > 0 { Format::Dnscrypt } else { Format::V2fly };
    votes[owner as usize] += attributed;
    let told: usize = votes.iter().sum();
    if entries == 0 {
        return Detected::Empty;
    }
    let bare = Guess { format: Format::Domains, entries: common, of: entries, bare: common };
    if told == 0 {
        let is_list = common * 2 > entries;
        return if is_list { Detected::One(bare) } else { Detected::Unknown };
    }
    let explained =
        |format: Format| votes[format as usize] + also(format).iter().map(|of| votes[*of as usize]).sum::<usize>();
    let mut guesses: Vec<Guess> = Format::ALL
        .into_iter()
        .filter(|format| votes[*format as usize] > 0)
        .map(|format| Guess { format, entries: explained(format), of: entries, bare: common })
        .collect();
    guesses.sort_by_key(|guess| std::cmp::Reverse(guess.entries));
    let best = guesses[0];
    let is_clear = best.entries * 10 >= told * 9;
    // A few odd lines do not make a list of bare names one in which these mean something else, or nothing.
    let is_mostly_bare = best.entries * 10 < entries && common > 0 && !best.format.keeps_bare_names();
    if !is_clear || is_mostly_bare {
        if common > 0 && votes[Format::Domains as usize] == 0 {
            guesses.push(bare);
            guesses.sort_by_key(|guess| std::cmp::Reverse(guess.entries));
        }
        return Detected::Several(guesses);
    }
    // Lines that nothing explains may not be the most of it, but in configurations, which say much else.
    let is_explained = (best.entries + common) * 2 > entries || best.format.is_configuration();
    if is_explained { Detected::One(best) } else { Detected::Unknown }
}

/// Returns the formats whose entries are entries of `format` as well.
const fn also(format: Format) -> &'static [Format] {
    match format {
        Format::Adblock => &[Format::Hosts, Format::Regex],
        Format::Clash => &[Format::Squid, Format::Surge],
        Format::Dnscrypt => &[Format::Squid],
        Format::Docker | Format::Url | Format::Copilot => &[Format::HostPort],
        _ => &[],
    }
}

/// Returns the foreign format that an entry of a list shows by itself, if hostgate's own reader does not take it.
pub(crate) fn of_entry(entry: &str) -> Option<Format> {
    of_pasted(entry).filter(|format| !matches!(format, Format::Hosts | Format::Domains))
}

/// Returns the format that an entry of an array shows which holds hostnames alone, as one pasted from a list.
pub(crate) fn of_pasted(entry: &str) -> Option<Format> {
    match line(entry) {
        // A misplaced `*` has errors of its own.
        Line::Of(Format::Dnscrypt) if !entry.starts_with('=') => None,
        Line::Of(format) => Some(format),
        _ => None,
    }
}

/// Returns the format of a list that its reader refuses, where one error about the list says more than one for each line.
pub(crate) fn foreign(text: &str) -> Option<Guess> {
    let guess = match detect(text) {
        Detected::One(guess) if guess.format == Format::Domains => {
            // What is bare is read as it is; the rest is what `hostgate import` reads in the same lists.
            let entries = text.lines().filter(|line| is_in_another_form(line.trim())).count();
            let of = guess.of + text.lines().filter(|line| other_comment(line.trim()).is_some()).count();
            Guess { entries, of, bare: of - entries, ..guess }
        }
        Detected::One(guess) => guess,
        // A list of bare names with entries of one other format among them.
        Detected::Several(guesses) => match &*guesses {
            [one, other] if one.format == Format::Domains => *other,
            [one, other] if other.format == Format::Domains => *one,
            _ => return None,
        },
        _ => return None,
    };
    (guess.format != Format::Hosts && guess.is_told_as_one()).then_some(guess)
}

/// Returns the line of the first entry that shows a format, from 1.
pub(crate) fn first_of(text: &str, format: Format) -> Option<usize> {
    let is_of = |content: &str| match format {
        Format::Domains => is_in_another_form(content.trim()),
        _ => line(content) == Line::Of(format),
    };
    text.lines().position(is_of).map(|at| at + 1)
}

/// Returns whether a text begins as policy files of hostgate do.
pub(crate) fn is_policy(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| ["[policy.", "[client.", "[blueprint."].iter().any(|table| line.starts_with(table)))
}

/// Returns whether a line holds names in quotes, with commas or in items of YAML, or a comment of another system's lists.
fn is_in_another_form(line: &str) -> bool {
    line.starts_with(['"', '\'', '[']) || line.starts_with("- ") || line.contains(',') || other_comment(line).is_some()
}

/// Returns what begins a line as a comment in other systems' lists.
pub(crate) fn other_comment(line: &str) -> Option<&'static str> {
    ["//", ";", "!"].into_iter().find(|mark| line.starts_with(mark))
}
