//! Agents over the system's own ssh client, through the openssh crate: one master connection and one channel a host.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openssh::{ChildStderr, ControlPersist, KnownHosts, Session, SessionBuilder, Stdio};
use tokio::io::{AsyncReadExt, BufReader};

use super::control_dir::ControlDir;
use super::stderr::{StderrCallback, forward_lines};
use super::{AgentBinary, Channel, ConnectError, ConnectErrorKind, JumpHost, SshTarget, ssh_config};

/// Time limit for the first answer of an agent after login; allows for sending the binary over a slow link.
const AGENT_START_TIMEOUT: Duration = Duration::from_secs(120);
/// Maximum number of bytes of standard error that are read to say why no agent started.
const MAX_ERROR_BYTES: u64 = 64 << 10;
/// A master that lost its dunlin (killed) ends by itself after this many seconds without a channel.
const CONTROL_PERSIST_SECONDS: NonZeroUsize = NonZeroUsize::new(10).expect("ten is not zero");

/// The ssh side of one run: its configuration, its control sockets, its binary.
pub struct SshTransport {
    control_dir: ControlDir,
    config_path: PathBuf,
    targets: HashMap<String, SshTarget>,
    agent_binary: AgentBinary,
    on_stderr: StderrCallback,
}

impl SshTransport {
    /// Writes configuration and known hosts for these targets.
    ///
    /// `targets` holds those that are jumped over, too. `on_stderr` receives what agents write on standard error.
    ///
    /// # Errors
    /// Returns an error if the temporary folder cannot be created or written.
    pub fn new(targets: &[SshTarget], agent_binary: AgentBinary, on_stderr: StderrCallback) -> std::io::Result<Self> {
        let control_dir = ControlDir::create(Path::new("/tmp"))?;
        let known_hosts = control_dir.path().join("known_hosts");
        let config_path = control_dir.path().join("config");
        std::fs::write(&known_hosts, ssh_config::render_known_hosts(targets))?;
        std::fs::write(&config_path, ssh_config::render_config(targets, &known_hosts))?;
        let targets = targets.iter().map(|target| (target.name.clone(), target.clone())).collect();
        Ok(Self { control_dir, config_path, targets, agent_binary, on_stderr })
    }

    /// Returns the folder of this run, for an exit without destructors.
    pub fn control_dir(&self) -> &Path {
        self.control_dir.path()
    }

    /// Connects to a host and starts its agent.
    ///
    /// # Errors
    /// Returns an error with the cause, within the target's connection timeout plus two minutes.
    ///
    /// # Panics
    /// Never: a name that is not among the targets is an error like any other.
    pub async fn connect_host(&self, name: &str) -> Result<Channel, ConnectError> {
        let Some(target) = self.targets.get(name) else {
            return Err(ConnectError::new(name, ConnectErrorKind::Unreachable, "not among the targets of this run"));
        };
        if target.host_keys.is_empty() {
            return Err(ConnectError::new(name, ConnectErrorKind::UnknownHostKey, "no host_key in the inventory"));
        }
        let session = match self.open_session(target).await {
            Ok(session) => session,
            Err(error) => return Err(self.diagnose_jump_host(target).await.unwrap_or(error)),
        };
        match tokio::time::timeout(AGENT_START_TIMEOUT, self.start_agent(target, session)).await {
            Ok(channel) => channel,
            Err(_) => Err(ConnectError::new(
                name,
                ConnectErrorKind::AgentFailed,
                format!("no answer within {} s", AGENT_START_TIMEOUT.as_secs()),
            )),
        }
    }

    /// Connects to the jump host itself to find out what is wrong with it: ssh only reports that the connection closed.
    async fn diagnose_jump_host(&self, target: &SshTarget) -> Option<ConnectError> {
        let Some(JumpHost::Target(jump_host)) = &target.jump else { return None };
        let over = self.targets.get(jump_host)?;
        let error = match Box::pin(self.diagnose_jump_host(over)).await {
            Some(error) => error,
            None => self.open_session(over).await.err()?,
        };
        Some(ConnectError::over(&target.name, error))
    }

    async fn open_session(&self, target: &SshTarget) -> Result<Session, ConnectError> {
        let mut builder = SessionBuilder::default();
        builder
            .config_file(&self.config_path)
            .control_directory(self.control_dir.path())
            .control_persist(ControlPersist::IdleFor(CONTROL_PERSIST_SECONDS))
            .known_hosts_check(KnownHosts::Strict)
            .connect_timeout(target.connect_timeout)
            .server_alive_interval(Duration::from_secs(5));
        // ConnectTimeout covers the way to a direct host only; the rest of the handshake and jumps get their own bound.
        let deadline = target.connect_timeout * 2 + Duration::from_secs(5);
        match tokio::time::timeout(deadline, builder.connect_mux(&target.name)).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(openssh::Error::Connect(error))) => {
                Err(ConnectError::from_ssh_log(&target.name, &error.to_string()))
            }
            Ok(Err(error)) => {
                Err(ConnectError::new(&target.name, ConnectErrorKind::Unreachable, format_error_chain(&error)))
            }
            Err(_) => {
                let detail = format!("no answer within {} s", deadline.as_secs());
                Err(ConnectError::new(&target.name, ConnectErrorKind::Unreachable, detail))
            }
        }
    }

    async fn start_agent(&self, target: &SshTarget, session: Session) -> Result<Channel, ConnectError> {
        let as_root = target.become_root || target.user.as_deref() == Some("root");
        let script = self.agent_binary.start_script(as_root);
        let agent_error = |detail: String| ConnectError::new(&target.name, ConnectErrorKind::AgentFailed, detail);
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
        let mut child = command.spawn().await.map_err(|error| agent_error(format_error_chain(&error)))?;
        let (Some(mut writer), Some(reader), Some(stderr)) =
            (child.stdin().take(), child.stdout().take(), child.stderr().take())
        else {
            return Err(agent_error("ssh gave no pipes".to_owned()));
        };
        let mut reader = BufReader::with_capacity(64 * 1024, reader);
        match self.agent_binary.start_agent(&mut reader, &mut writer).await {
            Ok((first, agent_pushed)) => {
                let reader = std::io::Cursor::new([first]).chain(reader);
                let (host, on_stderr) = (target.name.clone(), Arc::clone(&self.on_stderr));
                let forwarding =
                    tokio::spawn(async move { forward_lines(&host, BufReader::new(stderr), &*on_stderr).await });
                let guard = Box::new((child, session, forwarding));
                Ok(Channel { reader: Box::new(reader), writer: Box::new(writer), guard, agent_pushed })
            }
            Err(detail) => Err(agent_start_error(target, detail, stderr).await),
        }
    }
}

/// Puts together why no agent started, from what the host wrote on standard error.
async fn agent_start_error(target: &SshTarget, detail: String, mut stderr: ChildStderr) -> ConnectError {
    let mut stderr_output = Vec::new();
    let mut stderr = (&mut stderr).take(MAX_ERROR_BYTES);
    let _ = tokio::time::timeout(Duration::from_secs(2), stderr.read_to_end(&mut stderr_output)).await;
    let said = String::from_utf8_lossy(&stderr_output);
    let line = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    let cause = if target.become_root && line.starts_with("sudo:") {
        ConnectErrorKind::SudoDenied
    } else {
        ConnectErrorKind::AgentFailed
    };
    let detail = if line.is_empty() { detail } else { line.to_owned() };
    ConnectError::new(&target.name, cause, detail)
}

fn format_error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
