//! Connects to hosts and runs operations on them in parallel.

use std::future::Future;
use std::path::Path;

use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::Session;
use crate::plan::Digest;
use crate::transport::{AgentBinary, ConnectError, SshTarget, SshTransport, StderrCallback};

/// The hosts of one run.
pub struct Fleet {
    ssh: SshTransport,
    binary_digest: String,
    /// Maximum number of hosts processed in parallel.
    pub max_parallel: usize,
    /// Cancelled by Ctrl-C: each operation stops at a consistent point.
    pub cancellation: CancellationToken,
}

impl Fleet {
    /// Prepares ssh for these targets; connects to none. `on_stderr` receives what agents write on standard error.
    ///
    /// # Errors
    /// Returns an error if the temporary folder cannot be created or the running binary cannot be read.
    pub fn new(
        targets: &[SshTarget],
        max_parallel: usize,
        cancellation: CancellationToken,
        on_stderr: StderrCallback,
    ) -> std::io::Result<Self> {
        let binary = AgentBinary::read_own(|bytes| Digest::of_bytes(bytes).as_str().to_owned())?;
        let binary_digest = binary.digest.clone();
        Ok(Self {
            ssh: SshTransport::new(targets, binary, on_stderr)?,
            binary_digest,
            max_parallel: max_parallel.max(1),
            cancellation,
        })
    }

    /// Returns the folder that this run must remove, for an exit without destructors.
    pub fn control_dir(&self) -> &Path {
        self.ssh.control_dir()
    }

    /// Connects to one host.
    ///
    /// # Errors
    /// See [`SshTransport::connect_host`].
    pub async fn connect(&self, host: &str) -> Result<Session, ConnectError> {
        let channel = self.ssh.connect_host(host).await?;
        Session::open(host, channel, Some(&self.binary_digest)).await
    }

    /// Connects to hosts, each failing on its own; returns the results in the order of the names.
    pub async fn connect_all(&self, hosts: &[String]) -> Vec<Result<Session, ConnectError>> {
        self.map_parallel(hosts, |host| self.connect(host)).await
    }

    /// Runs a function on each item, at most `parallel` at a time; returns the results in the order of the items.
    pub async fn map_parallel<'i, I, R, F>(&self, items: &'i [I], work: impl Fn(&'i I) -> F) -> Vec<R>
    where
        F: Future<Output = R>,
    {
        self.map_parallel_limited(items, self.max_parallel, work).await
    }

    /// Works like [`Fleet::map_parallel`] with a lower limit, and never more than `parallel`.
    pub async fn map_parallel_limited<'i, I, R, F>(
        &self,
        items: &'i [I],
        limit: usize,
        work: impl Fn(&'i I) -> F,
    ) -> Vec<R>
    where
        F: Future<Output = R>,
    {
        let at_a_time = limit.clamp(1, self.max_parallel);
        let numbered = items.iter().map(work).enumerate().map(async |(number, work)| (number, work.await));
        // The next one begins as soon as any has ended, not the first.
        let mut done: Vec<(usize, R)> =
            futures_util::stream::iter(numbered).buffer_unordered(at_a_time).collect().await;
        done.sort_unstable_by_key(|(number, _)| *number);
        done.into_iter().map(|(_, result)| result).collect()
    }
}
