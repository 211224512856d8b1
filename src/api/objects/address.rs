//! The addresses of devboxes and build containers: named in `metadata`, or from a pool.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::api::objects::is_of_api;
use crate::api::objects::object_file::Fields;
use crate::api::objects::reserved::Reserved;
use crate::api::request::call::Call;
use crate::api::request::error::ApiError;
use crate::policy::{Client, Snapshot};

/// The key of `metadata` with an address.
pub(in crate::api) const KEY: &str = "hostgate.address";
/// The offset of the first address that a pool gives out, after the network's and the gateway's.
const FIRST: u128 = 2;
/// The reserved addresses that are passed over in a pool at most: a machine may have many of its own.
const MOST_RESERVED: usize = 256;
/// The addresses of a client that a view shows: a person may have written thousands.
const MOST_SHOWN: usize = 10;

/// A pool of addresses. It gives them out in order, so that one which was released is not used again soon.
#[derive(Debug)]
pub(in crate::api) struct AddressPool {
    net: IpNet,
    /// The offset of the next address.
    next: u128,
}

impl AddressPool {
    /// Makes a pool whose addresses were given out up to `last`.
    pub(in crate::api) fn new(net: IpNet, last: Option<IpAddr>) -> Self {
        let last = last.filter(|last| net.contains(last)).map(|last| bits(last) - bits(net.network()));
        Self { net, next: last.map_or(FIRST, |last| last + 1) }
    }

    /// Returns the next address that no client has and that is not reserved.
    fn take(&mut self, snapshot: &Snapshot, reserved: &Reserved) -> Option<IpAddr> {
        let last = (1_u128 << (self.net.max_prefix_len() - self.net.prefix_len()).min(127)) - 2;
        // Each address that is passed over is a client's or reserved: one more try than both finds a free one.
        for _ in 0..=snapshot.clients().len() + MOST_RESERVED {
            if !(FIRST..=last).contains(&self.next) {
                self.next = FIRST;
            }
            let address = from_bits(self.net, bits(self.net.network()) + self.next);
            self.next += 1;
            if FIRST <= last && owner(snapshot, address).is_none() && reserved.role(address).is_none() {
                return Some(address);
            }
        }
        None
    }
}

/// Returns the address of a new object: the one in its metadata, or the next of the pool. Messages name the object and
/// the key of the pool in `[control]`.
///
/// The caller's own address is refused unless clients may use the API: its caller would lose access.
///
/// # Errors
/// The address is not valid, reserved or in use, or the pool is absent or used up.
pub(in crate::api) fn choose(
    call: &Call,
    snapshot: &Snapshot,
    metadata: &Fields,
    pool: Option<&mut AddressPool>,
    names: (&str, &str),
) -> Result<IpAddr, ApiError> {
    let caller = call.principal.source.filter(|_| !call.control.settings.allow_clients);
    choose_except(caller, (snapshot, &call.control.reserved), metadata, pool, names)
}

fn choose_except(
    caller: Option<IpAddr>,
    (snapshot, reserved): (&Snapshot, &Reserved),
    metadata: &Fields,
    pool: Option<&mut AddressPool>,
    (what, key): (&str, &str),
) -> Result<IpAddr, ApiError> {
    let caller = caller.map(|caller| caller.to_canonical());
    let wrong = |message: String| ApiError::bad(format!("metadata[\"{KEY}\"]: {message}"));
    if let Some(text) = metadata.get(KEY).and_then(Value::as_str) {
        let address = named(snapshot, text).map_err(wrong)?;
        if Some(address) == caller {
            return Err(wrong(format!(
                "`{address}` is the address this request comes from, which could not use the API any more: use another, \
                 or ask from elsewhere"
            )));
        }
        return match reserved.role(address) {
            Some(role) => Err(wrong(format!("`{address}` is {role}, which no {what} can have: use another"))),
            None => Ok(address),
        };
    }
    let Some(pool) = pool else {
        return Err(wrong(format!(
            "a {what} needs an address: write it there, or set `{key}` under [control] of hostgate.toml"
        )));
    };
    let net = pool.net;
    // After the caller's address comes another one, unless it is the last free one.
    let mut take = || pool.take(snapshot, reserved).filter(|address| Some(*address) != caller);
    take().or_else(take).ok_or_else(|| {
        ApiError::bad(format!(
            "{key}: all addresses of {net} are in use: shut devboxes down, or widen it in hostgate.toml"
        ))
    })
}

/// Parses the address in metadata and checks that no client has it.
fn named(snapshot: &Snapshot, text: &str) -> Result<IpAddr, String> {
    // IPv4 in IPv6 form is the same client: queries over a dual-stack socket come from there.
    let shown = text.escape_debug();
    let address = text.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    let Some(address) = address.filter(|address| !address.is_unspecified() && !address.is_multicast()) else {
        return Err(format!("`{shown}` is no address that a client can have: write one as `10.88.0.7`"));
    };
    let Some(client) = owner(snapshot, address) else { return Ok(address) };
    let id = client.id();
    let owner = if client.is_held() {
        format!("`{id}`, whose file is bad or gone: mend it, or shut it down first")
    } else if is_of_api(snapshot, id, client.source()) {
        format!("devbox `{id}`: shut it down first")
    } else {
        format!("client `{id}` ({}): change it there", client.place())
    };
    Err(format!("`{shown}` is the address of {owner}, or use another"))
}

/// Returns the client that has exactly this address.
fn owner(snapshot: &Snapshot, address: IpAddr) -> Option<&Client> {
    // A listener that does not exist, so that no policy of a listener applies.
    let client = snapshot.asker(address, usize::MAX).client?;
    client.sources().any(|source| source == IpNet::from(address)).then_some(client)
}

/// Returns the addresses of a client as `metadata` shows them.
pub(in crate::api) fn of(client: &Client) -> Value {
    let sources = client.sources().take(MOST_SHOWN).map(|source| {
        let is_one = source.prefix_len() == source.max_prefix_len();
        if is_one { source.addr().to_string() } else { source.to_string() }
    });
    sources.collect::<Vec<_>>().join(", ").into()
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Returns the address with these bits in the family of a network.
fn from_bits(net: IpNet, bits: u128) -> IpAddr {
    match net {
        IpNet::V4(_) => IpAddr::V4(u32::try_from(bits).unwrap_or(u32::MAX).into()),
        IpNet::V6(_) => IpAddr::V6(bits.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Bindings, Library, ListText, Tree};

    /// Makes a snapshot in which these are clients.
    fn snapshot(sources: &[&str]) -> std::sync::Arc<Snapshot> {
        use std::fmt::Write as _;
        let mut text = "[policy.p]\nallow_all = true\n".to_owned();
        for (index, source) in sources.iter().enumerate() {
            write!(text, "[client.c{index}]\nsources = [\"{source}\"]\npolicy = \"p\"\n").unwrap();
        }
        let mut tree = Tree { root: "p".into(), ..Tree::default() };
        tree.files.insert(std::path::Path::new("p/x.toml"), Ok(text.into()));
        let mut lists = |_: &std::path::Path, _| Ok(ListText::Unchanged);
        let (library, _) = Library::start(&tree, &mut lists, &Bindings::default()).unwrap();
        std::sync::Arc::clone(library.snapshot())
    }

    /// Returns an address.
    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_pool_gives_out_what_is_free_in_a_row_and_begins_again() {
        let mut pool = AddressPool::new("10.0.0.0/29".parse().unwrap(), None);
        let wide = snapshot(&["10.0.0.4", "10.0.0.0/29"]);
        let taken: Vec<_> = (0..5).map(|_| pool.take(&wide, &Reserved::default()).unwrap().to_string()).collect();
        assert_eq!(taken, ["10.0.0.2", "10.0.0.3", "10.0.0.5", "10.0.0.6", "10.0.0.2"]);
        let full = snapshot(&["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert_eq!(pool.take(&full, &Reserved::default()), None);
        let mut after = AddressPool::new("10.0.0.0/29".parse().unwrap(), Some(address("10.0.0.5")));
        assert_eq!(after.take(&wide, &Reserved::default()), Some(address("10.0.0.6")));
        assert_eq!(after.take(&wide, &Reserved::default()), Some(address("10.0.0.2")));
    }

    #[test]
    fn pools_of_all_sizes_keep_their_first_and_last_address() {
        let nobody = snapshot(&["192.0.2.1"]);
        for (net, first) in [
            ("10.0.0.0/30", "10.0.0.2"),
            ("0.0.0.0/0", "0.0.0.2"),
            ("2001:db8::/126", "2001:db8::2"),
            ("2001:db8::/64", "2001:db8::2"),
            ("::/0", "::2"),
        ] {
            let mut pool = AddressPool::new(net.parse().unwrap(), None);
            assert_eq!(pool.take(&nobody, &Reserved::default()), Some(address(first)), "{net}");
        }
        let mut small = AddressPool::new("10.0.0.0/30".parse().unwrap(), Some(address("10.0.0.3")));
        assert_eq!(
            (small.take(&nobody, &Reserved::default()), small.take(&nobody, &Reserved::default())),
            (Some(address("10.0.0.2")), Some(address("10.0.0.2")))
        );
    }

    #[test]
    fn a_pool_never_gives_callers_their_own_address() {
        let nobody = snapshot(&["192.0.2.1"]);
        let mut pool = AddressPool::new("10.0.0.0/29".parse().unwrap(), None);
        let choose = |caller, pool: &mut AddressPool| {
            let place = (&*nobody, &Reserved::default());
            choose_except(Some(address(caller)), place, &Fields::new(), Some(pool), ("devbox", "devbox_pool"))
        };
        assert_eq!(choose("10.0.0.2", &mut pool).unwrap(), address("10.0.0.3"));
        assert_eq!(choose("10.0.0.5", &mut pool).unwrap(), address("10.0.0.4"));
        let mut one = AddressPool::new("10.0.0.0/30".parse().unwrap(), None);
        assert!(choose("10.0.0.2", &mut one).unwrap_err().message.contains("all addresses of 10.0.0.0/30 are in use"));
    }

    #[test]
    fn an_address_that_is_named_must_be_one_and_nobodys() {
        let taken = snapshot(&["10.0.0.7", "10.0.0.0/8"]);
        let caller = Some(address("::ffff:10.0.0.9"));
        let choose = |text: &str| {
            let metadata = Fields::from_iter([(KEY.to_owned(), text.into())]);
            choose_except(caller, (&taken, &Reserved::default()), &metadata, None, ("devbox", "devbox_pool"))
                .map_err(|error| error.message)
        };
        assert_eq!(choose("::ffff:10.0.0.8"), Ok(address("10.0.0.8")));
        assert!(choose("10.0.0.7").unwrap_err().contains("`10.0.0.7` is the address of client `c0` (p/x.toml:3:9)"));
        assert!(choose("10.0.0.9").unwrap_err().contains("`10.0.0.9` is the address this request comes from"));
        for bad in ["", "10.0.0.0/8", "0.0.0.0", "224.0.0.1", "ff02::1", "host"] {
            assert!(choose(bad).unwrap_err().contains("is no address"), "{bad}");
        }
    }
}
