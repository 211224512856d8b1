//! What both benchmarks need: a policy, queries, a cache with answers, and the two ways of a query that need no
//! upstream, put together from the library's public parts as the engine puts them together.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hostgate::dns::answer::{self, Ede, Negative, TtlMode};
use hostgate::dns::name::LowerName;
use hostgate::dns::query::{self, Parsed, Query, Transport};
use hostgate::dns::rcode::Rcode;
use hostgate::dns::response::{Filtered, Question, Response, ResponseRules, filter_response};
use hostgate::dns::rtype::RecordType;
use hostgate::engine::Asked;
use hostgate::engine::cache::{Cache, Hit, Settings};
use hostgate::engine::decision_record::{Record, Verdict};
use hostgate::fair_share::Holder;
use hostgate::labels::Origin;
use hostgate::policy::{Action, Asker, Bindings, Decision, Library, ListText, Policy, Snapshot, Tree};
use hostgate::telemetry::decision_log::{DecisionLog, DecisionLogCounts};

/// How many queries of each kind go round.
pub(crate) const ROUND: usize = 1000;
/// The client of all queries.
pub(crate) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The client of queries with large answers; its policy inspects what these lead to.
pub(crate) const INSPECTED: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
/// The time at which everything is asked; the answers came at zero.
const NOW: Duration = Duration::from_secs(1);

/// Everything a query needs.
pub(crate) struct Fixture {
    /// The policies in force.
    pub(crate) snapshot: Arc<Snapshot>,
    /// Answers to all of `allowed`.
    pub(crate) cache: Cache,
    /// Queries for allowed names, as messages.
    pub(crate) allowed: Vec<Vec<u8>>,
    /// Queries for other names, as messages.
    pub(crate) denied: Vec<Vec<u8>>,
    /// Queries whose answers hold as much as an attacker can put there, as messages.
    pub(crate) heavy: Vec<Vec<u8>>,
}

impl Fixture {
    /// Makes a policy of so many hostnames, each with what is below it, and queries with an OPT record or without.
    pub(crate) fn new(hostnames: usize, with_opt: bool) -> Self {
        let list: Vec<_> = (0..hostnames).map(|number| format!("{0}\n*.{0}\n", hostname(number))).collect();
        let text = "[policy.p]\nallowed_hostnames_files = ['names.txt']\n\
                    [client.c]\nsources = ['127.0.0.0/8']\npolicy = 'p'\n\
                    [policy.h]\nallowed_hostnames = ['*.heavy.test']\ncname = 'inspect'\n\
                    [client.h]\nsources = ['198.51.100.0/24']\npolicy = 'h'\n";
        let mut tree = Tree { root: "p".into(), ..Tree::default() };
        tree.files.insert(Path::new("p/p.toml"), Ok(text.into()));
        let list = list.concat();
        let (library, _) = Library::start(&tree, &mut |_, _| Ok(ListText::Text(list.clone())), &Bindings::default())
            .expect("the policy is well-formed");
        let allowed: Vec<_> =
            (0..ROUND).map(|number| query(&format!("www.{}", hostname(number * 7 % hostnames)), with_opt)).collect();
        let denied = (0..ROUND).map(|number| query(&format!("x{number}.evil{}.test", number * 7), with_opt)).collect();
        let hour = Duration::from_hours(1);
        let cache = Cache::new(Settings { size: 64 << 20, max_ttl: hour, serve_stale: hour });
        for message in &allowed {
            let question = parsed(message).to_question();
            let response = Response::parse(&reply(&question), &question).expect("the reply is well-formed");
            cache.insert(&question, Arc::new(response), Holder::NOBODY, Duration::ZERO);
        }
        let mut heavy = Vec::new();
        for (number, (qtype, records)) in heavy_answers().into_iter().enumerate() {
            let message = query_of(&format!("h{number}.heavy.test"), qtype, with_opt);
            let question = parsed(&message).to_question();
            let reply = reply_of(&question, &records);
            let response = Response::parse(&reply, &question).expect("the reply is well-formed");
            cache.insert(&question, Arc::new(response), Holder::NOBODY, Duration::ZERO);
            heavy.push(message);
        }
        Self { snapshot: Arc::clone(library.snapshot()), cache, allowed, denied, heavy }
    }

    /// Answers a query of `source` as the engine does, up to counting it; returns whether it could be answered without an
    /// upstream.
    #[inline]
    pub(crate) fn answer_to(&self, source: IpAddr, transport: Transport, message: &[u8], out: &mut Vec<u8>) -> bool {
        let Parsed::Query(query) = query::parse(message) else { return false };
        let asker = self.snapshot.asker(source, 0);
        let decision = self.snapshot.decide(&asker, &query.qname, query.qtype);
        let limit = query.payload_limit(transport);
        if decision.action != Action::Allow {
            let text = if query.edns.is_some() { decision.text() } else { Cow::Borrowed("") };
            let ede = Ede { code: Ede::BLOCKED, text: &text };
            answer::negative(&query, Negative::NxDomain, 5, Some(ede), limit, out);
            return true;
        }
        let Hit::Fresh { response, age, .. } = self.cache.get(&query, asker.holder(source), NOW) else { return false };
        let rules = Rules { asker, query: &query };
        let response = match filter_response(&response, &rules) {
            Filtered::Unchanged => &response,
            Filtered::Rewritten(response) => response,
            Filtered::NoData | Filtered::Denied { .. } => return false,
        };
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        answer::from_response(&query, response, TtlMode::Aged(age), None, limit, out);
        true
    }
}

/// A record: the owner as octets, the type, the data.
type Owned = (Vec<u8>, RecordType, Vec<u8>);

/// Returns answers that hold as much as an attacker can put there, each with a private address among it: their type, and
/// their records.
fn heavy_answers() -> Vec<(RecordType, Vec<Owned>)> {
    let (qname, private) = (vec![0xc0, 12], vec![10, 0, 0, 1]);
    let address =
        |number: usize| vec![1, 1, u8::try_from(number / 256).unwrap_or(0), u8::try_from(number % 256).unwrap_or(0)];
    let long = |number: usize| {
        wire(&format!("{}.t{number:04}.heavy.test", ["x".repeat(60), "y".repeat(60), "z".repeat(60)].join(".")))
    };
    let addresses = |count| {
        let public = (0..count).map(|number| (qname.clone(), RecordType::A, address(number)));
        public.chain([(qname.clone(), RecordType::A, private.clone())]).collect::<Vec<_>>()
    };
    let mx = |count: usize| {
        let exchange = |number: usize| [vec![0, 10], long(number)].concat();
        let records = (0..count).map(|number| (qname.clone(), RecordType::MX, exchange(number % 60)));
        records.chain([(long(0), RecordType::A, private.clone())]).collect::<Vec<_>>()
    };
    let https = |count: usize| {
        let data = |number: usize| [vec![0, 1], long(number), vec![0, 4, 0, 8, 10, 0, 0, 1, 1, 1, 1, 1]].concat();
        (0..count).map(|number| (qname.clone(), RecordType::HTTPS, data(number))).collect::<Vec<_>>()
    };
    let hop = |number: usize| wire(&format!("c{number}.heavy.test"));
    let chain = (0..32).map(|number| {
        let owner = if number == 0 { qname.clone() } else { hop(number) };
        (owner, RecordType::CNAME, hop(number + 1))
    });
    let chain: Vec<_> =
        chain.chain([(hop(32), RecordType::A, address(1)), (hop(32), RecordType::A, private.clone())]).collect();
    vec![
        (RecordType::A, addresses(60)),
        (RecordType::A, addresses(4000)),
        (RecordType::MX, mx(5)),
        (RecordType::MX, mx(290)),
        (RecordType::HTTPS, https(4)),
        (RecordType::HTTPS, https(64)),
        (RecordType::A, chain),
    ]
}

/// Opens a decision log that the kernel forgets at once.
pub(crate) fn decision_log() -> (DecisionLog, Arc<DecisionLogCounts>) {
    let counts = Arc::new(DecisionLogCounts::default());
    (DecisionLog::open(Path::new("/dev/null"), Arc::clone(&counts)).expect("/dev/null can be written"), counts)
}

/// Records what was decided about a query that was answered without an upstream, as the engine does.
pub(crate) fn record(log: &DecisionLog, query: &Query<'_>, asker: Asker<'_>, decision: Decision<'_>, since: Instant) {
    let is_allowed = decision.action == Action::Allow;
    let record = Record {
        generation: 1,
        asker,
        asked: Asked { source: CLIENT, transport: Transport::Udp, listener: 0, since },
        qname: &query.qname,
        qtype: query.qtype,
        decision,
        verdict: Verdict { action: decision.action, reason: decision.reason, limit: None, audited: decision.audited },
        rcode: if is_allowed { Rcode::NOERROR } else { Rcode::NXDOMAIN },
        origin: if is_allowed { Origin::Hit } else { Origin::None },
        upstream: None,
        response: None,
    };
    log.record(|moment, line| record.write(moment, line));
}

/// The policy's say on answers.
struct Rules<'a> {
    /// Whose policy it is.
    asker: Asker<'a>,
    /// What was asked.
    query: &'a Query<'a>,
}

impl ResponseRules for Rules<'_> {
    fn allows_private(&self) -> bool {
        self.asker.policy().is_some_and(|policy| policy.allows_private(&self.query.qname))
    }

    fn inspects_by(&self) -> Option<u64> {
        self.asker.policy().filter(|policy| policy.inspects_cname()).map(Policy::serial)
    }

    fn allows_target(&self, target: &LowerName) -> bool {
        self.asker.policy().is_none_or(|policy| policy.allows_target(target))
    }
}

/// Parses a query that is well-formed.
pub(crate) fn parsed(message: &[u8]) -> Query<'_> {
    match query::parse(message) {
        Parsed::Query(query) => query,
        other => panic!("not a query: {other:?}"),
    }
}

/// Returns the name of the policy's entry of that number.
fn hostname(number: usize) -> String {
    format!("h{number:07}.example{}.test", number % 5)
}

/// Returns a name in wire format, in lower case.
fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| {
        let length = u8::try_from(label.len()).expect("a short label");
        std::iter::once(length).chain(label.bytes())
    });
    labels.chain([0]).collect()
}

/// Returns a query for a name's address, in mixed case.
fn query(name: &str, with_opt: bool) -> Vec<u8> {
    query_of(name, RecordType::A, with_opt)
}

/// Returns a query for a name's records of a type, in mixed case.
fn query_of(name: &str, qtype: RecordType, with_opt: bool) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(with_opt)];
    for (index, label) in name.split('.').enumerate() {
        bytes.push(u8::try_from(label.len()).expect("a short label"));
        bytes.extend(if index % 2 == 0 { label.to_uppercase() } else { label.to_owned() }.bytes());
    }
    bytes.push(0);
    bytes.extend([qtype.0.to_be_bytes(), [0, 1]].concat());
    if with_opt {
        bytes.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    }
    bytes
}

/// Returns an upstream's reply to a question: two addresses.
fn reply(question: &Question) -> Vec<u8> {
    // Globally reachable on purpose: others would be taken out of the answer. Nobody connects to them.
    reply_of(question, &[4, 5].map(|last| (vec![0xc0, 12], RecordType::A, vec![1, 2, 3, last])))
}

/// Returns an upstream's reply to a question: these records, addresses of other names in the additional section.
fn reply_of(question: &Question, records: &[Owned]) -> Vec<u8> {
    let is_additional = |rtype| rtype == RecordType::A && question.qtype != RecordType::A;
    let additionals = records.iter().filter(|(_, rtype, _)| is_additional(*rtype)).count();
    let mut bytes = vec![0x12, 0x34, 0x81, 0x80, 0, 1];
    for count in [records.len() - additionals, 0, additionals] {
        bytes.extend(u16::try_from(count).expect("few records").to_be_bytes());
    }
    bytes.extend(question.qname.as_wire());
    bytes.extend([question.qtype.0.to_be_bytes(), [0, 1]].concat());
    for (owner, rtype, data) in records {
        bytes.extend(owner);
        bytes.extend([rtype.0.to_be_bytes(), [0, 1], [0, 0], [1, 44]].concat());
        bytes.extend(u16::try_from(data.len()).expect("short data").to_be_bytes());
        bytes.extend(data);
    }
    bytes
}
