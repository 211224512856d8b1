//! The binary: hands the command line to the library, and is alone in choosing the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(hostgate::cli::run())
}
