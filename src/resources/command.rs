//! `command`: a program that is run where its guards say that it is due.
//!
//! What it changes is its own business: it is a no-op in a second run where a guard says so. Guards only read, are run
//! for the plan as well, and have ten seconds. A command without a guard is always run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::{Blobs, Diff, PathState, Read, Resource, Site, World, mode, place};
use crate::process::Program;

/// How long a guard may take.
const GUARD_LIMIT: Duration = Duration::from_secs(10);

/// The longest text of a command that a row shows, in characters.
const LONGEST_SHOWN: usize = 72;

/// The desired run of a program.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Text for `sh -c`, in place of `argv`.
    pub shell: Option<String>,
    /// Due only where nothing stands at this path.
    pub creates: Option<PathBuf>,
    /// Due only where this ends with another status than 0.
    pub unless: Option<Guard>,
    /// Due only where this ends with status 0.
    pub only_if: Option<Guard>,
    /// The folder it and its guards run in.
    pub folder: Option<PathBuf>,
    /// The user it and its guards run as.
    pub user: Option<String>,
    /// Variables of their environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// A program that tells whether the command is due.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Guard {
    /// Text for `sh -c`.
    Shell(String),
    /// A program and its arguments.
    Argv(Vec<String>),
}

/// What the guards said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum Observed {
    /// It is to be run.
    Due {
        /// Why.
        reason: String,
    },
    /// There is nothing to do.
    Settled,
}

/// What one guard said.
enum Answer {
    Status(i32),
    /// It can only be asked once earlier steps are done.
    NotYet(String),
}

impl Resource for Command {
    const KIND: &'static str = "command";
    type Observed = Observed;

    fn key(&self) -> String {
        self.shown()
    }

    fn owns(&self) -> Vec<String> {
        Vec::new()
    }

    fn validate(&self) -> Result<(), String> {
        match (&self.shell, self.argv.first()) {
            (Some(_), Some(_)) => return Err("`argv` or `shell`, not both".to_owned()),
            (None, None) => return Err("what is to be run? Give `argv` or `shell`".to_owned()),
            (None, Some(program)) if program.is_empty() => return Err("the program's name is empty".to_owned()),
            (Some(shell), None) if shell.trim().is_empty() => return Err("`shell` is empty".to_owned()),
            _ => {}
        }
        if let Some(path) = &self.creates {
            place::check("creates", path)?;
        }
        if let Some(folder) = &self.folder
            && folder != Path::new("/")
        {
            place::check("folder", folder)?;
        }
        if let Some(name) = self.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(format!("\"{name}\" cannot be the name of a variable"));
        }
        for guard in [&self.unless, &self.only_if].into_iter().flatten() {
            if guard.argv().first().is_none_or(|program| program.is_empty()) {
                return Err("a guard without a program: give a text for the shell, or a list of arguments".to_owned());
            }
        }
        self.user.iter().try_for_each(|user| mode::check_account("user", user))
    }

    fn read(&self, world: &mut World) -> Result<Read<Observed>> {
        let mut reasons = Vec::new();
        if let Some(path) = &self.creates {
            if world.path(path)? != PathState::Absent {
                return Ok(Read::Known(Observed::Settled));
            }
            if let Some(arrival) = world.arrival(&format!("path {}", path.display())) {
                return Ok(Read::Unknown(format!("{} comes with package {}", path.display(), arrival.package)));
            }
            reasons.push(format!("{} is not there", path.display()));
        }
        for (guard, when) in [(&self.unless, false), (&self.only_if, true)] {
            let Some(guard) = guard else { continue };
            let status = match self.ask(guard, world)? {
                Answer::Status(status) => status,
                Answer::NotYet(reason) => return Ok(Read::Unknown(reason)),
            };
            if (status == 0) != when {
                return Ok(Read::Known(Observed::Settled));
            }
            let said = if when { "holds".to_owned() } else { format!("ended with status {status}") };
            reasons.push(format!("`{}` {said}", shorten(&guard.shown())));
        }
        let reason = if reasons.is_empty() { "no guard".to_owned() } else { reasons.join(", ") };
        self.can_run(world)?;
        Ok(Read::Known(Observed::Due { reason }))
    }

    fn diff(&self, observed: &Observed, _blobs: &dyn Blobs) -> Result<Diff> {
        Ok(match observed {
            Observed::Due { reason } => Diff::run(reason),
            Observed::Settled => Diff::none(),
        })
    }

    fn expect(&self, world: &mut World) {
        world.expect_command(&self.shown());
    }

    fn apply(&self, _observed: &Observed, _site: &mut Site) -> Result<()> {
        let argv = match &self.shell {
            Some(shell) => in_shell(shell),
            None => self.argv.iter().map(String::as_str).collect(),
        };
        self.program(&argv).run().map(drop)
    }
}

impl Command {
    fn shown(&self) -> String {
        shorten(&self.shell.clone().unwrap_or_else(|| self.argv.join(" ")))
    }

    /// Asks a guard, unless what it asks about is still to come.
    fn ask(&self, guard: &Guard, world: &mut World) -> Result<Answer> {
        if let Some(reason) = self.not_yet(guard, world)? {
            return Ok(Answer::NotYet(reason));
        }
        self.can_run(world)?;
        let shown = shorten(&guard.shown());
        let output = match self.program(&guard.argv()).timeout(GUARD_LIMIT).output() {
            Ok(output) => output,
            Err(error) if world.is_pending() && is_missing(&error) => {
                return Ok(Answer::NotYet(format!("the guard `{shown}` may come with an earlier step")));
            }
            Err(error) => return Err(error).context("asking the guard"),
        };
        match output.status.code() {
            Some(126 | 127) if world.is_pending() => {
                Ok(Answer::NotYet(format!("the program of the guard `{shown}` may come with an earlier step")))
            }
            Some(status) => Ok(Answer::Status(status)),
            None => bail!("the guard `{shown}` ended by a signal: {}", output.status),
        }
    }

    /// Why a guard cannot be asked before the earlier steps are done.
    fn not_yet(&self, guard: &Guard, world: &mut World) -> Result<Option<String>> {
        let shown = guard.shown();
        if let Some(what) = world.touched(&shown) {
            return Ok(Some(format!("the guard `{}` names {what}, which an earlier step changes", shorten(&shown))));
        }
        if let Some(surprise) = world.surprise() {
            return Ok(Some(format!("the guard `{}` may answer otherwise after {surprise}", shorten(&shown))));
        }
        if let Some(user) = self.user.as_ref().filter(|user| world.expects_user(user)) {
            return Ok(Some(format!("the guard runs as user {user}, whom an earlier step changes")));
        }
        let folder = self.folder.as_ref().filter(|folder| !folder.is_dir());
        if let Some(folder) = folder
            && matches!(world.path(folder)?, PathState::Directory { .. })
        {
            return Ok(Some(format!("the guard runs in {}, which an earlier step makes", folder.display())));
        }
        Ok(None)
    }

    /// Holds that its user and folder are there, or may still come.
    fn can_run(&self, world: &mut World) -> Result<()> {
        if world.surprise().is_some() {
            return Ok(());
        }
        if let Some(user) = &self.user
            && world.user(user)?.is_none()
        {
            bail!("there is no user {user}; a `user` step before this one can make it");
        }
        if let Some(folder) = &self.folder
            && !world.has_folder(folder)?
        {
            bail!("the folder {} is not there; a `directory` step before this one can make it", folder.display());
        }
        Ok(())
    }

    fn program(&self, argv: &[&str]) -> Program<'static> {
        let mut program = match (&self.user, argv.split_first()) {
            (None, Some((program, args))) => Program::new(program).args(args),
            (Some(user), _) => Program::new("runuser").args(["-u", user, "--"]).args(argv),
            (None, None) => Program::new(""),
        };
        if let Some(folder) = &self.folder {
            program = program.folder(folder);
        }
        self.env.iter().fold(program, |program, (name, value)| program.env(name, value))
    }
}

impl Guard {
    fn argv(&self) -> Vec<&str> {
        match self {
            Self::Shell(text) if text.trim().is_empty() => Vec::new(),
            Self::Shell(text) => in_shell(text),
            Self::Argv(argv) => argv.iter().map(String::as_str).collect(),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Shell(text) => text.clone(),
            Self::Argv(argv) => argv.join(" "),
        }
    }
}

fn in_shell(text: &str) -> Vec<&str> {
    vec!["sh", "-c", text]
}

/// Could the program not be started because there is none?
fn is_missing(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|error| {
        matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied)
    })
}

/// One line, cut where it is too long for a row.
fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= LONGEST_SHOWN {
        return line;
    }
    let cut: String = line.chars().take(LONGEST_SHOWN - 1).collect();
    format!("{cut}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(desired: &str, world: &mut World) -> Read<Observed> {
        let command: Command = serde_json::from_str(desired).unwrap();
        command.validate().unwrap();
        command.read(world).unwrap()
    }

    fn due(reason: &str) -> Read<Observed> {
        Read::Known(Observed::Due { reason: reason.to_owned() })
    }

    #[test]
    fn guards_decide() {
        let settled = Read::Known(Observed::Settled);
        for (guard, wanted) in [
            ("", due("no guard")),
            (r#","creates":"/etc/passwd""#, settled.clone()),
            (r#","creates":"/none""#, due("/none is not there")),
            (r#","unless":"exit 0""#, settled.clone()),
            (r#","unless":"exit 3""#, due("`exit 3` ended with status 3")),
            (r#","unless":["test","-d","/none"]"#, due("`test -d /none` ended with status 1")),
            (r#","only_if":"exit 0""#, due("`exit 0` holds")),
            (r#","only_if":"exit 1""#, settled.clone()),
            (r#","creates":"/none","only_if":"exit 1""#, settled),
        ] {
            assert_eq!(read(&format!(r#"{{"argv":["true"]{guard}}}"#), &mut World::now()), wanted, "{guard}");
        }
    }

    #[test]
    fn a_guard_waits_for_what_it_asks_about() {
        let mut reasons = Vec::new();
        let mut unknown = |desired: &'static str, world: &mut World| match read(desired, world) {
            Read::Unknown(reason) => reasons.push((desired, reason)),
            known => panic!("{desired}: {known:?}"),
        };
        let mut world = World::now();
        world.expect_pending();
        unknown(r#"{"argv":["true"],"unless":["no-such-program"]}"#, &mut world);
        unknown(r#"{"argv":["true"],"unless":"no-such-program x"}"#, &mut world);
        assert_eq!(read(r#"{"argv":["true"],"only_if":"exit 1"}"#, &mut world), Read::Known(Observed::Settled));
        world.expect_path(Path::new("/etc/passwd"), PathState::Absent);
        unknown(r#"{"argv":["true"],"only_if":"test -e /etc/passwd"}"#, &mut world);
        world.expect_arrival("redis-server", &[]);
        unknown(r#"{"argv":["true"],"only_if":"exit 1"}"#, &mut world);
        crate::messages::check("command-guards", reasons);
    }

    #[test]
    fn a_missing_guard_is_an_answer_where_nothing_is_to_come() {
        let desired = r#"{"argv":["true"],"unless":"no-such-program x"}"#;
        assert!(matches!(read(desired, &mut World::now()), Read::Known(Observed::Due { .. })));
    }
}
