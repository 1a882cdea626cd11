//! `command`: runs a program if its conditions require it.
//!
//! dunlin does not know what the program changes: a second run is a no-op only if a condition says so. Conditions must
//! not change anything. They also run for the plan, with a limit of ten seconds. A command without a condition always
//! runs.

mod condition;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::{ApplyContext, BlobSource, Diff, HostView, PathState, ReadOutcome, Resource, atomic_file, de_string, mode};
use crate::duration::parse_timeout;
use crate::process::{OnAgentDeath, Program};
pub use condition::Condition;
use condition::ConditionResult;

/// Default time limit of a command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(3600);

/// Maximum number of bytes kept of a command's output, for the message of one that failed.
const MAX_OUTPUT_BYTES: usize = 64 << 10;

/// The longest text of a command that a row shows, in characters.
const MAX_SHOWN_CHARS: usize = 72;

/// Desired run of a program.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandResource {
    /// The program and its arguments.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Text for `sh -c`, in place of `argv`.
    pub shell: Option<String>,
    /// Run only if this path does not exist.
    pub creates: Option<PathBuf>,
    /// Run only if this ends with a status other than 0.
    pub unless: Option<Condition>,
    /// Run only if this ends with status 0.
    pub only_if: Option<Condition>,
    /// Working directory of the program and its conditions.
    pub cwd: Option<PathBuf>,
    /// User of the program and its conditions.
    pub user: Option<String>,
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Time limit of the program: `"30s"`. The program and what it started are killed when it expires.
    pub timeout: Option<String>,
    /// `true`: plans and errors show the playbook's text with its placeholders, and no output.
    #[serde(default, deserialize_with = "de_string::required")]
    pub sensitive: bool,
    /// The texts of the playbook by key, filled in where a value depends on a secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub display: BTreeMap<String, String>,
}

/// Result of the conditions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum ObservedCommand {
    /// The command must run.
    Due {
        /// Conditions that require the run, for the plan.
        reason: String,
    },
    /// There is nothing to do.
    NotDue,
}

impl Resource for CommandResource {
    const KIND: &'static str = "command";
    const SECRET_FIELDS: &'static [&'static str] = &["shell", "env", "unless", "only_if"];
    type Observed = ObservedCommand;

    fn key(&self) -> String {
        self.display_text()
    }

    fn exclusive_claims(&self) -> Vec<String> {
        Vec::new()
    }

    fn validate(&self) -> Result<(), String> {
        match (&self.shell, self.argv.first()) {
            (Some(_), Some(_)) => return Err("`argv` or `shell`, not both".to_owned()),
            (None, None) => return Err("no program: set `argv` or `shell`".to_owned()),
            (None, Some(program)) if program.is_empty() => return Err("the program's name is empty".to_owned()),
            (Some(shell), None) if shell.trim().is_empty() => return Err("`shell` is empty".to_owned()),
            _ => {}
        }
        if let Some(path) = &self.creates {
            atomic_file::check_path("creates", path)?;
        }
        if let Some(folder) = &self.cwd
            && folder != Path::new("/")
        {
            atomic_file::check_path("cwd", folder)?;
        }
        if let Some(name) = self.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(format!("\"{name}\" cannot be the name of a variable"));
        }
        for condition in [&self.unless, &self.only_if].into_iter().flatten() {
            if condition.to_argv().first().is_none_or(|program| program.is_empty()) {
                return Err("a condition has no program: give a text for `sh -c`, or a list of program and arguments"
                    .to_owned());
            }
        }
        self.timeout()?;
        self.user.iter().try_for_each(|user| mode::check_account("user", user))
    }

    fn read(&self, view: &mut HostView) -> Result<ReadOutcome<ObservedCommand>> {
        let mut reasons = Vec::new();
        if let Some(path) = &self.creates {
            if view.path_state(path)? != PathState::Absent {
                return Ok(ReadOutcome::Known(ObservedCommand::NotDue));
            }
            if let Some(arrival) = view.provided_by(&format!("path {}", path.display())) {
                return Ok(ReadOutcome::UnknownUntilApply(format!(
                    "{} comes with package {}",
                    path.display(),
                    arrival.package
                )));
            }
            reasons.push(format!("{} does not exist", path.display()));
        }
        for (condition, when) in [(&self.unless, false), (&self.only_if, true)] {
            let Some(condition) = condition else { continue };
            let status = match self.check_condition(condition, view)? {
                ConditionResult::Status(status) => status,
                ConditionResult::Deferred(reason) => return Ok(ReadOutcome::UnknownUntilApply(reason)),
            };
            if (status == 0) != when {
                return Ok(ReadOutcome::Known(ObservedCommand::NotDue));
            }
            let said = if when { "succeeded".to_owned() } else { format!("ended with status {status}") };
            reasons.push(format!("`{}` {said}", self.condition_display(condition)));
        }
        let reason = if reasons.is_empty() { "no condition".to_owned() } else { reasons.join(", ") };
        self.ensure_runnable(view)?;
        Ok(ReadOutcome::Known(ObservedCommand::Due { reason }))
    }

    fn diff(&self, observed: &ObservedCommand, _blobs: &dyn BlobSource) -> Result<Diff> {
        Ok(match observed {
            ObservedCommand::Due { reason } => Diff::run(reason),
            ObservedCommand::NotDue => Diff::none(),
        })
    }

    fn predict_state(&self, view: &mut HostView) {
        view.predict_command(&self.display_text());
    }

    fn apply(&self, _observed: &ObservedCommand, _context: &mut ApplyContext) -> Result<()> {
        let script = self.shell.as_ref().map(|text| self.open_script(text)).transpose()?;
        let argv = match &script {
            Some(script) => script.argv(),
            None => self.argv.iter().map(String::as_str).collect(),
        };
        let timeout = self.timeout().map_err(anyhow::Error::msg)?;
        let shown = self.display_text();
        let program = self.program(&argv, &shown).guarded(OnAgentDeath::Kill);
        let completed = program.timeout(timeout).max_output(MAX_OUTPUT_BYTES).complete()?;
        if completed.is_success() {
            return Ok(());
        }
        if self.sensitive {
            bail!("`{shown}` {}; its output is hidden, because it was given a secret", completed.describe_end());
        }
        bail!("`{shown}` {}", completed.describe())
    }
}

impl CommandResource {
    fn timeout(&self) -> Result<Duration, String> {
        parse_timeout(self.timeout.as_deref(), COMMAND_TIMEOUT)
    }

    fn display_text(&self) -> String {
        let source = || self.display.get("shell").or_else(|| self.display.get("argv"));
        let text = source().cloned().or_else(|| self.shell.clone()).unwrap_or_else(|| self.argv.join(" "));
        shorten_line(&text)
    }

    /// Makes a shell's text ready. With a secret in it, it must not be an argument, which every user can read.
    fn open_script<'s>(&self, text: &'s str) -> Result<Script<'s>> {
        if !self.sensitive {
            return Ok(Script::Argument(text));
        }
        let mut file = File::from(memfd_create("script", MemfdFlags::empty()).context("a file in memory")?);
        file.write_all(text.as_bytes()).context("a file in memory")?;
        Ok(Script::File { path: format!("/proc/self/fd/{}", file.as_raw_fd()), _file: file })
    }

    /// Checks that its user and folder exist, or may exist later.
    fn ensure_runnable(&self, view: &mut HostView) -> Result<()> {
        if view.unknown_until_apply().is_some() {
            return Ok(());
        }
        if let Some(user) = &self.user
            && view.user_state(user)?.is_none()
        {
            bail!("there is no user {user}; a `user` step before this one can create it");
        }
        if let Some(folder) = &self.cwd
            && !view.has_folder(folder)?
        {
            bail!("the folder {} does not exist; a `directory` step before this one can create it", folder.display());
        }
        Ok(())
    }

    fn program(&self, argv: &[&str], shown: &str) -> Program<'static> {
        let mut program = match (&self.user, argv.split_first()) {
            (None, Some((program, args))) => Program::new(program).args(args),
            (Some(user), _) => Program::new("runuser").args(["-u", user, "--"]).args(argv),
            (None, None) => Program::new(""),
        };
        if let Some(folder) = &self.cwd {
            program = program.folder(folder);
        }
        if self.sensitive {
            program = program.hide_output(shown);
        }
        self.env.iter().fold(program, |program, (name, value)| program.env(name, value))
    }
}

/// A text for the shell.
enum Script<'s> {
    Argument(&'s str),
    /// A file that exists in memory only, open in this process and in the shell.
    File {
        path: String,
        _file: File,
    },
}

impl Script<'_> {
    fn argv(&self) -> Vec<&str> {
        match self {
            Self::Argument(text) => shell_argv(text),
            Self::File { path, .. } => vec!["sh", path],
        }
    }
}

fn shell_argv(text: &str) -> Vec<&str> {
    vec!["sh", "-c", text]
}

/// Shortens a text to one line that fits into a row.
fn shorten_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= MAX_SHOWN_CHARS {
        return line;
    }
    let cut: String = line.chars().take(MAX_SHOWN_CHARS - 1).collect();
    format!("{cut}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_command(desired: &str, view: &mut HostView) -> ReadOutcome<ObservedCommand> {
        let command: CommandResource = serde_json::from_str(desired).unwrap();
        command.validate().unwrap();
        command.read(view).unwrap()
    }

    fn due_because(reason: &str) -> ReadOutcome<ObservedCommand> {
        ReadOutcome::Known(ObservedCommand::Due { reason: reason.to_owned() })
    }

    #[test]
    fn conditions_decide_whether_the_command_is_due() {
        let settled = ReadOutcome::Known(ObservedCommand::NotDue);
        for (condition, wanted) in [
            ("", due_because("no condition")),
            (r#","creates":"/etc/passwd""#, settled.clone()),
            (r#","creates":"/none""#, due_because("/none does not exist")),
            (r#","unless":"exit 0""#, settled.clone()),
            (r#","unless":"exit 3""#, due_because("`exit 3` ended with status 3")),
            (r#","unless":["test","-d","/none"]"#, due_because("`test -d /none` ended with status 1")),
            (r#","only_if":"exit 0""#, due_because("`exit 0` succeeded")),
            (r#","only_if":"exit 1""#, settled.clone()),
            (r#","creates":"/none","only_if":"exit 1""#, settled),
        ] {
            assert_eq!(
                read_command(&format!(r#"{{"argv":["true"]{condition}}}"#), &mut HostView::current()),
                wanted,
                "{condition}"
            );
        }
    }

    #[test]
    fn conditions_wait_for_pending_changes() {
        let mut reasons = Vec::new();
        let mut unknown = |desired: &'static str, view: &mut HostView| match read_command(desired, view) {
            ReadOutcome::UnknownUntilApply(reason) => reasons.push((desired, reason)),
            known => panic!("{desired}: {known:?}"),
        };
        let mut view = HostView::current();
        view.mark_pending();
        unknown(r#"{"argv":["true"],"unless":["no-such-program"]}"#, &mut view);
        unknown(r#"{"argv":["true"],"unless":"no-such-program x"}"#, &mut view);
        assert_eq!(
            read_command(r#"{"argv":["true"],"only_if":"exit 1"}"#, &mut view),
            ReadOutcome::Known(ObservedCommand::NotDue)
        );
        view.predict_path(Path::new("/etc/passwd"), PathState::Absent);
        unknown(r#"{"argv":["true"],"only_if":"test -e /etc/passwd"}"#, &mut view);
        view.predict_install("redis-server", &[]);
        unknown(r#"{"argv":["true"],"only_if":"exit 1"}"#, &mut view);
        crate::messages::check("command-conditions", reasons);
    }

    #[test]
    fn missing_condition_programs_count_as_failed_when_nothing_is_pending() {
        let desired = r#"{"argv":["true"],"unless":"no-such-program x"}"#;
        assert!(matches!(
            read_command(desired, &mut HostView::current()),
            ReadOutcome::Known(ObservedCommand::Due { .. })
        ));
    }
}
