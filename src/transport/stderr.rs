//! Passes on what an agent writes on standard error, such as the text of a panic: no more than a limit of it. It is
//! data of the host, which whoever shows it has to escape.

use std::sync::Arc;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// Receives the name of a host and one line of what its agent wrote on standard error, as the host sent it.
pub type StderrCallback = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// Maximum number of bytes that one host may show.
const MAX_SHOWN_BYTES: usize = 64 << 10;

/// Reads a host's standard error to its end, so that the agent never blocks, and passes its lines on.
pub async fn forward_lines(host: &str, mut stderr: impl AsyncBufRead + Unpin, on_line: impl Fn(&str, &str)) {
    let (mut shown, mut line) = (0, Vec::new());
    loop {
        let (taken, is_complete) = match stderr.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(bytes) => match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    line.extend_from_slice(&bytes[..end]);
                    (end + 1, true)
                }
                None => {
                    line.extend_from_slice(bytes);
                    (bytes.len(), false)
                }
            },
        };
        stderr.consume(taken);
        let is_over = shown + line.len() > MAX_SHOWN_BYTES;
        if is_over {
            if shown < MAX_SHOWN_BYTES {
                on_line(host, "further text on standard error is not shown");
            }
            shown = MAX_SHOWN_BYTES;
            line.clear();
        } else if is_complete {
            shown += line.len() + 1;
            on_line(host, &String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    if !line.is_empty() {
        on_line(host, &String::from_utf8_lossy(&line));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    async fn shown(bytes: &[u8]) -> Vec<String> {
        let lines = Mutex::new(Vec::new());
        forward_lines("a", bytes, |host, line| lines.lock().unwrap().push(format!("{host}: {line}"))).await;
        lines.into_inner().unwrap()
    }

    #[tokio::test]
    async fn lines_have_their_host() {
        assert_eq!(shown(b"one\ntwo\xff").await, ["a: one", "a: two\u{fffd}"]);
    }

    #[tokio::test]
    async fn a_host_shows_no_more_than_the_limit() {
        let endless_line = shown(&vec![b'x'; 10 << 20]).await;
        assert_eq!(endless_line, ["a: further text on standard error is not shown"]);
        let many = shown(&b"0123456789\n".repeat(100_000)).await;
        assert!(many.iter().map(String::len).sum::<usize>() < 2 * MAX_SHOWN_BYTES, "{}", many.len());
        assert_eq!(many.iter().filter(|line| line.contains("not shown")).count(), 1);
    }
}
