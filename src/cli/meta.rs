//! `dunlin completions` and `dunlin man`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use super::exit::Exit;
use super::failure::Failure;
use crate::report::Reporter;

/// Print completions for a shell
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Prints them.
    pub fn run(self, reporter: &Reporter) -> Exit {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "dunlin", &mut text);
        reporter.document(&String::from_utf8_lossy(&text));
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
    /// The page cannot be rendered.
    pub fn run(self, reporter: &Reporter) -> Result<Exit, Failure> {
        let mut text = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut text)?;
        reporter.document(&String::from_utf8_lossy(&text));
        Ok(Exit::Done)
    }
}
