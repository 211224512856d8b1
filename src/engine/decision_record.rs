//! The record of one decision, spelled out where the query is answered: there, everything it names is at hand.

use std::net::SocketAddr;
use std::path::Path;

use super::Asked;
use crate::dns::name::LowerName;
use crate::dns::rcode::Rcode;
use crate::dns::response::Response;
use crate::dns::rtype::RecordType;
use crate::labels::{Action, Origin, Reason};
use crate::policy::{Asker, Client, Decision, Limit, Policy, Rule};
use crate::telemetry::decision_log::Moment;
use crate::telemetry::json;
use crate::upstream::scope::{self, Shown};

/// The hops of a CNAME chain that a record names; of more, their number: a long chain of escaped names would make a line
/// of 40 KB for a query of 33 octets.
const MAX_HOPS: usize = 8;

/// The outcome for a query: the policy's decision, or the result of filtering the upstream's answer.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// The action taken.
    pub action: Action,
    /// The reason for the action.
    pub reason: Reason,
    /// The limit of the budget that is spent, if that is the reason.
    pub limit: Option<Limit>,
    /// `true` if `mode = "audit"` alone kept the query from being denied.
    pub audited: bool,
}

/// One line of the decision log.
#[derive(Debug)]
pub struct Record<'a> {
    /// The number of the policies it was answered by.
    pub generation: u64,
    /// The client by configuration, with its policy.
    pub asker: Asker<'a>,
    /// The source of the query and its transport.
    pub asked: Asked,
    /// The name in the question.
    pub qname: &'a LowerName,
    /// The type asked for.
    pub qtype: RecordType,
    /// The policy's decision on the question.
    pub decision: Decision<'a>,
    /// The outcome of the query.
    pub verdict: Verdict,
    /// The response code given.
    pub rcode: Rcode,
    /// The source of the data: cache, upstream or none.
    pub origin: Origin,
    /// The upstream that answered; `None` unless it was asked for this query.
    pub upstream: Option<SocketAddr>,
    /// The upstream's response, which has the CNAME chain.
    pub response: Option<&'a Response>,
}

impl Record<'_> {
    /// Appends the record as JSON, without a line's end. It is answered now.
    pub fn write(&self, moment: &Moment<'_>, line: &mut Vec<u8>) {
        line.extend_from_slice(b"{\"time\":\"");
        line.extend_from_slice(moment.text);
        line.extend_from_slice(b"\",\"client\":");
        json::optional(line, self.asker.client.map(Client::id));
        line.extend_from_slice(b",\"source\":\"");
        json::address(line, self.asked.source);
        line.extend_from_slice(b"\",\"transport\":\"");
        line.extend_from_slice(self.asked.transport.as_str().as_bytes());
        line.extend_from_slice(b"\",\"qname\":\"");
        json::wire_name(line, self.qname.as_wire());
        line.extend_from_slice(b"\",\"qtype\":\"");
        label(line, self.qtype.name(), "TYPE", self.qtype.0);
        line.extend_from_slice(b"\",\"policy\":");
        json::optional(line, self.asker.policy().map(Policy::id));
        line.extend_from_slice(b",\"generation\":");
        json::number(line, self.generation);
        line.extend_from_slice(b",\"action\":\"");
        line.extend_from_slice(self.verdict.action.as_str().as_bytes());
        line.extend_from_slice(b"\",\"audited\":");
        line.extend_from_slice(if self.verdict.audited { b"true" } else { b"false" });
        line.extend_from_slice(b",\"reason\":\"");
        line.extend_from_slice(self.verdict.reason.as_str().as_bytes());
        match &self.decision.rule {
            Some(rule) => write_rule(line, rule),
            None => line.extend_from_slice(b"\",\"rule\":null,\"place\":null,\"rcode\":\""),
        }
        label(line, self.rcode.name(), "RCODE", self.rcode.0);
        line.extend_from_slice(b"\",\"cache\":\"");
        line.extend_from_slice(self.origin.as_str().as_bytes());
        match self.upstream {
            Some(upstream) => {
                line.extend_from_slice(b"\",\"upstream\":\"");
                if scope::is_named(upstream) {
                    // As it is written; the name of an interface has nothing to escape.
                    line.extend_from_slice(Shown(upstream).to_string().as_bytes());
                } else {
                    json::socket(line, upstream);
                }
                line.extend_from_slice(b"\",\"elapsed_us\":");
            }
            None => line.extend_from_slice(b"\",\"upstream\":null,\"elapsed_us\":"),
        }
        let elapsed = moment.now.saturating_duration_since(self.asked.since);
        json::number(line, u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
        line.extend_from_slice(b",\"chain\":[");
        if let Some(response) = self.response {
            write_chain(line, response);
        }
        line.push(b']');
        if let Some(limit) = self.verdict.limit {
            line.extend_from_slice(b",\"limit\":\"");
            line.extend_from_slice(limit.key().as_bytes());
            line.push(b'"');
        }
        line.push(b'}');
    }
}

/// Appends the rule and its place, from the end of the value before to the begin of the one behind.
fn write_rule(line: &mut Vec<u8>, rule: &Rule<'_>) {
    line.extend_from_slice(b"\",\"rule\":\"");
    if rule.is_wildcard() {
        line.extend_from_slice(b"*.");
    }
    json::wire_name(line, rule.wire());
    line.extend_from_slice(b"\",\"place\":\"");
    let (path, number, column) = rule.position();
    write_place(line, path, number, column);
    line.extend_from_slice(b"\",\"rcode\":\"");
}

/// Appends a place as [`crate::document::Place`] is displayed.
fn write_place(line: &mut Vec<u8>, path: &Path, number: u32, column: u32) {
    match path.to_str() {
        Some(path) => json::escape(line, path),
        None => json::escape(line, &path.display().to_string()),
    }
    if number != 0 {
        line.push(b':');
        json::number(line, number.into());
        line.push(b':');
        json::number(line, column.into());
    }
}

/// Appends a name, or what those without one are called: a word and their number.
fn label(line: &mut Vec<u8>, name: Option<&str>, word: &str, number: u16) {
    line.extend_from_slice(name.unwrap_or(word).as_bytes());
    if name.is_none() {
        json::number(line, number.into());
    }
}

/// Appends the elements of the CNAME chain: [`MAX_HOPS`] at most, and how many more there are.
fn write_chain(line: &mut Vec<u8>, response: &Response) {
    let mut hops = 0;
    for target in response.targets() {
        if hops < MAX_HOPS {
            line.extend_from_slice(if hops == 0 { b"\"" } else { b",\"" });
            json::wire_name(line, target.as_wire());
            line.push(b'"');
        }
        hops += 1;
    }
    if hops > MAX_HOPS {
        line.extend_from_slice(b",\"+");
        json::number(line, u64::try_from(hops - MAX_HOPS).unwrap_or(u64::MAX));
        line.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use serde::Serialize;
    use serde::ser::{SerializeStruct, Serializer};

    use super::*;
    use crate::dns::query::Transport;
    use crate::dns::response::Question;
    use crate::policy::{self, Binding, Bindings, Library, Tree};

    /// A record as serde writes it: what the hand-written line is held against.
    struct Reference<'a>(&'a Record<'a>, &'a Moment<'a>);

    impl Serialize for Reference<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let Self(record, moment) = self;
            let targets: Vec<_> = record.response.iter().flat_map(|response| response.targets()).collect();
            let mut hops: Vec<_> = targets.iter().take(MAX_HOPS).map(ToString::to_string).collect();
            if targets.len() > hops.len() {
                hops.push(format!("+{}", targets.len() - hops.len()));
            }
            let elapsed = u64::try_from((moment.now - record.asked.since).as_micros()).unwrap();
            let mut line = serializer.serialize_struct("Record", 18)?;
            line.serialize_field("time", std::str::from_utf8(moment.text).unwrap())?;
            line.serialize_field("client", &record.asker.client.map(Client::id))?;
            line.serialize_field("source", &record.asked.source)?;
            line.serialize_field("transport", record.asked.transport.as_str())?;
            line.serialize_field("qname", &record.qname.to_string())?;
            line.serialize_field("qtype", &record.qtype.to_string())?;
            line.serialize_field("policy", &record.asker.policy().map(Policy::id))?;
            line.serialize_field("generation", &record.generation)?;
            line.serialize_field("action", record.verdict.action.as_str())?;
            line.serialize_field("audited", &record.verdict.audited)?;
            line.serialize_field("reason", record.verdict.reason.as_str())?;
            line.serialize_field("rule", &record.decision.rule.map(|rule| rule.to_string()))?;
            line.serialize_field("place", &record.decision.rule.map(|rule| rule.place().to_string()))?;
            line.serialize_field("rcode", &record.rcode.to_string())?;
            line.serialize_field("cache", record.origin.as_str())?;
            line.serialize_field("upstream", &record.upstream)?;
            line.serialize_field("elapsed_us", &elapsed)?;
            line.serialize_field("chain", &hops)?;
            line.end()
        }
    }

    /// Returns a response whose chain has these targets.
    fn chain(targets: &[LowerName]) -> Response {
        let qname = LowerName::from_text("www.test").unwrap();
        let qtype = RecordType::A;
        let question = Question {
            qname,
            qtype,
            dnssec_ok: false,
            authentic_data: false,
            checking_disabled: false,
            recursion_desired: true,
            partition: 0,
        };
        let mut bytes = vec![0, 0, 0x81, 0x80, 0, 1, 0, u8::try_from(targets.len()).unwrap(), 0, 0, 0, 0];
        bytes.extend(question.qname.as_wire());
        bytes.extend([0, 1, 0, 1]);
        let mut owner = &question.qname;
        for target in targets {
            bytes.extend(owner.as_wire());
            bytes.extend([0, 5, 0, 1, 0, 0, 1, 0, 0, u8::try_from(target.as_wire().len()).unwrap()]);
            bytes.extend(target.as_wire());
            owner = target;
        }
        Response::parse(&bytes, &question).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]
        #[test]
        fn lines_are_what_serde_writes(
            file in "[a-z \"\\\\\u{1}-\u{1f}\u{7f}\u{e4}]{1,20}",
            label in prop::collection::vec(any::<u8>(), 1..63),
            below in prop::sample::select(vec!["listed.test", "wild.test", "bad.test", "free.test"]),
            hops in 0..12_usize,
            (low, v6) in (any::<u32>(), any::<bool>()),
            (qtype, rcode) in (0..300_u16, 0..30_u16),
            (action, reason, origin) in (0..Action::ALL.len(), 0..Reason::ALL.len(), 0..Origin::ALL.len()),
            (generation, elapsed) in (any::<u64>(), any::<u32>()),
        ) {
            let mut tree = Tree { root: "p".into(), ..Tree::default() };
            let text = "[policy.p]\nallowed_hostnames = ['listed.test', '*.wild.test']\n\
                        denied_hostnames = ['*.bad.test']\n[client.c]\nsources = ['128.0.0.0/1']\npolicy = 'p'\n";
            tree.files.insert(Path::new("p").join(format!("{}.toml", file.replace('.', "_"))), Ok(text.into()));
            let bindings = Bindings { default_policy: Some(Binding::new("p")), ..Bindings::default() };
            let (library, _) = Library::start(&tree, &mut |_, _| unreachable!("no lists"), &bindings).unwrap();
            let source = IpAddr::from(low.to_be_bytes());
            let v4 = std::net::Ipv4Addr::from(low);
            let asked = Asked {
                source: if v6 { v4.to_ipv6_compatible().into() } else { source },
                transport: if v6 { Transport::Tcp } else { Transport::Udp },
                listener: 0,
                since: Instant::now(),
            };
            let asker = library.snapshot().asker(asked.source, 0);
            let below = LowerName::from_text(below).unwrap();
            let mut wire = vec![u8::try_from(label.len()).unwrap()];
            wire.extend(&label);
            wire.extend(below.as_wire());
            let qname = if hops % 2 == 0 { LowerName::from_uncompressed(&wire).unwrap().0 } else { below };
            let targets: Vec<_> =
                (0..hops).map(|hop| LowerName::from_text(&format!("\\{hop:03}.test")).unwrap()).collect();
            let response = chain(&targets);
            let record = Record {
                generation,
                asker,
                asked,
                qname: &qname,
                qtype: RecordType(qtype),
                decision: policy::decide(&asker, &qname, RecordType::A),
                verdict: Verdict { action: Action::ALL[action], reason: Reason::ALL[reason], limit: None, audited: v6 },
                rcode: Rcode(rcode),
                origin: Origin::ALL[origin],
                upstream: (hops % 3 == 0).then(|| SocketAddr::new(asked.source, qtype)),
                response: (hops > 0).then_some(&response),
            };
            let now = asked.since + Duration::from_micros(elapsed.into());
            let moment = Moment { now, text: b"2026-11-24T03:35:16.163760Z" };
            let mut line = Vec::new();
            record.write(&moment, &mut line);
            let expected = serde_json::to_string(&Reference(&record, &moment)).unwrap();
            prop_assert_eq!(String::from_utf8(line).unwrap(), expected);
        }
    }
}
