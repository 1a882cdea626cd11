//! Connects hosts and works on many at a time.

use std::future::Future;

use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::Session;
use crate::plan::Digest;
use crate::transport::{Binary, ConnectError, Ssh, Target};

/// The hosts of one run.
pub struct Fleet {
    ssh: Ssh,
    digest: String,
    /// How many hosts are worked on at a time.
    pub parallel: usize,
    /// Cancelled by Ctrl-C: everything stops where nothing is half done.
    pub stop: CancellationToken,
}

impl Fleet {
    /// Prepares ssh for these targets; connects to none.
    ///
    /// # Errors
    /// The temporary folder or the own binary cannot be read.
    pub fn new(targets: &[Target], parallel: usize, stop: CancellationToken) -> std::io::Result<Self> {
        let binary = Binary::own(|bytes| Digest::of(bytes).as_str().to_owned())?;
        let digest = binary.digest.clone();
        Ok(Self { ssh: Ssh::new(targets, binary)?, digest, parallel: parallel.max(1), stop })
    }

    /// Connects one host.
    ///
    /// # Errors
    /// See [`Ssh::connect`].
    pub async fn connect(&self, host: &str) -> Result<Session, ConnectError> {
        let channel = self.ssh.connect(host).await?;
        Session::open(host, channel, Some(&self.digest)).await
    }

    /// Connects hosts, each failing by itself; results in the order of the names.
    pub async fn connect_all(&self, hosts: &[String]) -> Vec<Result<Session, ConnectError>> {
        self.each(hosts, |host| self.connect(host)).await
    }

    /// Does something with each item, at most `parallel` at a time; results in the order of the items.
    pub async fn each<'i, I, R, F>(&self, items: &'i [I], work: impl Fn(&'i I) -> F) -> Vec<R>
    where
        F: Future<Output = R>,
    {
        self.few(items, self.parallel, work).await
    }

    /// As [`Fleet::each`], with at most so many at a time, and never more than `parallel`.
    pub async fn few<'i, I, R, F>(&self, items: &'i [I], at_a_time: usize, work: impl Fn(&'i I) -> F) -> Vec<R>
    where
        F: Future<Output = R>,
    {
        let at_a_time = at_a_time.clamp(1, self.parallel);
        let numbered = items.iter().map(work).enumerate().map(async |(number, work)| (number, work.await));
        // The next one begins as soon as any has ended, not the first.
        let mut done: Vec<(usize, R)> =
            futures_util::stream::iter(numbered).buffer_unordered(at_a_time).collect().await;
        done.sort_unstable_by_key(|(number, _)| *number);
        done.into_iter().map(|(_, result)| result).collect()
    }
}
