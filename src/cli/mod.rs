//! The command line: one file for each subcommand, with arguments parsed by clap.
//!
//! Standard output has the answer of a command, standard error everything else. Exit codes: 0 for yes or done, 1 for no
//! or failed, 64 for wrong usage, 75 for a stop at the deadline, 78 for a bad configuration. The help texts here are
//! also the man pages: `man_pages`.

mod check;
mod clients;
mod explain;
mod http;
mod import;
#[cfg(test)]
mod man_pages;
mod next_start;
mod objects;
mod output;
mod serve;
mod service_user;
mod show;
mod socket_owner;
mod sources;
mod status;
mod try_start;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use self::output::Output;
use crate::daemon::prepare::Start;
use crate::dns::rtype::RecordType;

/// The exit code for success, or yes.
const OK: u8 = 0;
/// The exit code for failure, or no.
const FAILED: u8 = 1;
/// The exit code for a command line that cannot be parsed (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;
/// The exit code for a stop at the deadline with work unfinished (`EX_TEMPFAIL` of sysexits.h).
const DEADLINE: u8 = 75;
/// The exit code for a bad configuration or policy file (`EX_CONFIG` of sysexits.h).
const CONFIG: u8 = 78;

/// A DNS-level policy resolver: the only nameserver of devboxes, agent sandboxes and build containers.
///
/// hostgate identifies the client by its address, answers NXDOMAIN for hostnames that the client's policy does not
/// allow, forwards the rest, and reloads its TOML policies when they change. Without a command it serves.
#[derive(Parser)]
#[command(
    name = "hostgate",
    version,
    after_help = "\
Example:
  hostgate                                    serve ./policies on 127.0.0.1:1053
  dig @127.0.0.1 -p 1053 github.com           send it a query"
)]
struct Arguments {
    /// The command; `serve` if there is none.
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration file [default: ./hostgate.toml if it is there; else, but for `serve`, /etc/hostgate/hostgate.toml].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The subcommands.
#[derive(Subcommand)]
enum Command {
    /// Answer queries (the default command).
    #[command(after_help = "\
Example:
  hostgate serve --config /etc/hostgate/hostgate.toml
  hostgate serve --takeover                   replace the running one without losing a query

Signals: SIGHUP reloads, SIGUSR1 reopens the decision log, SIGTERM answers the queries in flight and ends.")]
    Serve {
        /// The configuration file [default: ./hostgate.toml if it is there, else the defaults; never /etc/hostgate/hostgate.toml].
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Take over the listening sockets of the hostgate that offers them at the configuration's `takeover`, which then
        /// answers its queries in flight and ends. If there is none, start as usual.
        #[arg(long)]
        takeover: bool,
    },
    /// Read policies and configuration as `serve` does, run their tests, and report every error.
    #[command(after_help = "\
Example:
  hostgate check policies --strict
  hostgate check --start                      what the next start would do

Exit code: 0 no errors, 1 only warnings with --strict, 78 errors. With --start: 0 it serves all that is on disk, 1 it serves, but
something is missing (it serves the last good state, or lacks an object of the API, the API, an address or an upstream), 78 it
does not serve.")]
    Check {
        /// The policies directory [default: from the configuration].
        dir: Option<PathBuf>,
        /// Report what the next start would do, by running the same steps with the rights and limits of this user. Sockets of the
        /// running hostgate count as free; all other addresses are bound for a moment, without listening. No file is changed.
        #[arg(long, conflicts_with_all = ["dir", "strict", "verbose"])]
        start: bool,
        /// With --start, as root: judge the files with the rights of this user [default: the user that the running hostgate has,
        /// else the owner of `$STATE_DIRECTORY` or of the shipped unit's state directory, else root].
        #[arg(long, value_name = "NAME|NUMBER", requires = "start", value_parser = NonEmptyStringValueParser::new())]
        user: Option<String>,
        /// The outcome of trying the addresses, from the process of root that runs this one as another user.
        #[arg(long, hide = true, requires = "start", value_name = "JSON")]
        address_trial: Option<String>,
        /// Count warnings as errors, except those that a comment accepts: `# hostgate: accept CODE: REASON`.
        #[arg(long)]
        strict: bool,
        /// Show the warnings that such comments accept, with their reasons.
        #[arg(long, short)]
        verbose: bool,
        /// Write JSON.
        #[arg(long)]
        json: bool,
        /// The configuration file [default: ./hostgate.toml, else, unless ./policies is there, /etc/hostgate/hostgate.toml, else
        /// the defaults].
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Show the answer that a client would get, with the rule that decides and its place.
    #[command(after_help = "\
Example:
  hostgate explain www.npmjs.org --client 172.30.0.9
  hostgate explain www.npmjs.org --client ci-builders

Exit code: 0 allowed, 1 denied.")]
    Explain {
        /// The hostname of the query.
        name: String,
        /// The client that asks: an address, its id, or the name of a devbox.
        #[arg(long, value_name = "ADDRESS|NAME", value_parser = NonEmptyStringValueParser::new())]
        client: String,
        /// The record type of the query.
        #[arg(long = "type", value_name = "TYPE", default_value = "A")]
        record_type: RecordType,
        /// The policies directory [default: from the configuration].
        #[arg(long, value_name = "DIR")]
        policies: Option<PathBuf>,
        /// The configuration file [default: ./hostgate.toml, else, unless ./policies is there, /etc/hostgate/hostgate.toml, else
        /// the defaults].
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The listener that receives the query, as written in `[[listen]]`: its policy is for addresses in no client.
        #[arg(long, value_name = "ADDRESS")]
        listener: Option<SocketAddr>,
        /// Write JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a policy with its includes expanded, each entry with its origin; without arguments, all objects.
    #[command(after_help = "\
Example:
  hostgate show --client devbox-7
  hostgate show build
  hostgate show presets                       a line each
  hostgate show preset:npm                    with the reason of each entry")]
    Show {
        /// The policy's id or name, or `preset:NAME`; `presets` lists the presets.
        #[arg(conflicts_with = "client")]
        policy: Option<String>,
        /// Show the policy that applies to this client: an address, its id, or the name of a devbox.
        #[arg(long, value_name = "ADDRESS|NAME", value_parser = NonEmptyStringValueParser::new())]
        client: Option<String>,
        /// The policies directory [default: from the configuration].
        #[arg(long, value_name = "DIR")]
        policies: Option<PathBuf>,
        /// The configuration file [default: ./hostgate.toml, else, unless ./policies is there, /etc/hostgate/hostgate.toml, else
        /// the defaults].
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Write JSON.
        #[arg(long)]
        json: bool,
    },
    /// Convert a list in another system's format into a policy or a list file, and report what is left out or different.
    #[command(after_help = "\
Example:
  hostgate import blocklist.txt >policies/blocklist.toml
  hostgate import --deny --subdomains --to toml hosts.txt >policies/hosts.toml
  hostgate import --as squid allowed.acl >policies/allowed.txt
  curl -fsS https://lists.example/domains.txt | hostgate import -

The result goes to standard output, remarks to standard error.
Exit code: 0 done, 1 nothing to import, 64 the format or a flag has to be given.")]
    Import(import::Arguments),
    /// Ask the running hostgate what is in force and what is held back.
    #[command(after_help = "\
Example:
  hostgate status --json

Exit code: 0 everything on disk is in force, 1 something is held back, or hostgate does not answer.")]
    Status {
        /// The address of the admin endpoint [default: from the configuration].
        #[arg(long, value_name = "ADDRESS")]
        admin: Option<SocketAddr>,
        /// The configuration file [default: ./hostgate.toml, else, unless ./policies is there, /etc/hostgate/hostgate.toml, else
        /// the defaults].
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Write JSON.
        #[arg(long)]
        json: bool,
    },
    /// Create and change network policies of the running hostgate, by its API.
    #[command(after_help = "\
Example:
  id=$(hostgate policy create --name build --allow github.com --allow '*.npmjs.org')
  hostgate policy update build --add pypi.org --remove github.com
  hostgate policy list --name build
  hostgate policy delete $id

The API has to be on: [control] in the configuration. Exit code: 0 done, 1 refused or failed.")]
    Policy {
        /// The subcommand.
        #[command(subcommand)]
        verb: objects::PolicyVerb,
    },
    /// Create and change blueprints of the running hostgate, by its API.
    #[command(after_help = "\
Example:
  id=$(hostgate blueprint create --name agent --build-policy npol_... --runtime-policy npol_...)
  hostgate blueprint show $id

The API has to be on: [control] in the configuration. Exit code: 0 done, 1 refused or failed.")]
    Blueprint {
        /// The subcommand.
        #[command(subcommand)]
        verb: objects::BlueprintVerb,
    },
    /// Create, change and shut down devboxes of the running hostgate, by its API.
    #[command(after_help = "\
Example:
  id=$(hostgate devbox create --blueprint bpt_... --metadata team=web)
  hostgate devbox show $id --json | jq -r '.metadata[\"hostgate.address\"]'
  hostgate devbox delete $id                  shuts it down

The API has to be on: [control] in the configuration. Exit code: 0 done, 1 refused or failed.")]
    Devbox {
        /// The subcommand.
        #[command(subcommand)]
        verb: objects::DevboxVerb,
    },
    /// Write a completion script for a shell.
    #[command(after_help = "\
Example:
  hostgate completions bash > /etc/bash_completion.d/hostgate")]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Runs the command line of this process and returns the exit code.
#[must_use]
pub fn run() -> u8 {
    let mut output = Output::new();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // --help and --version arrive as errors, too, but belong on standard output with exit code 0.
            let code = if error.use_stderr() { USAGE } else { OK };
            output.clap(&error);
            return output.finish(code);
        }
    };
    let code = execute(arguments, &mut output);
    output.finish(code)
}

/// Runs a command and returns the exit code.
fn execute(arguments: Arguments, output: &mut Output) -> u8 {
    let outer = arguments.config;
    match arguments.command {
        None => serve::run(outer, Start::Alone, output),
        Some(Command::Serve { config, takeover }) => {
            let start = if takeover { Start::TakeOver } else { Start::Alone };
            serve::run(config.or(outer), start, output)
        }
        Some(Command::Check { start: true, user, address_trial: trial, json, config, .. }) => {
            next_start::run(config.or(outer), next_start::Options { user, trial, json }, output)
        }
        Some(Command::Check { dir, strict, verbose, json, config, .. }) => {
            check::run(config.or(outer), dir, &check::Options { strict, json, verbose }, output)
        }
        Some(Command::Explain { name, client, record_type, policies, config, listener, json }) => {
            let asked = explain::Asked { name, client, record_type, listener };
            explain::run(config.or(outer), policies, &asked, json, output)
        }
        Some(Command::Show { policy, client, policies, config, json }) => {
            let what = show::What::new(policy, client);
            show::run(config.or(outer), policies, &what, json, output)
        }
        Some(Command::Import(arguments)) => import::run(&arguments, output),
        Some(Command::Status { admin, config, json }) => status::run(config.or(outer), admin, json, output),
        Some(Command::Policy { verb }) => objects::run(verb, outer, output),
        Some(Command::Blueprint { verb }) => objects::run(verb, outer, output),
        Some(Command::Devbox { verb }) => objects::run(verb, outer, output),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "hostgate", &mut script);
            output.bytes(&script);
            OK
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_valid_and_every_command_has_an_example() {
        let command = Arguments::command();
        command.clone().debug_assert();
        for subcommand in command.get_subcommands() {
            let help = subcommand.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example:"), "{}", subcommand.get_name());
        }
    }
}
