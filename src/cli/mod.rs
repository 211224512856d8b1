//! The command line: what can be asked of hostgate, and how it answers people and programs.
//!
//! One file a subcommand. Exit codes: 0 yes or done, 1 no or failed, 64 wrong usage, 78 bad configuration.

mod check;
mod clients;
mod explain;
mod holder;
mod http;
mod import;
#[cfg(test)]
mod man_pages;
mod next_start;
mod objects;
mod output;
mod prepare;
mod serve;
mod show;
mod sources;
mod status;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use self::output::Output;
use crate::dns::rtype::RecordType;

/// Done, or yes.
const OK: u8 = 0;
/// Failed, or no.
const FAILED: u8 = 1;
/// The command line cannot be understood (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;
/// Stopped at the deadline, with something unfinished (`EX_TEMPFAIL` of sysexits.h).
const DEADLINE: u8 = 75;
/// The configuration or a policy file is bad (`EX_CONFIG` of sysexits.h).
const CONFIG: u8 = 78;

/// A DNS-level policy resolver: the only nameserver of devboxes, agent sandboxes and build containers.
///
/// It finds out who asks, answers NXDOMAIN for a hostname that client's policy disallows, forwards the rest, and
/// reloads its TOML policies when they change. Without a command it serves.
#[derive(Parser)]
#[command(
    name = "hostgate",
    version,
    after_help = "\
Example:
  hostgate                                    serve ./policies on 127.0.0.1:1053
  dig @127.0.0.1 -p 1053 github.com           ask it"
)]
struct Arguments {
    /// What to do.
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
  hostgate serve --takeover                   in place of the one that runs, without a lost query

Signals: SIGHUP reloads, SIGUSR1 reopens the decision log, SIGTERM answers what is in flight and ends.")]
    Serve {
        /// The configuration file [default: ./hostgate.toml if it is there, else the defaults; never /etc/hostgate/hostgate.toml].
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Take over the listening sockets of the hostgate that serves at the configuration's `takeover`, which then
        /// answers what it has and ends; with nobody there, start as ever.
        #[arg(long)]
        takeover: bool,
    },
    /// Read policies and configuration as `serve` does, run their tests, and say all that is wrong.
    #[command(after_help = "\
Example:
  hostgate check policies --strict
  hostgate check --start                      what the next start would do

Exit code: 0 fine, 1 only warnings with --strict, 78 errors. With --start: 0 it serves what is on disk, 1 it serves, but not
all of that, or not everywhere yet (from the last good state, without a broken object of the API, with the API closed, with an
address that is to come, with nobody to ask), 78 it does not.")]
    Check {
        /// The policies directory [default: what the configuration says].
        dir: Option<PathBuf>,
        /// Say what the next start would do: it walks the same steps, with the rights and limits of whoever asks. What the running
        /// hostgate has counts as free; the other sockets are bound for a moment.
        #[arg(long, conflicts_with_all = ["dir", "strict", "verbose"])]
        start: bool,
        /// Count warnings as errors, but for those that a comment accepts: `# hostgate: accept CODE: REASON`.
        #[arg(long)]
        strict: bool,
        /// Show what such comments accept, with the reasons.
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
    /// Say what would be answered, by which rule, and where that stands.
    #[command(after_help = "\
Example:
  hostgate explain www.npmjs.org --client 172.30.0.9
  hostgate explain www.npmjs.org --client ci-builders

Exit code: 0 allowed, 1 denied.")]
    Explain {
        /// The hostname asked for.
        name: String,
        /// The client that asks: an address, its id, or the name of a devbox.
        #[arg(long, value_name = "ADDRESS|NAME", value_parser = NonEmptyStringValueParser::new())]
        client: String,
        /// The record type asked for.
        #[arg(long = "type", value_name = "TYPE", default_value = "A")]
        record_type: RecordType,
        /// The policies directory [default: what the configuration says].
        #[arg(long, value_name = "DIR")]
        policies: Option<PathBuf>,
        /// The configuration file [default: ./hostgate.toml, else, unless ./policies is there, /etc/hostgate/hostgate.toml, else
        /// the defaults].
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The listener that is asked, as `[[listen]]` has it, for clients that only a listener has a policy for.
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
        /// The policy's id or name, or `preset:NAME`; `presets` lists those.
        #[arg(conflicts_with = "client")]
        policy: Option<String>,
        /// Show the policy that applies to this client: an address, its id, or the name of a devbox.
        #[arg(long, value_name = "ADDRESS|NAME", value_parser = NonEmptyStringValueParser::new())]
        client: Option<String>,
        /// The policies directory [default: what the configuration says].
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
    /// Make a policy or a list file of a list in another system's format, and say what is left out or different.
    #[command(after_help = "\
Example:
  hostgate import blocklist.txt >policies/blocklist.toml
  hostgate import --deny --subdomains --to toml hosts.txt >policies/hosts.toml
  hostgate import --as squid allowed.acl >policies/allowed.txt
  curl -fsS https://lists.example/domains.txt | hostgate import -

What it writes goes to standard output, what there is to know to standard error.
Exit code: 0 done, 1 nothing to import, 64 the format or a flag has to be named.")]
    Import(import::Arguments),
    /// Ask the running hostgate what is in force and what is held back.
    #[command(after_help = "\
Example:
  hostgate status --json

Exit code: 0 everything on disk is in force, 1 something is held back or nobody answers.")]
    Status {
        /// Where it serves status [default: what the configuration says].
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
        /// What to do.
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
        /// What to do.
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
        /// What to do.
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

/// Runs the command line of this process; returns the exit code.
#[must_use]
pub fn run() -> u8 {
    let mut output = Output::new();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // --help and --version come this way too, and are no errors.
            let code = if error.use_stderr() { USAGE } else { OK };
            output.clap(&error);
            return output.finish(code);
        }
    };
    let code = execute(arguments, &mut output);
    output.finish(code)
}

/// Runs a command; returns the exit code.
fn execute(arguments: Arguments, output: &mut Output) -> u8 {
    let outer = arguments.config;
    match arguments.command {
        None => serve::run(outer, serve::Start::Alone, output),
        Some(Command::Serve { config, takeover }) => {
            let start = if takeover { serve::Start::TakeOver } else { serve::Start::Alone };
            serve::run(config.or(outer), start, output)
        }
        Some(Command::Check { start: true, json, config, .. }) => next_start::run(config.or(outer), json, output),
        Some(Command::Check { dir, strict, verbose, json, config, start: false }) => {
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
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        let command = Arguments::command();
        command.clone().debug_assert();
        for subcommand in command.get_subcommands() {
            let help = subcommand.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example:"), "{}", subcommand.get_name());
        }
    }
}
