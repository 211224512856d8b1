//! Lookup of the processes that have an address in use, in the kernel's socket tables, as far as this user may read them.
//!
//! A failed bind alone does not say who is in the way; with this, `check --start` names the process. It also tells a
//! hostgate that reports its addresses from any other program that answers in its place.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// A process with a socket bound to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SocketOwner {
    pub(super) pid: u32,
    /// The command name, of at most 15 octets (`/proc/PID/comm`).
    pub(super) name: String,
}

/// The processes that have addresses or Unix sockets in use.
#[derive(Default)]
pub(super) struct SocketOwners {
    /// The links of `/proc/PID/fd` by which each address or Unix socket is known.
    links: HashMap<String, Vec<String>>,
    /// The processes that have each link open, in the order of their ids.
    holders: HashMap<String, BTreeSet<u32>>,
}

impl SocketOwners {
    /// Finds the processes with sockets at some addresses, and at the path of a Unix socket.
    pub(super) fn find(addresses: impl Iterator<Item = SocketAddr>, path: Option<&Path>) -> Self {
        let tables = ["udp", "udp6", "tcp", "tcp6"].map(Table::read);
        let mut owners = Self::default();
        for address in addresses {
            let links = tables.iter().flat_map(|table| table.holding(address)).collect();
            owners.links.insert(address.to_string(), links);
        }
        if let Some(path) = path {
            owners.links.insert(unix(path), unix_links(path));
        }
        let wanted: BTreeSet<&String> = owners.links.values().flatten().collect();
        if wanted.is_empty() {
            return owners;
        }
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
            let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let links = files.filter_map(|file| fs::read_link(file.path()).ok()?.into_os_string().into_string().ok());
            for link in links.filter(|link| wanted.contains(link)) {
                owners.holders.entry(link).or_default().insert(pid);
            }
        }
        owners
    }

    /// Returns the processes with a socket at an address, or at `unix:PATH`, in the order of their ids; none if there is
    /// no socket, or if only root may see its descriptors.
    pub(super) fn of(&self, address: &str) -> BTreeSet<u32> {
        let links = self.links.get(address).into_iter().flatten();
        links.filter_map(|link| self.holders.get(link)).flatten().copied().collect()
    }

    /// Returns the first of those processes. A socket that systemd passes on is open in both processes; the lower id is
    /// that of systemd.
    pub(super) fn first(&self, address: SocketAddr) -> Option<SocketOwner> {
        let pid = self.of(&address.to_string()).into_iter().next()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
        Some(SocketOwner { pid, name })
    }
}

/// Returns the name of a Unix socket in the status.
pub(super) fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// Returns whether a process runs the program that this process runs: by its executable, or, if only root may see that,
/// by its command name.
pub(super) fn is_hostgate(pid: u32) -> bool {
    /// The longest command name, in octets (proc(5), `/proc/PID/comm`).
    const LONGEST: usize = 15;
    let program = |pid: &str| {
        let link = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let name = link.file_name()?.to_str()?;
        // An upgrade replaces the file of a program that runs.
        Some(name.strip_suffix(" (deleted)").unwrap_or(name).to_owned())
    };
    let Some(own) = program("self") else { return false };
    program(&pid.to_string()).map_or_else(
        || {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim().as_bytes() == &own.as_bytes()[..own.len().min(LONGEST)]
        },
        |other| other == own,
    )
}

/// A socket table of the kernel (proc(5), `/proc/net/tcp`).
struct Table {
    text: String,
    is_tcp: bool,
}

impl Table {
    fn read(name: &str) -> Self {
        Self {
            text: fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default(),
            is_tcp: name.starts_with("tcp"),
        }
    }

    /// Returns the links of the sockets that prevent others from binding an address.
    fn holding(&self, address: SocketAddr) -> Vec<String> {
        /// The state `TCP_LISTEN` in hexadecimal digits.
        const LISTENS: &str = "0A";
        let entry = |line: &str| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let local = parse_address(fields.get(1)?)?;
            let is_same = local.ip() == address.ip() || local.ip().is_unspecified() || address.ip().is_unspecified();
            // A UDP socket has no listening state, so each bound one counts.
            let holds = local.port() == address.port() && is_same && (!self.is_tcp || fields.get(3) == Some(&LISTENS));
            holds.then(|| fields.get(9).map(|inode| link(inode))).flatten()
        };
        self.text.lines().skip(1).filter_map(entry).collect()
    }
}

/// Returns the links of the Unix sockets that were bound to a path, which may have been relative.
fn unix_links(path: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let entry = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(6);
        let (inode, bound) = (fields.next()?, fields.next()?);
        path.ends_with(bound).then(|| link(inode))
    };
    text.lines().skip(1).filter_map(entry).collect()
}

/// Returns the link in `/proc/PID/fd` of a socket with this inode.
fn link(inode: &str) -> String {
    format!("socket:[{inode}]")
}

/// Parses an address of those tables: hexadecimal words in the byte order of the machine.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |from: usize| Some(u32::from_str_radix(ip.get(from..from + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (number, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(number * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn process_with_an_address_is_found() {
        let name = fs::read_to_string("/proc/self/comm").unwrap().trim().to_owned();
        let own = Some(SocketOwner { pid: std::process::id(), name });
        let first = |address| SocketOwners::find([address].into_iter(), None).first(address);
        for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let (Ok(udp), Ok(tcp)) = (UdpSocket::bind(address), TcpListener::bind(address)) else { continue };
            let [udp_at, tcp_at] = [udp.local_addr().unwrap(), tcp.local_addr().unwrap()];
            assert_eq!((first(udp_at), first(tcp_at)), (own.clone(), own.clone()), "{address}");
        }
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(first(free), None);
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let holders = || SocketOwners::find([].into_iter(), Some(&path)).of(&unix(&path));
        assert_eq!(holders(), [std::process::id()].into());
        drop(listener);
        assert_eq!(holders(), [].into());
    }

    #[test]
    fn program_of_a_process_is_compared_with_the_own_one() {
        assert!(is_hostgate(std::process::id()));
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(!is_hostgate(other.id()));
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(!is_hostgate(other.id()));
    }

    #[test]
    fn addresses_are_parsed_as_the_kernel_writes_them() {
        let word = |octets: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(octets));
        assert_eq!(parse_address(&format!("{}:0035", word([127, 0, 0, 1]))), Some("127.0.0.1:53".parse().unwrap()));
        let six = format!("{}{}{}{}:1F90", word([0x20, 1, 0xd, 0xb8]), word([0; 4]), word([0; 4]), word([0, 0, 0, 1]));
        assert_eq!(parse_address(&six), Some("[2001:db8::1]:8080".parse().unwrap()));
        for bad in ["", "00:35", "zz", "0100007F", "0100007F:zz"] {
            assert_eq!(parse_address(bad), None, "{bad}");
        }
    }
}
