//! One binary, one subcommand a deployment.

use std::process::ExitCode;

use patient_notify::cli::{self, Cli, Command};

fn main() -> ExitCode {
    let Cli {
        config: file,
        command,
    } = match cli::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let file = file.as_deref();
    match command {
        Command::Config(command) => cli::config(command, file),
    }
}
