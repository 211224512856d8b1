//! Formats in which lists of hostnames are published, and detection of the format of a file.
//!
//! Pure functions, below [`crate::policy`]: its list reader names the format of a list that is not in hostgate's own,
//! and `crate::import` reads all of them. Detection weighs lines rather than trusting the first one, because published
//! lists mix formats.

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
    /// One hostname or wildcard per line: hostgate's own format.
    Domains,
    /// Hosts files: an address and names per line.
    Hosts,
    /// Domain lists for Squid's `dstdomain`, and `acl` lines of squid.conf.
    Squid,
    /// Filter rules of Adblock Plus, `AdGuard` and `uBlock` Origin.
    Adblock,
    /// Configuration files of dnsmasq.
    Dnsmasq,
    /// Configuration files of unbound: `local-zone` and `local-data`.
    Unbound,
    /// Response policy zones as zone files (RFC 1035 §5).
    Rpz,
    /// The blocked-names and allowed-names files of dnscrypt-proxy.
    Dnscrypt,
    /// Endpoints `host:port`, one or several per line.
    HostPort,
    /// URLs, of which the host counts.
    Url,
    /// Regular expressions for names, one per line.
    Regex,
    /// Files of v2fly's domain-list-community project.
    V2fly,
    /// Rule providers and configurations of Clash and mihomo.
    Clash,
    /// Rule sets and configurations of Surge and of programs with its syntax.
    Surge,
    /// Settings of Anthropic's sandbox-runtime and of Claude Code.
    SandboxRuntime,
    /// Workflows of GitHub Actions with `allowed-endpoints` of harden-runner.
    HardenRunner,
    /// GitHub Agentic Workflows with network permissions.
    GhAw,
    /// The allow list of the firewall of GitHub Copilot's agent.
    Copilot,
    /// Network policies of Cilium with DNS names.
    Cilium,
    /// Sandbox policies of NVIDIA `OpenShell`.
    OpenShell,
    /// Network rules of Docker's sandboxes.
    Docker,
}

impl Format {
    /// The formats in the order in which they are listed.
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

    /// Returns alternative names that `--as` takes.
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

    /// Returns the plural noun for entries of the format.
    pub(crate) const fn entries(self) -> &'static str {
        self.words().1
    }

    /// Returns the plural noun for entries of the format, for messages of a reader that wants hostgate's own form.
    pub(crate) const fn foreign_entries(self) -> &'static str {
        match self {
            Self::Domains => "hostnames in another form (quotes, commas, brackets or dashes, comments without `#`)",
            _ => self.entries(),
        }
    }

    /// Returns whether a list of bare names with a few entries of this format can be read in it without loss: bare
    /// names mean the same in it as in hostgate's lists, or no other system writes such entries.
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

    /// Returns whether files of the format are program configurations, which contain much besides names.
    const fn is_configuration(self) -> bool {
        matches!(self, Self::Squid | Self::Dnsmasq | Self::Unbound | Self::Surge)
    }

    /// Returns the name of the format and the plural noun for its entries.
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

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A detected format, with the evidence for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guess {
    pub(crate) format: Format,
    /// The number of entries that identify the format; 0 if the structure of the whole file does.
    pub(crate) entries: usize,
    /// The number of entries in the file.
    pub(crate) of: usize,
    /// The number of plain hostnames and wildcards, which many formats have.
    bare: usize,
}

/// Writes the detected format and the option to import the file with.
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
    /// Returns whether one error about the format is better than an error for each line: if most entries are in the
    /// format, or more than could be typing errors.
    const fn is_reported_as_one(&self) -> bool {
        /// The number of foreign entries that cannot be a typing error.
        const MIN_INTENDED: usize = 5;
        let explains_all = self.entries > 1 && self.entries + self.bare >= self.of;
        let is_most = self.entries * 2 >= self.of && (self.entries > 1 || self.of <= 1);
        explains_all || is_most || self.entries >= MIN_INTENDED
    }
}

/// The result of detecting the format of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Detected {
    /// The file is in one format.
    One(Guess),
    /// The file may be in several formats, the likeliest first.
    Several(Vec<Guess>),
    /// No format explains the entries of the file.
    Unknown,
    /// The file has no entries.
    Empty,
}

/// Detects the format of a text.
pub(crate) fn detect(text: &str) -> Detected {
    let text = text.trim_start_matches('\u{feff}');
    // Structure comes first: single lines of JSON or YAML look like lists in many formats.
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
    // `x @word` occurs in two formats; other entries of dnscrypt-proxy decide that it is a schedule.
    let owner = if votes[Format::Dnscrypt as usize] > 0 { Format::Dnscrypt } else { Format::V2fly };
    votes[owner as usize] += attributed;
    let identified: usize = votes.iter().sum();
    if entries == 0 {
        return Detected::Empty;
    }
    let bare = Guess { format: Format::Domains, entries: common, of: entries, bare: common };
    if identified == 0 {
        let is_list = common * 2 > entries;
        return if is_list { Detected::One(bare) } else { Detected::Unknown };
    }
    let explained = |format: Format| {
        votes[format as usize] + included_formats(format).iter().map(|of| votes[*of as usize]).sum::<usize>()
    };
    let mut guesses: Vec<Guess> = Format::ALL
        .into_iter()
        .filter(|format| votes[*format as usize] > 0)
        .map(|format| Guess { format, entries: explained(format), of: entries, bare: common })
        .collect();
    guesses.sort_by_key(|guess| std::cmp::Reverse(guess.entries));
    let best = guesses[0];
    // Published lists mix formats, so nine tenths of the identified entries are enough.
    let is_clear = best.entries * 10 >= identified * 9;
    // A few odd lines must not turn a list of bare names into a format in which bare names mean something else, or
    // nothing.
    let is_mostly_bare = best.entries * 10 < entries && common > 0 && !best.format.keeps_bare_names();
    if !is_clear || is_mostly_bare {
        if common > 0 && votes[Format::Domains as usize] == 0 {
            guesses.push(bare);
            guesses.sort_by_key(|guess| std::cmp::Reverse(guess.entries));
        }
        return Detected::Several(guesses);
    }
    // Fewer than half of the lines may be unexplained, except in configurations, which contain much else.
    let is_explained = (best.entries + common) * 2 > entries || best.format.is_configuration();
    if is_explained { Detected::One(best) } else { Detected::Unknown }
}

/// Returns the formats whose entries are valid in `format` as well.
const fn included_formats(format: Format) -> &'static [Format] {
    match format {
        Format::Adblock => &[Format::Hosts, Format::Regex],
        Format::Clash => &[Format::Squid, Format::Surge],
        Format::Dnscrypt => &[Format::Squid],
        Format::Docker | Format::Url | Format::Copilot => &[Format::HostPort],
        _ => &[],
    }
}

/// Returns the foreign format that a single list entry identifies; `None` if hostgate's own reader accepts the entry.
pub(crate) fn of_entry(entry: &str) -> Option<Format> {
    of_pasted(entry).filter(|format| !matches!(format, Format::Hosts | Format::Domains))
}

/// Returns the format of an element in an array of hostnames, for entries pasted from a list.
pub(crate) fn of_pasted(entry: &str) -> Option<Format> {
    match line(entry) {
        // A misplaced `*` has a better error of its own.
        Line::Of(Format::Dnscrypt) if !entry.starts_with('=') => None,
        Line::Of(format) => Some(format),
        _ => None,
    }
}

/// Returns the format of a rejected list, if one error about the list is better than one for each line.
pub(crate) fn foreign(text: &str) -> Option<Guess> {
    let guess = match detect(text) {
        Detected::One(guess) if guess.format == Format::Domains => {
            // Bare names are read as they are; other notations of names are what `hostgate import` reads in such lists.
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
    (guess.format != Format::Hosts && guess.is_reported_as_one()).then_some(guess)
}

/// Returns the line number of the first entry that identifies `format`, from 1.
pub(crate) fn first_of(text: &str, format: Format) -> Option<usize> {
    let is_of = |content: &str| match format {
        Format::Domains => is_in_another_form(content.trim()),
        _ => line(content) == Line::Of(format),
    };
    text.lines().position(is_of).map(|at| at + 1)
}

/// Returns whether a text starts as hostgate's policy files do.
pub(crate) fn is_policy(text: &str) -> bool {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| ["[policy.", "[client.", "[blueprint."].iter().any(|table| line.starts_with(table)))
}

/// Returns whether a line has names in quotes, with commas or as YAML items, or is a comment of another system's lists.
fn is_in_another_form(line: &str) -> bool {
    line.starts_with(['"', '\'', '[']) || line.starts_with("- ") || line.contains(',') || other_comment(line).is_some()
}

/// Returns the comment mark of other systems' lists that a line starts with.
pub(crate) fn other_comment(line: &str) -> Option<&'static str> {
    ["//", ";", "!"].into_iter().find(|mark| line.starts_with(mark))
}
