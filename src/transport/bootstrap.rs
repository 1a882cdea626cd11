//! The first messages on a channel: start the existing agent, or receive it and start it.
//!
//! The binary is named by its content's hash, in a folder that only root can write (or in the user's own cache where
//! nothing is done as root). What arrived whole is run from a name of its own; the agent holds itself against the hash
//! (many times as fast as the host's `sha256sum`) and takes its place before it says a word.

use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The binary that is pushed to hosts.
#[derive(Clone)]
pub struct AgentBinary {
    /// Its bytes.
    pub bytes: Arc<Vec<u8>>,
    /// Their SHA-256, hexadecimal.
    pub digest: String,
}

impl AgentBinary {
    /// Returns the shell script that starts the agent. The script contains nothing from an inventory: only hash and
    /// length.
    ///
    /// It answers `N` and takes the binary where it is not there yet; the agent's own first byte is 0.
    pub fn start_script(&self, root: bool) -> String {
        let folder = if root { "/var/lib/dunlin/agent" } else { "${XDG_CACHE_HOME:-$HOME/.cache}/dunlin/agent" };
        let (digest, length) = (&self.digest, self.bytes.len());
        format!(
            "D={folder};F=$D/{digest};[ -x $F ]&&exec $F agent;\
             (umask 077;mkdir -p $D)||exit 71;printf N;T=$F.$$;\
             head -c {length} >$T&&[ $(wc -c <$T) = {length} ]&&chmod 700 $T&&exec $T agent --arrived;\
             rm -f $T;echo 'the binary did not arrive whole' >&2;exit 72"
        )
    }

    /// Reads the first byte, sends the binary where it is asked for, and returns what was read of the agent's own.
    ///
    /// # Errors
    /// Returns an error if the channel closed, or with the output if it is not from an agent.
    pub async fn start_agent(
        &self,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(u8, bool), String> {
        let first = reader.read_u8().await.map_err(|_| String::from("the channel closed"))?;
        match first {
            0 => Ok((first, false)),
            b'N' => {
                writer.write_all(&self.bytes).await.map_err(|error| format!("sending the agent: {error}"))?;
                writer.flush().await.map_err(|error| format!("sending the agent: {error}"))?;
                match reader.read_u8().await {
                    Ok(0) => Ok((0, true)),
                    Ok(byte) => Err(describe_unexpected_output(byte, reader).await),
                    Err(_) => Err(String::from("the channel closed after the agent was sent")),
                }
            }
            byte => Err(describe_unexpected_output(byte, reader).await),
        }
    }

    /// Reads the running program itself.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read.
    pub fn read_own(digest: impl Fn(&[u8]) -> String) -> std::io::Result<Self> {
        let bytes = std::fs::read(Path::new("/proc/self/exe"))?;
        let digest = digest(&bytes);
        Ok(Self { bytes: Arc::new(bytes), digest })
    }
}

/// Describes the output of a login shell or a banner in place of the agent's.
async fn describe_unexpected_output(first: u8, reader: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = vec![first];
    let mut rest = [0; 200];
    if let Ok(Ok(read)) = tokio::time::timeout(std::time::Duration::from_millis(200), reader.read(&mut rest)).await {
        text.extend_from_slice(&rest[..read]);
    }
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next().unwrap_or_default().trim();
    format!("the login shell printed \"{line}\"; it must print nothing for commands that are not interactive")
}
