//! `dunlin completions` and `dunlin man`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use super::exit::Exit;
use super::failure::Failure;

/// Print completions for a shell
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints them.
    pub fn run(self) -> Exit {
        clap_complete::generate(self.shell, &mut Cli::command(), "dunlin", &mut std::io::stdout());
        Exit::Done
    }
}

/// Print the manual page
#[derive(Debug, Args)]
pub struct Man {}

impl Man {
    /// Prints it in roff.
    ///
    /// # Errors
    /// stdout is closed.
    pub fn run(self) -> Result<Exit, Failure> {
        clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?;
        Ok(Exit::Done)
    }
}
