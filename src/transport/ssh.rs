//! Agents over the system's own ssh client, through the openssh crate: one master connection and one channel a host.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openssh::{ChildStderr, ControlPersist, KnownHosts, Session, SessionBuilder, Stdio};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, BufReader};

use super::{Binary, Cause, Channel, ConnectError, Target, Via, ssh_config};

/// How long an agent may take to answer once its host let us in; a push over a slow line fits.
const START: Duration = Duration::from_secs(120);
/// A master that lost its dunlin (killed) ends by itself after this many seconds without a channel.
const IDLE: NonZeroUsize = NonZeroUsize::new(10).expect("ten is not zero");

/// The ssh side of one run: its configuration, its control sockets, its binary.
pub struct Ssh {
    folder: TempDir,
    config: PathBuf,
    targets: HashMap<String, Target>,
    binary: Binary,
}

impl Ssh {
    /// Writes configuration and known hosts for these targets.
    ///
    /// `targets` holds those that are jumped over, too.
    ///
    /// # Errors
    /// The temporary folder cannot be made or written.
    pub fn new(targets: &[Target], binary: Binary) -> std::io::Result<Self> {
        // Short, since a control socket's path may have 108 bytes.
        let folder = tempfile::Builder::new().prefix("dunlin-").tempdir_in("/tmp")?;
        let known_hosts = folder.path().join("known_hosts");
        let config = folder.path().join("config");
        std::fs::write(&known_hosts, ssh_config::known_hosts(targets))?;
        std::fs::write(&config, ssh_config::config(targets, &known_hosts))?;
        let targets = targets.iter().map(|target| (target.name.clone(), target.clone())).collect();
        Ok(Self { folder, config, targets, binary })
    }

    /// Connects to a host and starts its agent.
    ///
    /// # Errors
    /// With the cause, within the target's connection time-out plus two minutes.
    ///
    /// # Panics
    /// Never: a name that is not among the targets is an error like any other.
    pub async fn connect(&self, name: &str) -> Result<Channel, ConnectError> {
        let Some(target) = self.targets.get(name) else {
            return Err(ConnectError::new(name, Cause::Unreachable, "not among the targets of this run"));
        };
        if target.host_keys.is_empty() {
            return Err(ConnectError::new(name, Cause::UnknownKey, "no host_key in hosts.toml"));
        }
        let session = match self.session(target).await {
            Ok(session) => session,
            Err(error) => return Err(self.way(target).await.unwrap_or(error)),
        };
        match tokio::time::timeout(START, self.start(target, session)).await {
            Ok(channel) => channel,
            Err(_) => Err(ConnectError::new(name, Cause::Agent, format!("no answer within {} s", START.as_secs()))),
        }
    }

    /// Of a jump, ssh only says that the connection closed; the host on the way is asked itself what is wrong with it.
    async fn way(&self, target: &Target) -> Option<ConnectError> {
        let Some(Via::Target(over)) = &target.via else { return None };
        let over = self.targets.get(over)?;
        let error = match Box::pin(self.way(over)).await {
            Some(error) => error,
            None => self.session(over).await.err()?,
        };
        Some(ConnectError::over(&target.name, error))
    }

    async fn session(&self, target: &Target) -> Result<Session, ConnectError> {
        let mut builder = SessionBuilder::default();
        builder
            .config_file(&self.config)
            .control_directory(self.folder.path())
            .control_persist(ControlPersist::IdleFor(IDLE))
            .known_hosts_check(KnownHosts::Strict)
            .connect_timeout(target.connect_timeout)
            .server_alive_interval(Duration::from_secs(5));
        // ConnectTimeout covers the way to a direct host only; the rest of the handshake and jumps get their own bound.
        let bound = target.connect_timeout * 2 + Duration::from_secs(5);
        match tokio::time::timeout(bound, builder.connect_mux(&target.name)).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(openssh::Error::Connect(error))) => Err(ConnectError::from_ssh(&target.name, &error.to_string())),
            Ok(Err(error)) => Err(ConnectError::new(&target.name, Cause::Unreachable, chain(&error))),
            Err(_) => {
                let detail = format!("no answer within {} s", bound.as_secs());
                Err(ConnectError::new(&target.name, Cause::Unreachable, detail))
            }
        }
    }

    async fn start(&self, target: &Target, session: Session) -> Result<Channel, ConnectError> {
        let root = target.become_root || target.user.as_deref() == Some("root");
        let script = self.binary.script(root);
        let agent_error = |detail: String| ConnectError::new(&target.name, Cause::Agent, detail);
        let session = Arc::new(session);
        let mut command = if target.become_root && target.user.as_deref() != Some("root") {
            let mut command = Session::to_command(Arc::clone(&session), "sudo");
            command.args(["-n", "--", "sh", "-c", &script]);
            command
        } else {
            let mut command = Session::to_command(Arc::clone(&session), "sh");
            command.args(["-c", &script]);
            command
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().await.map_err(|error| agent_error(chain(&error)))?;
        let (Some(mut writer), Some(reader), Some(stderr)) =
            (child.stdin().take(), child.stdout().take(), child.stderr().take())
        else {
            return Err(agent_error("ssh gave no pipes".to_owned()));
        };
        let mut reader = BufReader::with_capacity(64 * 1024, reader);
        match self.binary.start(&mut reader, &mut writer).await {
            Ok((first, pushed)) => {
                let reader = std::io::Cursor::new([first]).chain(reader);
                let guard = Box::new((child, session, tokio::spawn(drain(stderr))));
                Ok(Channel { reader: Box::new(reader), writer: Box::new(writer), guard, pushed })
            }
            Err(detail) => Err(explain(target, detail, stderr).await),
        }
    }
}

/// Puts together why no agent started, from what the host wrote on standard error.
async fn explain(target: &Target, detail: String, mut stderr: ChildStderr) -> ConnectError {
    let mut said = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(2), stderr.read_to_end(&mut said)).await;
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    let cause = if target.become_root && line.starts_with("sudo:") { Cause::Sudo } else { Cause::Agent };
    let detail = if line.is_empty() { detail } else { line.to_owned() };
    ConnectError::new(&target.name, cause, detail)
}

/// Reads what the agent writes on standard error, so that it never blocks; a panic's text goes to ours.
async fn drain(stderr: ChildStderr) {
    let mut stderr = BufReader::new(stderr);
    let _ = tokio::io::copy(&mut stderr, &mut tokio::io::stderr()).await;
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
