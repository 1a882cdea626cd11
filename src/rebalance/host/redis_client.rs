//! A blocking connection to an instance, and the queries that moves need.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dunlin_shards::{InstanceAddress, build_client};
use redis::{Cmd, Connection, FromRedisValue, RedisConnectionInfo, Value};

use crate::poll::retry_until;
use crate::protocol::shard::{Credentials, ReplicationRole};

/// Longest time to connect and to log in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit for an instance that is starting.
pub const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Time between two attempts to connect to an instance that is starting.
const OPEN_RETRY_INTERVAL: Duration = Duration::from_millis(10);
/// Longest wait for an answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to one instance; after an error it must not be used again.
pub struct RedisClient {
    connection: Connection,
    /// Address of the instance.
    pub address: InstanceAddress,
    sent_at: Instant,
    longest_reply: Duration,
}

/// Fields of `INFO` by name.
#[derive(Clone, Debug, Default)]
pub struct RedisInfo(HashMap<String, String>);

impl RedisInfo {
    /// Returns the text of a field; empty if the server does not have it.
    pub fn text_field(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// Returns the number of a field; 0 if the server does not have it.
    pub fn number_field(&self, name: &str) -> u64 {
        self.text_field(name).parse().unwrap_or(0)
    }

    /// Iterates over every field.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Parses a server's reply to `INFO`.
    pub(super) fn parse(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Self(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    }
}

/// Returns the bytes of the replication stream between two observations. A primary without replicas does not count its
/// stream; its append-only file then grows by the same commands.
pub fn replication_bytes_between(before: &RedisInfo, after: &RedisInfo) -> u64 {
    let grown = |name| after.number_field(name).saturating_sub(before.number_field(name));
    grown("master_repl_offset").max(grown("aof_current_size"))
}

/// Returns the command that makes an instance follow a primary.
pub fn replicaof_command(primary: &InstanceAddress) -> Cmd {
    redis_command(&["REPLICAOF", &primary.host, &primary.port.to_string()])
}

/// Builds a command from plain words.
pub fn redis_command(words: &[&str]) -> Cmd {
    let mut cmd = Cmd::new();
    for word in words {
        cmd.arg(word);
    }
    cmd
}

impl RedisClient {
    /// Connects and logs in, over TLS if the credentials have a CA.
    ///
    /// # Errors
    /// Returns an error if nothing answers there, the CA did not sign the certificate for this address, or the password
    /// is not accepted; the error says which.
    pub fn open(address: &InstanceAddress, credentials: &Credentials) -> Result<Self> {
        let login = RedisConnectionInfo::default()
            .set_username(&credentials.user)
            .set_password(&credentials.password)
            .set_skip_set_lib_name();
        let client = build_client(&address.host, address.port, login, credentials.tls_ca.as_deref())?;
        let connection =
            client.get_connection_with_timeout(CONNECT_TIMEOUT).with_context(|| format!("redis {address}"))?;
        connection
            .set_read_timeout(Some(RESPONSE_TIMEOUT))
            .and_then(|()| connection.set_write_timeout(Some(RESPONSE_TIMEOUT)))?;
        let (sent_at, longest_reply) = (Instant::now(), Duration::ZERO);
        Ok(Self { connection, address: address.clone(), sent_at, longest_reply })
    }

    /// Connects as [`Self::open`], and retries until the time limit, because an instance that is starting answers late.
    ///
    /// # Errors
    /// Returns the error of the last attempt if the time limit has passed.
    pub fn open_with_retry(address: &InstanceAddress, credentials: &Credentials, timeout: Duration) -> Result<Self> {
        let open = || Self::open(address, credentials).and_then(Self::ensure_loaded);
        retry_until(Instant::now() + timeout, OPEN_RETRY_INTERVAL, open, Result::is_ok)
    }

    fn ensure_loaded(mut self) -> Result<Self> {
        if self.fetch_info("persistence")?.number_field("loading") == 1 {
            bail!("redis {} is still loading its data", self.address);
        }
        Ok(self)
    }

    /// Sends one command and waits for its answer.
    ///
    /// # Errors
    /// Returns an error if the server rejects the command or the connection fails, with command and address.
    pub fn query<T: FromRedisValue>(&mut self, cmd: &Cmd) -> Result<T> {
        self.sent_at = Instant::now();
        let answer = cmd.query(&mut self.connection);
        self.record_reply_time();
        answer.with_context(|| format!("{} at redis {}", command_name(cmd), self.address))
    }

    /// Returns the longest time from a request to its first reply since the last call. A server executes all commands
    /// of a request before it replies and before it serves other clients: they waited no longer than this for the
    /// request.
    pub fn take_longest_reply(&mut self) -> Duration {
        std::mem::take(&mut self.longest_reply)
    }

    fn record_reply_time(&mut self) {
        self.longest_reply = self.longest_reply.max(self.sent_at.elapsed());
    }

    /// Sends a command of plain words.
    ///
    /// # Errors
    /// Returns an error under the same conditions as [`Self::query`].
    pub fn run_command(&mut self, line: &[&str]) -> Result<Value> {
        self.query(&redis_command(line))
    }

    /// Sends commands in one batch and returns all answers; errors are among them as [`Value::ServerError`].
    ///
    /// # Errors
    /// Returns an error if the connection fails.
    pub fn run_batch(&mut self, cmds: &[Cmd]) -> Result<Vec<Value>> {
        self.send_commands(cmds)?;
        self.receive_answers(cmds.len())
    }

    /// Runs a batch at this instance and one at another at the same time; as [`Self::run_batch`].
    ///
    /// # Errors
    /// Returns an error if the connection fails.
    pub fn run_batch_with(
        &mut self,
        cmds: &[Cmd],
        other: &mut Self,
        other_cmds: &[Cmd],
    ) -> Result<(Vec<Value>, Vec<Value>)> {
        self.send_commands(cmds)?;
        other.send_commands(other_cmds)?;
        Ok((self.receive_answers(cmds.len())?, other.receive_answers(other_cmds.len())?))
    }

    /// Runs a batch as [`Self::run_batch`]; an error among the answers is returned as the error.
    ///
    /// # Errors
    /// Returns the first error of the server, or an error if the connection fails.
    pub fn run_all(&mut self, cmds: &[Cmd]) -> Result<Vec<Value>> {
        let answers = self.run_batch(cmds)?;
        for (cmd, answer) in cmds.iter().zip(&answers) {
            self.check_reply(cmd, answer)?;
        }
        Ok(answers)
    }

    /// Sends commands as one transaction and returns the answers of its `EXEC`.
    ///
    /// # Errors
    /// Returns an error if the connection fails, or with the first error of the server, also inside of the transaction.
    pub fn run_transaction(&mut self, cmds: &[Cmd]) -> Result<Vec<Value>> {
        let all: Vec<Cmd> = std::iter::once(redis_command(&["MULTI"]))
            .chain(cmds.iter().cloned())
            .chain([redis_command(&["EXEC"])])
            .collect();
        let answers = self.run_all(&all)?;
        let Some(Value::Array(executed)) = answers.into_iter().next_back() else {
            bail!("the transaction at redis {} was not executed", self.address)
        };
        for (cmd, answer) in cmds.iter().zip(&executed) {
            self.check_reply(cmd, answer)?;
        }
        Ok(executed)
    }

    /// Runs the same batch at two instances at the same time; an error among the answers is returned as the error.
    ///
    /// # Errors
    /// Returns an error if a connection fails, or with the first error of a server.
    pub fn query_both(first: &mut Self, second: &mut Self, cmds: &[Cmd]) -> Result<(Vec<Value>, Vec<Value>)> {
        first.send_commands(cmds)?;
        second.send_commands(cmds)?;
        Ok((first.receive_replies(cmds)?, second.receive_replies(cmds)?))
    }

    /// Sends commands without waiting for the answers; [`Self::receive_replies`] must take them.
    ///
    /// # Errors
    /// Returns an error if the connection fails.
    pub fn send_commands(&mut self, cmds: &[Cmd]) -> Result<()> {
        if cmds.is_empty() {
            return Ok(());
        }
        let packed: Vec<u8> = cmds.iter().flat_map(Cmd::get_packed_command).collect();
        self.sent_at = Instant::now();
        self.connection.send_packed_command(&packed).with_context(|| format!("redis {}", self.address))
    }

    /// Takes the answers to commands that were sent.
    ///
    /// # Errors
    /// Returns an error if the connection fails, or with the first error among the replies.
    pub fn receive_replies(&mut self, cmds: &[Cmd]) -> Result<Vec<Value>> {
        let answers = self.receive_answers(cmds.len())?;
        for (cmd, answer) in cmds.iter().zip(&answers) {
            self.check_reply(cmd, answer)?;
        }
        Ok(answers)
    }

    fn receive_answers(&mut self, count: usize) -> Result<Vec<Value>> {
        let mut answers = Vec::with_capacity(count);
        for _ in 0..count {
            let answer = self.connection.recv_response();
            if answers.is_empty() {
                self.record_reply_time();
            }
            answers.push(answer.with_context(|| format!("redis {}", self.address))?);
        }
        Ok(answers)
    }

    fn check_reply(&self, cmd: &Cmd, answer: &Value) -> Result<()> {
        match answer {
            Value::ServerError(error) => bail!(
                "{} at redis {}: {} {}",
                command_name(cmd),
                self.address,
                error.code(),
                error.details().unwrap_or_default()
            ),
            _ => Ok(()),
        }
    }

    /// Fetches a section of `INFO`.
    ///
    /// # Errors
    /// Returns an error under the same conditions as [`Self::query`].
    pub fn fetch_info(&mut self, section: &str) -> Result<RedisInfo> {
        Ok(RedisInfo::parse(&self.query::<String>(&redis_command(&["INFO", section]))?))
    }

    /// Fetches the value of a setting.
    ///
    /// # Errors
    /// Returns an error under the same conditions as [`Self::query`], or if there is no such setting.
    pub fn fetch_setting(&mut self, name: &str) -> Result<String> {
        let pair: Vec<String> = self.query(&redis_command(&["CONFIG", "GET", name]))?;
        pair.into_iter().nth(1).with_context(|| format!("redis {} has no setting {name}", self.address))
    }

    /// Fetches the role. The offset of a replica is the one that it has applied, also while its link is down.
    ///
    /// # Errors
    /// Returns an error under the same conditions as [`Self::query`].
    pub fn fetch_role(&mut self) -> Result<ReplicationRole> {
        let info = self.fetch_info("replication")?;
        Ok(if info.text_field("role") == "master" {
            ReplicationRole::Primary {
                offset: info.number_field("master_repl_offset"),
                replicas: info.number_field("connected_slaves"),
            }
        } else {
            ReplicationRole::Replica {
                primary: InstanceAddress::new(
                    info.text_field("master_host"),
                    info.text_field("master_port").parse().context("master_port")?,
                ),
                link_is_up: info.text_field("master_link_status") == "up",
                offset: info.number_field("slave_repl_offset"),
            }
        })
    }

    /// Fetches the identity of the running process, which changes at each start.
    ///
    /// # Errors
    /// Returns an error under the same conditions as [`Self::query`].
    pub fn fetch_run_id(&mut self) -> Result<String> {
        Ok(self.fetch_info("server")?.text_field("run_id").to_owned())
    }
}

/// Returns the name of a command, with its subcommand if it has one: never its arguments, which may be secret.
fn command_name(cmd: &Cmd) -> String {
    let words: Vec<String> = cmd
        .args_iter()
        .take(2)
        .filter_map(|arg| match arg {
            redis::Arg::Simple(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        })
        .collect();
    match &words[..] {
        [first, second] if matches!(first.as_str(), "CONFIG" | "CLIENT" | "ACL") => format!("{first} {second}"),
        [first, ..] => first.clone(),
        [] => String::new(),
    }
}

/// Returns the role of an instance; [`ReplicationRole::Unreachable`] if it does not answer.
pub fn probe_role(address: &InstanceAddress, credentials: &Credentials) -> ReplicationRole {
    RedisClient::open(address, credentials).and_then(|mut link| link.fetch_role()).unwrap_or_default()
}

/// Returns a reply's text; `None` for other kinds of replies.
pub fn value_text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_never_contain_arguments() {
        assert_eq!(command_name(&redis_command(&["CONFIG", "SET", "masterauth", "secret"])), "CONFIG SET");
        assert_eq!(command_name(&redis_command(&["REPLICAOF", "10.0.0.1", "7000"])), "REPLICAOF");
    }
}
