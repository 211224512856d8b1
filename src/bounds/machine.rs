//! The memory still available to this process: what its resource limits and its control groups allow, and what the
//! machine has left.
//!
//! Both versions of control groups are read: `memory.max` of version 2 and `memory.limit_in_bytes` of version 1. A
//! parent group can have a lower limit than its child, so every group up to the root is read.

use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use crate::util::regular_file;

/// The most octets read from one file in /proc or /sys.
const LONGEST: u64 = 64 << 10;

/// The memory left below one limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryLeft {
    pub(crate) octets: u64,
    /// The limit, in octets.
    pub(crate) limit: u64,
    /// The name of the limit, for messages.
    pub(crate) limited_by: String,
    /// Whether the limit counts address space (`RLIMIT_AS`, `RLIMIT_DATA`) and not only memory that has been written
    /// to.
    pub(crate) is_of_addresses: bool,
}

/// Returns the memory left below each limit of this process. `root` is `/`, or the stand-in of a test.
pub(crate) fn memory_left(root: &Path) -> Vec<MemoryLeft> {
    let mut left = Vec::new();
    let status = read(&root.join("proc/self/status")).unwrap_or_default();
    for (resource, key, limited_by) in
        [(Resource::As, "VmSize", "RLIMIT_AS"), (Resource::Data, "VmData", "RLIMIT_DATA")]
    {
        if let (Some(limit), Some(used)) = (getrlimit(resource).current, kib(&status, key)) {
            let octets = limit.saturating_sub(used);
            left.push(MemoryLeft { octets, limit, limited_by: limited_by.to_owned(), is_of_addresses: true });
        }
    }
    left.extend(of_groups(root));
    left.extend(of_machine(root));
    left
}

/// Returns the lowest memory limit among this process's control groups, or `None` if none has a limit.
pub(crate) fn group_limit(root: &Path) -> Option<MemoryLeft> {
    of_groups(root).into_iter().min_by_key(|left| left.limit)
}

/// Returns the memory left on the machine, including swap.
fn of_machine(root: &Path) -> Option<MemoryLeft> {
    let text = read(&root.join("proc/meminfo"))?;
    let octets = kib(&text, "MemAvailable")? + kib(&text, "SwapFree").unwrap_or(0);
    let limit = kib(&text, "MemTotal")? + kib(&text, "SwapTotal").unwrap_or(0);
    Some(MemoryLeft { octets, limit, limited_by: "this machine".to_owned(), is_of_addresses: false })
}

/// Returns the memory left in each control group that has a limit.
fn of_groups(root: &Path) -> Vec<MemoryLeft> {
    let mut left = Vec::new();
    for line in read(&root.join("proc/self/cgroup")).unwrap_or_default().lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        // Version 2 has one line without controllers, version 1 one for each hierarchy (cgroups(7)). The key ends in a
        // space, so that it matches the whole key of a line.
        let (mount, names) = if controllers.is_empty() {
            ("sys/fs/cgroup", ["memory.max", "memory.current", "inactive_file "])
        } else if controllers.split(',').any(|controller| controller == "memory") {
            let names = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "];
            ("sys/fs/cgroup/memory", names)
        } else {
            continue;
        };
        let mount = root.join(mount);
        let mut group = mount.join(path.trim_start_matches('/'));
        // In a container the path may be that of the host, and the group's own files are those of the mount.
        if !group.starts_with(&mount) || !group.is_dir() {
            group.clone_from(&mount);
        }
        while group.starts_with(&mount) {
            left.extend(of_group(&group, names));
            if !group.pop() {
                break;
            }
        }
    }
    left
}

/// Returns the memory left in one control group, or `None` if it has no limit.
fn of_group(group: &Path, [limit, used, inactive]: [&str; 3]) -> Option<MemoryLeft> {
    /// A value that version 1 writes for "no limit" is above this one; the exact value depends on the page size.
    const UNBOUNDED: u64 = 1 << 62;
    let file: PathBuf = group.join(limit);
    let limit = number(&file).filter(|limit| *limit < UNBOUNDED)?;
    // The kernel reclaims inactive pages of files first, so they count as free.
    let stat = read(&group.join("memory.stat")).unwrap_or_default();
    let inactive = stat.lines().find_map(|line| line.strip_prefix(inactive)?.trim().parse::<u64>().ok());
    let used = number(&group.join(used))?.saturating_sub(inactive.unwrap_or(0));
    let limited_by = format!("the control group's {}", file.display());
    Some(MemoryLeft { octets: limit.saturating_sub(used), limit, limited_by, is_of_addresses: false })
}

/// Returns the value of a line `KEY: NUMBER kB`, in octets.
fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Reads a file that contains one number.
fn number(path: &Path) -> Option<u64> {
    read(path)?.trim().parse().ok()
}

/// Reads a file in /proc or /sys.
fn read(path: &Path) -> Option<String> {
    regular_file::read_text(path, LONGEST).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Creates a stand-in for the root directory with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn limits_of_all_groups_on_the_way_to_the_root_count() {
        let root = root(&[
            ("proc/self/cgroup", "0::/system.slice/hostgate.service\n"),
            (
                "proc/meminfo",
                "MemTotal: 8000 kB\nMemFree: 1 kB\nMemAvailable:  4000 kB\nSwapTotal: 100 kB\nSwapFree: 10 kB\n",
            ),
            ("sys/fs/cgroup/system.slice/hostgate.service/memory.max", "max\n"),
            ("sys/fs/cgroup/system.slice/hostgate.service/memory.current", "5000\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "100000\n"),
            ("sys/fs/cgroup/system.slice/memory.current", "60000\n"),
            ("sys/fs/cgroup/system.slice/memory.stat", "anon 1\ninactive_file 20000\n"),
        ]);
        let left = of_groups(root.path());
        assert_eq!(left.iter().map(|left| (left.octets, left.limit)).collect::<Vec<_>>(), [(60_000, 100_000)]);
        assert!(left[0].limited_by.ends_with("/system.slice/memory.max"), "{left:?}");
        assert_eq!(group_limit(root.path()).unwrap().limit, 100_000);
        let machine = of_machine(root.path()).unwrap();
        assert_eq!((machine.octets, machine.limit), (4010 << 10, 8100 << 10));
    }

    #[test]
    fn version_1_groups_are_read_also_if_their_path_is_that_of_the_host() {
        let root = root(&[
            ("proc/self/cgroup", "12:cpu,cpuacct:/docker/x\n5:memory:/docker/x\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "400000\n"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 100000\n"),
        ]);
        let left = of_groups(root.path());
        assert_eq!(left.iter().map(|left| (left.octets, left.limit)).collect::<Vec<_>>(), [(700_000, 1_000_000)]);
        fs::write(root.path().join("sys/fs/cgroup/memory/memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
        assert_eq!(of_groups(root.path()), []);
    }

    #[test]
    fn memory_of_this_machine_is_found() {
        assert!(memory_left(Path::new("/")).iter().any(|left| left.limited_by == "this machine" && left.octets > 0));
    }
}
