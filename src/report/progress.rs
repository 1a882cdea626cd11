//! Progress of shards and transfers: bars on a terminal, otherwise one line per phase.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::escape::{escape_line, escape_text};
use super::reporter::write_stderr;
use crate::protocol::Event;

/// The progress of jobs.
pub struct ProgressBars {
    multi: Option<MultiProgress>,
    jobs: Mutex<HashMap<String, (String, Option<ProgressBar>)>>,
    quiet: bool,
}

impl ProgressBars {
    /// Creates bars on stderr if it is a terminal; none with `--json` or `--quiet`.
    pub fn new(json: bool, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && !json && !quiet;
        Self { multi: terminal.then(MultiProgress::new), jobs: Mutex::default(), quiet: quiet || json }
    }

    /// Shows the progress of a job.
    pub fn show_event(&self, host: &str, event: &Event) {
        let Event::Progress { job, phase, done, total } = event else { return };
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = jobs
            .entry(job.clone())
            .or_insert_with(|| (String::new(), self.multi.as_ref().map(|multi| multi.add(new_bar()))));
        if let Some(bar) = &entry.1 {
            // A phase without a count is short, and is shown as complete.
            let counted = *total > 1;
            bar.set_length(if counted { *total } else { 1 });
            bar.set_position(if counted { *done } else { 1 });
            bar.set_message(escape_line(&format!("{job:<10} → {host}  {phase}")).into_owned());
            if phase == "done" {
                bar.finish_and_clear();
            }
        } else if entry.0 != *phase && !self.quiet && phase != "done" {
            write_stderr(&format!("{}\n", escape_line(&format!("{job} → {host}: {phase}"))));
        }
        entry.0.clone_from(phase);
    }

    /// Shows how many bytes of a transfer to a host have arrived, and the time that the rest takes.
    pub fn show_transfer(&self, host: &str, done: u64, total: u64) {
        let Some(multi) = &self.multi else { return };
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = jobs
            .entry(host.to_owned())
            .or_insert_with(|| (String::new(), Some(multi.add(new_bar().with_style(transfer_style())))));
        if let Some(bar) = &entry.1 {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(escape_line(host).into_owned());
            if done >= total {
                bar.finish_and_clear();
            }
        }
    }

    /// Prints a line above the bars, to stderr.
    pub fn print_line(&self, text: &str) {
        match &self.multi {
            // An error means that the terminal is gone.
            Some(multi) => drop(multi.println(escape_text(text).as_ref())),
            None if !self.quiet => write_stderr(&format!("{}\n", escape_text(text))),
            None => {}
        }
    }

    /// Removes the bars. Later events begin new ones.
    pub fn clear_bars(&self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if let Some(multi) = &self.multi {
            // An error means that the terminal is gone.
            multi.clear().ok();
        }
    }
}

fn transfer_style() -> ProgressStyle {
    let template = "  {bar:24} {percent:>3} %  {msg}  {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn new_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("  {bar:24} {percent:>3} %  {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(1).with_style(style)
}
