//! Names of devboxes, which hostgate answers itself, and their reverse names.
//!
//! No name at or below `devbox_suffix` is ever forwarded, whatever a policy lists. A devbox is a client of phase
//! runtime that has single addresses. Its name is `ID.SUFFIX`, and its addresses resolve back to that name. The names
//! exist only for clients whose policy has `allow_devbox_to_devbox` or `allow_all` and does not deny the name.

use std::net::IpAddr;

use crate::dns::answer::LocalData;
use crate::dns::name::LowerName;
use crate::dns::reverse;
use crate::dns::rtype::RecordType;

use super::{Action, Decision, NameDecision, Reason, decide, decide_name};
use crate::policy::matching::special_use::{is_localhost, loopback};
use crate::policy::model::spec::{Mode, Phase};
use crate::policy::snapshot::name_index::first_ignoring_case;
use crate::policy::snapshot::{Asker, Client, Snapshot};

/// The most addresses of a devbox in an answer. That many fit into a message over TCP, and no client needs more.
const MAX_ADDRESSES: usize = 256;

/// The result of looking a name up among the devboxes.
#[derive(Clone, Copy)]
enum DevboxLookup<'s> {
    Devbox(&'s Client),
    /// The devbox that has the address of a reverse name.
    Address(&'s Client),
    /// The suffix itself, below which the names of all devboxes are.
    Suffix,
    /// A name below the suffix that no devbox has.
    NoDevbox,
}

impl Snapshot {
    /// Decides what happens to a query of `asker` for `qname` and `qtype`: names of devboxes are answered here, for all
    /// others [`decide()`] applies the policy.
    ///
    /// No allocation except for names of devboxes; one comparison more than [`decide()`].
    #[inline]
    #[must_use]
    pub fn decide<'s>(&'s self, asker: &Asker<'s>, qname: &LowerName, qtype: RecordType) -> Decision<'s> {
        // Comparing the last octets rules out nearly all other names, and PTR queries are rare, so that other queries
        // do not pay for the look-up of devboxes.
        if (self.devbox_suffix.may_hold(qname) || qtype == RecordType::PTR)
            && let Some(decision) = self.decide_here(asker, qname, qtype)
        {
            return decision;
        }
        decide(asker, qname, qtype)
    }

    /// Decides about a name of a devbox or a reverse name of its address; returns `None` for all other names.
    #[cold]
    fn decide_here<'s>(&'s self, asker: &Asker<'s>, qname: &LowerName, qtype: RecordType) -> Option<Decision<'s>> {
        let found = self.find(qname, qtype)?;
        // A client that may not resolve a devbox's name must not learn it from the reverse name either.
        let target =
            if let DevboxLookup::Address(client) = found { self.devbox_suffix.name_of(client.id()) } else { None };
        Some(decide_devbox(asker, (qname, target.as_ref()), qtype, found))
    }

    /// Returns the devbox that a question is about.
    #[must_use]
    pub fn devbox(&self, qname: &LowerName, qtype: RecordType) -> Option<&Client> {
        match self.find(qname, qtype)? {
            DevboxLookup::Devbox(client) | DevboxLookup::Address(client) => Some(client),
            DevboxLookup::Suffix | DevboxLookup::NoDevbox => None,
        }
    }

    /// Returns the records that hostgate itself has for a question: those of a devbox, or of the host itself. They are
    /// not checked against a policy, which [`Self::decide`] does.
    pub fn own_records(&self, qname: &LowerName, qtype: RecordType) -> impl Iterator<Item = LocalData> {
        let (devbox, pointer, host) = match self.find(qname, qtype) {
            Some(DevboxLookup::Devbox(client)) => (Some(client), None, None),
            Some(DevboxLookup::Address(client)) => (None, self.devbox_suffix.name_of(client.id()), None),
            Some(DevboxLookup::Suffix | DevboxLookup::NoDevbox) => (None, None, None),
            None => (None, None, loopback(qtype).filter(|_| is_localhost(qname))),
        };
        let addresses =
            devbox.into_iter().flat_map(addresses).filter(move |address| is_asked(*address, qtype)).chain(host);
        pointer
            .map(|name| LocalData::Name(Box::new(name)))
            .into_iter()
            .chain(addresses.map(LocalData::Address))
            .take(MAX_ADDRESSES)
    }

    /// Looks a name up among the devboxes; returns `None` if the name is not hostgate's own.
    fn find(&self, qname: &LowerName, qtype: RecordType) -> Option<DevboxLookup<'_>> {
        if qname.is_at_or_below(&self.devbox_suffix.name) {
            return Some(self.devbox_of(qname));
        }
        let address = reverse::address(qname).filter(|_| qtype == RecordType::PTR)?;
        self.devbox_at(address).map(DevboxLookup::Address)
    }

    /// Looks up a name at or below the suffix.
    fn devbox_of(&self, qname: &LowerName) -> DevboxLookup<'_> {
        let depth = qname.labels().count() - self.devbox_suffix.name.labels().count();
        if depth == 0 {
            return DevboxLookup::Suffix;
        }
        // The text is shorter than the wire form, so this is the only allocation.
        let mut id = String::with_capacity(qname.as_wire().len());
        for label in qname.labels().take(depth) {
            // A label that contains a dot must not match an id with a dot, which is two labels.
            let Some(label) = std::str::from_utf8(label).ok().filter(|label| !label.contains('.')) else {
                return DevboxLookup::NoDevbox;
            };
            if !id.is_empty() {
                id.push('.');
            }
            id.push_str(label);
        }
        match self.client_of_any_case(&id).filter(|client| is_devbox(client)) {
            Some(client) => DevboxLookup::Devbox(client),
            None => DevboxLookup::NoDevbox,
        }
    }

    /// Returns the devbox that has exactly this address and a valid name.
    fn devbox_at(&self, address: IpAddr) -> Option<&Client> {
        // The listener's index is irrelevant: its policy applies only to addresses in no client.
        let client = self.asker(address, usize::MAX).client?;
        let is_its_own = is_devbox(client) && addresses(client).any(|own| own == address);
        (is_its_own && self.devbox_suffix.name_of(client.id()).is_some()).then_some(client)
    }

    /// Returns the client whose id is `lower` when its capital letters are ignored (names are compared without case,
    /// RFC 4343). If several are, returns the one without capitals, else the first in the order of ids.
    ///
    /// Mostly two look-ups. If no client has the id, the search jumps from one possible id to the next: a few jumps for
    /// each letter that an id begins with.
    fn client_of_any_case(&self, lower: &str) -> Option<&Client> {
        self.client(lower).or_else(|| first_ignoring_case(lower, |id| self.client_from(id), Client::id))
    }
}

/// Decides about a name that only hostgate knows. `target` is the name that the answer would reveal: that of a PTR
/// record.
fn decide_devbox<'s>(
    asker: &Asker<'s>,
    (qname, target): (&LowerName, Option<&LowerName>),
    qtype: RecordType,
    found: DevboxLookup<'s>,
) -> Decision<'s> {
    // Without a policy, or with one that denies everything, the denial is the same as for any other name.
    let Some(policy) = asker.policy().filter(|policy| policy.gone().is_none()) else {
        return decide(asker, qname, qtype);
    };
    let decision = |action, reason, rule| Decision { action, reason, rule, policy: Some(policy), audited: false };
    // A denied name stays denied in audit mode, as there is no upstream to forward it to.
    for name in [qname].into_iter().chain(target) {
        if let NameDecision::Deny(rule) = decide_name(policy, name) {
            return decision(Action::Deny, Reason::DeniedRule, Some(rule));
        }
    }
    if !policy.allows_devboxes() {
        return decision(Action::Deny, Reason::DevboxToDevbox, None);
    }
    let is_listed = policy.query_types().contains(qtype);
    let audited = !is_listed && policy.mode() == Mode::Audit;
    match found {
        // Denied in audit mode as well: no upstream knows the name.
        DevboxLookup::NoDevbox => decision(Action::Deny, Reason::NoDevbox, None),
        _ if !is_listed && !audited => decision(Action::NoData, Reason::QueryType, None),
        DevboxLookup::Devbox(client) if !addresses(client).any(|address| is_asked(address, qtype)) => {
            decision(Action::NoData, Reason::Devbox, None)
        }
        DevboxLookup::Suffix => decision(Action::NoData, Reason::Devbox, None),
        DevboxLookup::Devbox(_) | DevboxLookup::Address(_) => {
            let reason = if audited { Reason::QueryType } else { Reason::Devbox };
            Decision { audited, ..decision(Action::Answer, reason, None) }
        }
    }
}

/// Returns whether a client is a devbox, which other clients can look up by name.
fn is_devbox(client: &Client) -> bool {
    client.phase() == Phase::Runtime && addresses(client).next().is_some()
}

/// Returns the single addresses of a client: its sources that are prefixes of full length.
fn addresses(client: &Client) -> impl Iterator<Item = IpAddr> {
    client.sources().filter(|source| source.prefix_len() == source.max_prefix_len()).map(|source| source.addr())
}

/// Returns whether a question for `qtype` asks for addresses of this family.
const fn is_asked(address: IpAddr, qtype: RecordType) -> bool {
    match address {
        IpAddr::V4(_) => qtype.0 == RecordType::A.0,
        IpAddr::V6(_) => qtype.0 == RecordType::AAAA.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::model::bindings::{Bindings, DevboxSuffix, WithoutPolicy};
    use crate::policy::testing::{Directory, name};

    /// Clients with and without a name, and the policies of those that ask.
    const FILE: &str = "
[policy.open]
allow_devbox_to_devbox = true
denied_hostnames = ['secret.devbox.internal']
[policy.all]
allow_all = true
[policy.listed]
allowed_hostnames = ['*.devbox.internal', '*.1.10.in-addr.arpa']
[policy.audit]
mode = 'audit'
[policy.audit-open]
mode = 'audit'
allow_devbox_to_devbox = true
query_types = ['A']
[policy.few]
allow_devbox_to_devbox = true
query_types = ['A', 'PTR']
[blueprint.b]
[client.one]
sources = ['10.1.0.1', '10.1.0.11', '2001:db8::1', '10.2.0.0/24']
policy = 'open'
[client.Two]
sources = ['10.1.0.2']
policy = 'all'
[client.'web.3']
sources = ['10.1.0.3/32']
policy = 'listed'
[client.secret]
sources = ['10.1.0.4', '::ffff:10.1.0.5']
policy = 'audit'
[client.builder]
sources = ['10.1.0.6']
blueprint = 'b'
phase = 'build'
[client.network]
sources = ['10.3.0.0/16', '10.1.0.8/31']
policy = 'few'
[client.free]
sources = ['10.1.0.7']
blueprint = 'b'
[client.recorder]
sources = ['10.1.0.10']
policy = 'audit-open'
";

    /// Returns the directory of these clients, in which clients without a policy are unrestricted.
    fn directory() -> Directory {
        let mut directory = Directory::of(&[("p.toml", FILE)]);
        directory.bindings.without_policy = WithoutPolicy::Unrestricted;
        directory
    }

    /// Returns the answer to a question of `source`: action, reason, and the records.
    fn answer_of(snapshot: &Snapshot, source: &str, qname: &str, qtype: &str) -> String {
        let (asker, qtype) = (snapshot.asker(source.parse().unwrap(), 0), qtype.parse().unwrap());
        let qname = name(qname);
        let decision = snapshot.decide(&asker, &qname, qtype);
        let records = snapshot.own_records(&qname, qtype).map(|record| match record {
            LocalData::Address(address) => address.to_string(),
            LocalData::Name(name) => name.to_string(),
        });
        let mut words = vec![decision.action.as_str().to_owned(), decision.reason.as_str().to_owned()];
        words.extend(decision.audited.then(|| "audited".to_owned()));
        if decision.action == Action::Answer {
            words.extend(records);
        }
        words.join(" ")
    }

    #[test]
    fn devboxes_are_resolved_for_clients_whose_policy_allows_it() {
        const CASES: &[(&str, &str, &str, &str)] = &[
            ("10.1.0.1", "one.devbox.internal", "A", "allow devbox 10.1.0.1 10.1.0.11"),
            ("10.1.0.1", "ONE.Devbox.internal", "AAAA", "allow devbox 2001:db8::1"),
            ("10.1.0.1", "two.devbox.internal", "A", "allow devbox 10.1.0.2"),
            ("10.1.0.1", "two.devbox.internal", "AAAA", "nodata devbox"),
            ("10.1.0.1", "two.devbox.internal", "TXT", "nodata devbox"),
            ("10.1.0.1", "two.devbox.internal", "NULL", "nodata query-type"),
            ("10.1.0.1", "two.devbox.internal", "ANY", "nodata query-type"),
            ("10.1.0.1", "web.3.devbox.internal", "A", "allow devbox 10.1.0.3"),
            ("10.1.0.1", r"web\.3.devbox.internal", "A", "deny no-devbox"),
            ("10.1.0.1", "3.devbox.internal", "A", "deny no-devbox"),
            ("10.1.0.1", "a.two.devbox.internal", "A", "deny no-devbox"),
            ("10.1.0.1", r"tw\255.devbox.internal", "A", "deny no-devbox"),
            ("10.1.0.1", "nobody.devbox.internal", "A", "deny no-devbox"),
            ("10.1.0.1", "devbox.internal", "A", "nodata devbox"),
            ("10.1.0.1", "devbox.internal", "SOA", "nodata devbox"),
            ("10.1.0.1", "xdevbox.internal", "A", "deny not-listed"),
            ("10.1.0.1", r"x\006devbox.internal", "A", "deny not-listed"),
            ("10.1.0.1", "secret.devbox.internal", "A", "deny denied-rule"),
            ("10.1.0.1", "builder.devbox.internal", "A", "deny no-devbox"),
            ("10.1.0.1", "network.devbox.internal", "A", "deny no-devbox"),
            // `allow_all`, and those without any policy.
            ("10.1.0.2", "secret.devbox.internal", "A", "allow devbox 10.1.0.4 10.1.0.5"),
            ("10.1.0.7", "one.devbox.internal", "A", "allow devbox 10.1.0.1 10.1.0.11"),
            ("10.1.0.6", "one.devbox.internal", "A", "allow devbox 10.1.0.1 10.1.0.11"),
            // A listed name does not suffice, and audit mode forwards no name that no upstream could answer.
            ("10.1.0.3", "one.devbox.internal", "A", "deny devbox-to-devbox"),
            ("10.1.0.3", "web.3.devbox.internal", "A", "deny devbox-to-devbox"),
            ("10.1.0.3", "nobody.devbox.internal", "A", "deny devbox-to-devbox"),
            ("10.1.0.3", "devbox.internal", "A", "deny devbox-to-devbox"),
            ("10.1.0.4", "one.devbox.internal", "A", "deny devbox-to-devbox"),
            ("10.1.0.4", "example.test", "A", "allow not-listed audited"),
            ("10.1.0.10", "nobody.devbox.internal", "A", "deny no-devbox"),
            ("10.1.0.10", "one.devbox.internal", "AAAA", "allow query-type audited 2001:db8::1"),
            ("10.1.0.10", "one.devbox.internal", "MX", "nodata devbox"),
            ("10.3.0.1", "one.devbox.internal", "AAAA", "nodata query-type"),
            ("10.3.0.1", "one.devbox.internal", "A", "allow devbox 10.1.0.1 10.1.0.11"),
            ("192.0.2.1", "one.devbox.internal", "A", "deny no-client"),
            // Reverse names of addresses.
            ("10.1.0.1", "1.0.1.10.in-addr.arpa", "PTR", "allow devbox one.devbox.internal"),
            ("10.1.0.1", "2.0.1.10.in-addr.arpa", "PTR", "allow devbox two.devbox.internal"),
            ("10.1.0.1", "3.0.1.10.in-addr.arpa", "PTR", "allow devbox web.3.devbox.internal"),
            ("10.1.0.1", "4.0.1.10.in-addr.arpa", "PTR", "deny denied-rule"),
            ("10.1.0.2", "4.0.1.10.in-addr.arpa", "PTR", "allow devbox secret.devbox.internal"),
            ("10.1.0.3", "1.0.1.10.in-addr.arpa", "PTR", "deny devbox-to-devbox"),
            ("10.1.0.3", "1.0.1.10.in-addr.arpa", "TXT", "allow rule"),
            // Reverse names of an unknown address, a build container's and one in a prefix are decided as ordinary
            // names.
            ("10.1.0.3", "99.0.1.10.in-addr.arpa", "PTR", "allow rule"),
            ("10.1.0.3", "6.0.1.10.in-addr.arpa", "PTR", "allow rule"),
            ("10.1.0.3", "8.0.1.10.in-addr.arpa", "PTR", "allow rule"),
            ("10.1.0.2", "1.0.2.10.in-addr.arpa", "PTR", "deny special-use"),
            ("10.1.0.2", "8.8.8.8.in-addr.arpa", "PTR", "allow allow-all"),
            ("10.1.0.10", "1.0.1.10.in-addr.arpa", "PTR", "allow query-type audited one.devbox.internal"),
        ];
        let library = directory().library();
        for (source, qname, qtype, expected) in CASES {
            assert_eq!(answer_of(library.snapshot(), source, qname, qtype), *expected, "{source} {qname} {qtype}");
        }
        let six = "1.".to_owned() + &"0.".repeat(23) + "8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(answer_of(library.snapshot(), "10.1.0.2", &six, "PTR"), "allow devbox one.devbox.internal");
    }

    #[test]
    fn changing_the_devbox_suffix_makes_a_new_generation() {
        let mut directory = Directory::of(&[("p.toml", FILE)]);
        let before = directory.library();
        directory.bindings.devbox_suffix = DevboxSuffix::new(name("box"));
        let after = directory.reload(&before);
        let snapshot = after.library.snapshot();
        assert!(after.swapped && snapshot.generation == 2 && snapshot.hash != before.snapshot().hash);
        assert_eq!(answer_of(snapshot, "10.1.0.1", "two.box", "A"), "allow devbox 10.1.0.2");
        assert_eq!(answer_of(snapshot, "10.1.0.1", "2.0.1.10.in-addr.arpa", "PTR"), "allow devbox two.box");
        assert_eq!(answer_of(snapshot, "10.1.0.1", "two.devbox.internal", "A"), "deny not-listed");
        assert_eq!(Bindings::default().devbox_suffix.as_str(), "devbox.internal");
    }

    #[test]
    fn explanations_of_denied_devbox_names_say_what_is_missing() {
        let library = directory().library();
        let text = |source: &str, qname: &str| {
            let asker = library.snapshot().asker(source.parse().unwrap(), 0);
            library.snapshot().decide(&asker, &name(qname), RecordType::A).explain().to_string()
        };
        let missing =
            "denied by policy listed: names of devboxes need allow_devbox_to_devbox, whatever allowed_hostnames says";
        assert_eq!(text("10.1.0.3", "one.devbox.internal"), missing);
        assert_eq!(text("10.1.0.1", "x.devbox.internal"), "denied by policy open: no devbox has this name");
        assert_eq!(text("10.1.0.1", "one.devbox.internal"), "allowed by policy open: it may look up devboxes");
        let nothing = "no data by policy open: hostgate has no record of this type for the name";
        assert_eq!(text("10.1.0.1", "devbox.internal"), nothing);
    }

    #[test]
    fn tests_in_files_can_expect_devbox_names() {
        let test = |client: &str, expect: &str| {
            let test = format!("[[test]]\nclient = '{client}'\nname = 'one.devbox.internal'\nexpect = '{expect}'\n");
            Directory::of(&[("p.toml", FILE), ("t.toml", &test)]).start().is_ok()
        };
        assert!(test("one", "allow") && test("web.3", "deny"));
        assert!(!test("one", "deny") && !test("web.3", "allow"));
    }

    #[test]
    fn an_answer_holds_at_most_max_addresses() {
        let sources: Vec<_> = (0..MAX_ADDRESSES + 9).map(|n| format!("'10.9.{}.{}'", n / 256, n % 256)).collect();
        let file =
            format!("[policy.p]\nallow_all = true\n[client.c]\nsources = [{}]\npolicy = 'p'\n", sources.join(","));
        let library = Directory::of(&[("p.toml", &file)]).library();
        let qname = name("c.devbox.internal");
        assert_eq!(library.snapshot().own_records(&qname, RecordType::A).count(), MAX_ADDRESSES);
    }
}
