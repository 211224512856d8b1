//! Which process has an address, as far as this user may see it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A process that has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// Its number.
    pub(super) pid: u32,
    /// Its name.
    pub(super) name: String,
}

/// Returns the first process that listens at an address, or at all addresses with its port; `None` where there is none, or
/// where only root may see whose it is.
pub(super) fn holder(address: SocketAddr) -> Option<Holder> {
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
    // What systemd passes to a service, both have.
    pids.sort_unstable();
    let pid = pids.into_iter().find(has_one)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    Some(Holder { pid, name })
}

/// Returns the inodes of the sockets of a table (proc(5), `/proc/net/tcp`) that keep an address from others.
fn inodes(table: &str, address: SocketAddr) -> Vec<String> {
    /// `TCP_LISTEN`, in hexadecimal digits.
    const LISTENS: &str = "0A";
    let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
    let is_tcp = table.starts_with("tcp");
    let entry = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let local = local(fields.get(1)?)?;
        let is_same = local.ip() == address.ip() || local.ip().is_unspecified() || address.ip().is_unspecified();
        let holds = local.port() == address.port() && is_same && (!is_tcp || fields.get(3) == Some(&LISTENS));
        holds.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
    };
    text.lines().skip(1).filter_map(entry).collect()
}

/// Reads an address as the kernel writes it there: words in the order of the machine, in hexadecimal digits.
fn local(text: &str) -> Option<SocketAddr> {
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
    fn the_process_that_has_an_address_is_found() {
        let name = fs::read_to_string("/proc/self/comm").unwrap().trim().to_owned();
        let own = Some(Holder { pid: std::process::id(), name });
        for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let (Ok(udp), Ok(tcp)) = (UdpSocket::bind(address), TcpListener::bind(address)) else { continue };
            let [udp_at, tcp_at] = [udp.local_addr().unwrap(), tcp.local_addr().unwrap()];
            assert_eq!((holder(udp_at), holder(tcp_at)), (own.clone(), own.clone()), "{address}");
        }
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(holder(free), None);
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let word = |octets: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(octets));
        assert_eq!(local(&format!("{}:0035", word([127, 0, 0, 1]))), Some("127.0.0.1:53".parse().unwrap()));
        let six = format!("{}{}{}{}:1F90", word([0x20, 1, 0xd, 0xb8]), word([0; 4]), word([0; 4]), word([0, 0, 0, 1]));
        assert_eq!(local(&six), Some("[2001:db8::1]:8080".parse().unwrap()));
        for bad in ["", "00:35", "zz", "0100007F", "0100007F:zz"] {
            assert_eq!(local(bad), None, "{bad}");
        }
    }
}
