//! The memory that this process may still have: by its own limits, by those of its control groups, and by the machine.
//!
//! Control groups are those of version 2 (`memory.max`), and of version 1 where the machine has it (`memory.limit_in_bytes`). A
//! group's own parents may have less than it has, so all on the way to the root are looked at.

use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use crate::util::regular_file;

/// The longest file of the kernel's that is read here, in octets.
const LONGEST: u64 = 64 << 10;

/// What is left of a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// Octets that are left.
    pub(crate) octets: u64,
    /// The limit, in octets.
    pub(crate) limit: u64,
    /// Whose limit it is, for people.
    pub(crate) whose: String,
    /// Whether it counts addresses, and not only what is written to.
    pub(crate) is_of_addresses: bool,
}

/// Returns what is left of each limit on this process's memory; `root` is `/` but for tests.
pub(crate) fn memory_left(root: &Path) -> Vec<Left> {
    let mut left = Vec::new();
    let status = read(&root.join("proc/self/status")).unwrap_or_default();
    for (resource, key, whose) in [(Resource::As, "VmSize", "RLIMIT_AS"), (Resource::Data, "VmData", "RLIMIT_DATA")] {
        if let (Some(limit), Some(used)) = (getrlimit(resource).current, kib(&status, key)) {
            let octets = limit.saturating_sub(used);
            left.push(Left { octets, limit, whose: whose.to_owned(), is_of_addresses: true });
        }
    }
    left.extend(of_groups(root));
    left.extend(of_machine(root));
    left
}

/// Returns the lowest limit on memory that this process's control groups have, if any has one.
pub(crate) fn group_limit(root: &Path) -> Option<Left> {
    of_groups(root).into_iter().min_by_key(|left| left.limit)
}

/// Returns what is left on the machine, swap included.
fn of_machine(root: &Path) -> Option<Left> {
    let text = read(&root.join("proc/meminfo"))?;
    let octets = kib(&text, "MemAvailable")? + kib(&text, "SwapFree").unwrap_or(0);
    let limit = kib(&text, "MemTotal")? + kib(&text, "SwapTotal").unwrap_or(0);
    Some(Left { octets, limit, whose: "this machine".to_owned(), is_of_addresses: false })
}

/// Returns what is left to each control group that has a limit.
fn of_groups(root: &Path) -> Vec<Left> {
    let mut left = Vec::new();
    for line in read(&root.join("proc/self/cgroup")).unwrap_or_default().lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
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

/// Returns what is left to one control group, if it has a limit.
fn of_group(group: &Path, [limit, used, inactive]: [&str; 3]) -> Option<Left> {
    /// What version 1 has in place of no limit, less a page.
    const UNBOUNDED: u64 = 1 << 62;
    let file: PathBuf = group.join(limit);
    let limit = number(&file).filter(|limit| *limit < UNBOUNDED)?;
    // Files that were read and are not in use are given up first.
    let stat = read(&group.join("memory.stat")).unwrap_or_default();
    let inactive = stat.lines().find_map(|line| line.strip_prefix(inactive)?.trim().parse::<u64>().ok());
    let used = number(&group.join(used))?.saturating_sub(inactive.unwrap_or(0));
    let whose = format!("the control group's {}", file.display());
    Some(Left { octets: limit.saturating_sub(used), limit, whose, is_of_addresses: false })
}

/// Returns the octets of a line `KEY: NUMBER kB`.
fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Reads a file with a number in it.
fn number(path: &Path) -> Option<u64> {
    read(path)?.trim().parse().ok()
}

/// Reads a file of the kernel's.
fn read(path: &Path) -> Option<String> {
    regular_file::read_text(path, LONGEST).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Makes a file system of these files.
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
        assert!(left[0].whose.ends_with("/system.slice/memory.max"), "{left:?}");
        assert_eq!(group_limit(root.path()).unwrap().limit, 100_000);
        let machine = of_machine(root.path()).unwrap();
        assert_eq!((machine.octets, machine.limit), (4010 << 10, 8100 << 10));
    }

    #[test]
    fn version_1_and_a_container_whose_path_is_the_hosts() {
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
    fn this_process_has_a_machine() {
        assert!(memory_left(Path::new("/")).iter().any(|left| left.whose == "this machine" && left.octets > 0));
    }
}
