//! The user that a service runs as, for `hostgate check --start` by root.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Uid;

use super::FAILED;

/// The configuration file of the shipped unit, and the directories that systemd gives to its user.
const OF_UNIT: (&str, [&str; 2]) = ("/etc/hostgate/hostgate.toml", ["/var/lib/hostgate", "/var/log/hostgate"]);

/// A user other than root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServiceUser {
    user: u32,
    group: u32,
}

impl ServiceUser {
    /// Finds a user by name or number.
    ///
    /// # Errors
    /// The user does not exist.
    pub(super) fn named(name: &str) -> Result<Self, String> {
        // Only a program asks all sources of users (nsswitch.conf(5)), such as systemd for dynamic users.
        let found = Command::new("getent").args(["passwd", "--", name]).output();
        let found = found.ok().and_then(|found| parse_passwd(&String::from_utf8_lossy(&found.stdout)));
        // A number needs no entry, as that of a dynamic user whose service is not running.
        let by_number = || name.parse().ok().map(|user| Self { user, group: user });
        let help = "name one that exists, or give its number, as `stat -c %u /var/lib/hostgate` shows it";
        found.or_else(by_number).ok_or_else(|| format!("--user: user `{name}` does not exist ({help})"))
    }

    /// Finds the user that hostgate runs as, or ran as when it was last started: that of its process, else the owner of
    /// its state directory. `None` if that is root, or not known.
    pub(super) fn infer(pid: Option<u32>, configuration: Option<&Path>) -> Option<Self> {
        if let Some(pid) = pid {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            return parse_status(&status).filter(|user| user.user != 0);
        }
        let state = std::env::var_os("STATE_DIRECTORY").map(PathBuf::from);
        let is_of_unit = configuration.is_some_and(|path| path == Path::new(OF_UNIT.0));
        let of_unit = OF_UNIT.1.into_iter().filter(|_| is_of_unit).map(PathBuf::from);
        let owner = |path: PathBuf| fs::metadata(path).ok().map(|found| Self { user: found.uid(), group: found.gid() });
        state.into_iter().chain(of_unit).filter_map(owner).find(|owner| owner.user != 0)
    }

    /// Returns whether a user is this one.
    pub(super) fn is(self, user: Uid) -> bool {
        self.user == user.as_raw()
    }

    /// Runs `check --start` as this user and returns its exit code. `trial` is the outcome of binding the addresses.
    ///
    /// # Errors
    /// This process may not become that user, or that user may not run the program.
    pub(super) fn run_check(self, configuration: Option<&Path>, trial: &str, json: bool) -> Result<u8, String> {
        let failed = |error: std::io::Error| {
            format!("--user: the check cannot be run as user {}: {error} (run it as root, or as that user)", self.user)
        };
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command.args(["check", "--start", "--address-trial", trial]).args(json.then_some("--json"));
        if let Some(path) = configuration {
            command.arg("--config").arg(path);
        }
        let ended = command.uid(self.user).gid(self.group).status().map_err(failed)?;
        Ok(ended.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED))
    }
}

/// Parses a line of passwd(5).
fn parse_passwd(line: &str) -> Option<ServiceUser> {
    let mut fields = line.trim().split(':').skip(2);
    Some(ServiceUser { user: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
}

/// Parses the effective user and group in `/proc/PID/status` (proc(5)).
fn parse_status(text: &str) -> Option<ServiceUser> {
    let effective =
        |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.split_ascii_whitespace().nth(1)?.parse().ok());
    Some(ServiceUser { user: effective("Uid:")?, group: effective("Gid:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_is_found_by_name_number_and_process() {
        assert_eq!(ServiceUser::named("root").map(|user| user.user), Ok(0));
        assert_eq!(ServiceUser::named("4294967").map(|user| (user.user, user.group)), Ok((4_294_967, 4_294_967)));
        assert!(ServiceUser::named("no-such-user").unwrap_err().contains("`no-such-user` does not exist"));
        assert_eq!(parse_passwd("a:x:12:34::/:/bin/sh\n"), Some(ServiceUser { user: 12, group: 34 }));
        let status = "Name:\thostgate\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n";
        assert_eq!(parse_status(status), Some(ServiceUser { user: 2, group: 6 }));
        let own = parse_status(&fs::read_to_string("/proc/self/status").unwrap()).unwrap();
        assert!(own.is(rustix::process::geteuid()));
    }
}
