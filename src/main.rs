//! One binary, one subcommand a deployment.

use std::process::ExitCode;

fn main() -> ExitCode {
    match patient_notify::cli::parse() {
        Ok(cli) => patient_notify::cli::run(cli),
        Err(code) => code,
    }
}
