//! Lookup of the process that has an address in use, in the kernel's socket tables, as far as this user may read them.
//!
//! A failed bind alone does not say who is in the way; with this, `check --start` names the process.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A process with a socket bound to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SocketOwner {
    pub(super) pid: u32,
    /// The command name, of at most 15 octets (`/proc/PID/comm`).
    pub(super) name: String,
}

/// Returns the first process bound to `address`, or to all addresses with its port. `None` if there is none, or if only
/// root may see its descriptors.
pub(super) fn socket_owner(address: SocketAddr) -> Option<SocketOwner> {
    let tables = ["udp", "udp6", "tcp", "tcp6"];
    let inodes: Vec<String> = tables.iter().flat_map(|table| inodes(table, address)).collect();
    if inodes.is_empty() {
        return None;
    }
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let has_one = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files
            .filter_map(|file| fs::read_link(file.path()).ok())
            .any(|link| links.iter().any(|it| link.as_os_str() == &**it))
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // A socket that systemd passes on is open in both processes; the lower id is that of systemd.
    pids.sort_unstable();
    let pid = pids.into_iter().find(has_one)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    Some(SocketOwner { pid, name })
}

/// Returns the inodes of the sockets in a table (proc(5), `/proc/net/tcp`) that prevent others from binding an address.
fn inodes(table: &str, address: SocketAddr) -> Vec<String> {
    /// The state `TCP_LISTEN` in hexadecimal digits.
    const LISTENS: &str = "0A";
    let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
    let is_tcp = table.starts_with("tcp");
    let entry = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let local = parse_address(fields.get(1)?)?;
        let is_same = local.ip() == address.ip() || local.ip().is_unspecified() || address.ip().is_unspecified();
        // A UDP socket has no listening state, so each bound one counts.
        let holds = local.port() == address.port() && is_same && (!is_tcp || fields.get(3) == Some(&LISTENS));
        holds.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
    };
    text.lines().skip(1).filter_map(entry).collect()
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

    use super::*;

    #[test]
    fn process_with_an_address_is_found() {
        let name = fs::read_to_string("/proc/self/comm").unwrap().trim().to_owned();
        let own = Some(SocketOwner { pid: std::process::id(), name });
        for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let (Ok(udp), Ok(tcp)) = (UdpSocket::bind(address), TcpListener::bind(address)) else { continue };
            let [udp_at, tcp_at] = [udp.local_addr().unwrap(), tcp.local_addr().unwrap()];
            assert_eq!((socket_owner(udp_at), socket_owner(tcp_at)), (own.clone(), own.clone()), "{address}");
        }
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(socket_owner(free), None);
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
