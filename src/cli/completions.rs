//! `dunlin completions` and `dunlin man`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;
use super::command_error::CommandError;
use super::exit::Exit;
use crate::report::Reporter;

/// Generate shell completions
#[derive(Debug, Args)]
pub struct CompletionsCommand {
    /// Shell to generate completions for
    shell: Shell,
}

impl CompletionsCommand {
    /// Prints the completions.
    pub fn run(self, reporter: &Reporter) -> Exit {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "dunlin", &mut text);
        reporter.print_document(&String::from_utf8_lossy(&text));
        Exit::Done
    }
}

/// Print the manual page
#[derive(Debug, Args)]
pub struct ManCommand {}

impl ManCommand {
    /// Prints the page in roff.
    ///
    /// # Errors
    /// Returns an error if the page cannot be rendered.
    pub fn run(self, reporter: &Reporter) -> Result<Exit, CommandError> {
        let mut text = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut text)?;
        reporter.print_document(&String::from_utf8_lossy(&text));
        Ok(Exit::Done)
    }
}
