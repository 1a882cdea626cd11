//! Shows what an agent writes on standard error, such as the text of a panic. It is data of the host: escaped, and no
//! more than a limit of it.

use std::fmt::Write as _;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// Maximum number of bytes that one host may show.
const MAX_SHOWN_BYTES: usize = 64 << 10;

/// Reads a host's standard error to its end, so that the agent never blocks, and passes its lines on.
pub async fn forward_lines(host: &str, mut stderr: impl AsyncBufRead + Unpin, show: impl Fn(&str)) {
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
                show(&format!("{host}: further text on standard error is not shown"));
            }
            shown = MAX_SHOWN_BYTES;
            line.clear();
        } else if is_complete {
            shown += line.len() + 1;
            show(&format!("{host}: {}", escape(&String::from_utf8_lossy(&line))));
            line.clear();
        }
    }
    if !line.is_empty() {
        show(&format!("{host}: {}", escape(&String::from_utf8_lossy(&line))));
    }
}

/// Replaces characters that a terminal would act on, or that change the order of the others.
fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, character| {
        let is_bidirectional =
            matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        // Line and paragraph separators break lines in some terminals.
        let is_separator = matches!(character, '\u{2028}' | '\u{2029}');
        if (character.is_control() && character != '\t') || is_bidirectional || is_separator {
            // Writing to a String never fails.
            let _ = write!(escaped, "{}", character.escape_default());
        } else {
            escaped.push(character);
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    async fn shown(bytes: &[u8]) -> Vec<String> {
        let lines = Mutex::new(Vec::new());
        forward_lines("a", bytes, |line| lines.lock().unwrap().push(line.to_owned())).await;
        lines.into_inner().unwrap()
    }

    #[tokio::test]
    async fn lines_have_their_host_and_no_control_characters() {
        assert_eq!(shown("a\u{61c}b\u{2028}c".as_bytes()).await, ["a: a\\u{61c}b\\u{2028}c"]);
        assert_eq!(shown(b"one\n\x1b[2Jtwo\xff").await, ["a: one", "a: \\u{1b}[2Jtwo\u{fffd}"]);
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
