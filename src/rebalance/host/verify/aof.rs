//! Which keys were written to since the base of an append-only file: what its increments name.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};

use anyhow::{Context, Result, bail, ensure};
use redis::Value;

use super::super::redis_client::{RedisClient, redis_command};
use super::key_state::Key;

/// Commands that change keys which their key positions do not name.
const UNTRACKED_COMMANDS: [&str; 5] = ["flushall", "flushdb", "swapdb", "move", "copy"];
/// Longest line before an argument, in bytes: a length, or a remark of Redis.
const MAX_LINE_BYTES: u64 = 1024;
/// Bytes that are read of an argument: a longer one is a value, of which nothing is asked here.
const MAX_ARGUMENT_BYTES: u64 = 1 << 20;
const DAMAGED_MESSAGE: &str = "the increment of the append-only file is damaged";

/// Calls `each` with the database and the key of all that the commands of an increment name.
///
/// # Errors
/// Returns an error if the file is damaged, the server does not answer, or a command reaches beyond what it names; also
/// the error of `each`.
pub fn for_each_changed_key(
    file: impl Read,
    key_specs: &mut KeySpecs,
    target: &mut RedisClient,
    mut each: impl FnMut(u32, Key) -> Result<()>,
) -> Result<()> {
    let mut database = 0;
    for_each_command(file, |command| {
        let Some(name) = command.first().map(|name| String::from_utf8_lossy(name).to_lowercase()) else {
            return Ok(());
        };
        if name == "select" {
            let number = command.get(1).and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
            database = number.context("an increment selects no database")?;
        } else if UNTRACKED_COMMANDS.contains(&name.as_str()) {
            bail!("{} was executed meanwhile", name.to_uppercase());
        } else {
            for key in key_specs.command_keys(&name, command, target)? {
                ensure!((key.len() as u64) < MAX_ARGUMENT_BYTES, "the name of a key has more than 1 MiB");
                each(database, key)?;
            }
        }
        Ok(())
    })
}

/// Calls `each` with the arguments of every command of an append-only file, in order. An argument ends after
/// `MAX_ARGUMENT_BYTES`.
///
/// # Errors
/// Returns an error if the file cannot be read or is damaged, or the error of `each`.
pub fn for_each_command(file: impl Read, mut each: impl FnMut(Vec<Vec<u8>>) -> Result<()>) -> Result<()> {
    let mut file = BufReader::new(file);
    while let Some(command) = next_command(&mut file)? {
        each(command)?;
    }
    Ok(())
}

/// Reads the next command; `None` at the end of the file. An end within a command is damage.
fn next_command(file: &mut impl BufRead) -> Result<Option<Vec<Vec<u8>>>> {
    let Some(count) = read_length(file, b'*')? else { return Ok(None) };
    let mut command = Vec::new();
    for _ in 0..count {
        let length_with_crlf = read_length(file, b'$')?.context(DAMAGED_MESSAGE)?.saturating_add(2);
        let mut argument = Vec::new();
        let read = file.take(length_with_crlf.min(MAX_ARGUMENT_BYTES + 2)).read_to_end(&mut argument)? as u64;
        let rest = length_with_crlf.saturating_sub(MAX_ARGUMENT_BYTES + 2);
        let skipped = std::io::copy(&mut file.take(rest), &mut std::io::sink())?;
        ensure!(read + skipped == length_with_crlf, DAMAGED_MESSAGE);
        argument.truncate(argument.len() - 2);
        command.push(argument);
    }
    Ok(Some(command))
}

/// Reads the number of a line with this marker; comments (`#TS:…`) are skipped. `None` at the end of the file.
fn read_length(file: &mut impl BufRead, marker: u8) -> Result<Option<u64>> {
    let mut line = Vec::new();
    loop {
        line.clear();
        // A longer line comes without its end, and is refused below.
        file.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
        match line.as_slice() {
            [] => return Ok(None),
            [b'#', .., b'\n'] => {}
            [first, digits @ .., b'\r', b'\n'] if *first == marker => {
                let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
                return number.map(Some).context(DAMAGED_MESSAGE);
            }
            _ => bail!(DAMAGED_MESSAGE),
        }
    }
}

/// Caches the key positions of commands, as reported by the server.
#[derive(Default)]
pub struct KeySpecs(HashMap<String, KeySpec>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeySpec {
    NoKeys,
    /// From the first to the last, which counts from the end where it is negative.
    Range {
        first: usize,
        last: i64,
        step: usize,
    },
    /// The server has to be asked for each command.
    AskServer,
}

impl KeySpecs {
    fn command_keys(&mut self, name: &str, command: Vec<Vec<u8>>, target: &mut RedisClient) -> Result<Vec<Key>> {
        let spec = match self.0.get(name) {
            Some(place) => *place,
            None => {
                let answer: Value = target.query(redis_command(&["COMMAND", "INFO"]).arg(name))?;
                let place = parse_key_spec(&answer)
                    .with_context(|| format!("{name} is a command that the server does not know"))?;
                *self.0.entry(name.to_owned()).or_insert(place)
            }
        };
        match spec {
            KeySpec::NoKeys => Ok(Vec::new()),
            KeySpec::Range { first, last, step } => Ok(keys_in_range(command, first, last, step)),
            KeySpec::AskServer => keys_from_server(&command, target),
        }
    }
}

/// Parses an answer of `COMMAND INFO`: name, arity, flags, first, last, step, then categories, hints, places of keys
/// and, in the tenth field, subcommands.
fn parse_key_spec(answer: &Value) -> Option<KeySpec> {
    let Value::Array(commands) = answer else { return None };
    let Some(Value::Array(fields)) = commands.first() else { return None };
    let (Value::Array(flags), Value::Int(first), Value::Int(last), Value::Int(step)) =
        (fields.get(2)?, fields.get(3)?, fields.get(4)?, fields.get(5)?)
    else {
        return None;
    };
    let movable = flags.iter().any(|flag| *flag == Value::SimpleString("movablekeys".to_owned()));
    let has_subcommands = matches!(fields.get(9), Some(Value::Array(subcommands)) if !subcommands.is_empty());
    if movable || has_subcommands {
        return Some(KeySpec::AskServer);
    }
    let [first, step] = [*first, *step].map(|number| usize::try_from(number).ok());
    Some(match (first?, step?) {
        (0, _) => KeySpec::NoKeys,
        (first, step) => KeySpec::Range { first, last: *last, step: step.max(1) },
    })
}

fn keys_in_range(command: Vec<Vec<u8>>, first: usize, last: i64, step: usize) -> Vec<Key> {
    let last = match usize::try_from(last) {
        Ok(last) => last,
        Err(_) => command.len().saturating_sub(usize::try_from(last.unsigned_abs()).unwrap_or(usize::MAX)),
    };
    let count = (last + 1).saturating_sub(first);
    command.into_iter().skip(first).take(count).step_by(step).collect()
}

fn keys_from_server(command: &[Vec<u8>], target: &mut RedisClient) -> Result<Vec<Key>> {
    let mut request = redis_command(&["COMMAND", "GETKEYS"]);
    for word in command {
        request.arg(word);
    }
    match target.run_batch(&[request])?.pop() {
        Some(Value::Array(keys)) => keys
            .into_iter()
            .map(|key| match key {
                Value::BulkString(key) => Ok(key),
                other => bail!("a key was expected, not {other:?}"),
            })
            .collect(),
        Some(Value::ServerError(error)) if error.details().is_some_and(|why| why.contains("no key arguments")) => {
            Ok(Vec::new())
        }
        other => bail!("COMMAND GETKEYS: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(text: &str) -> Result<Vec<Vec<String>>> {
        let mut file = BufReader::new(text.as_bytes());
        let mut all = Vec::new();
        while let Some(command) = next_command(&mut file)? {
            all.push(command.into_iter().map(|word| String::from_utf8(word).unwrap()).collect());
        }
        Ok(all)
    }

    #[test]
    fn commands_end_where_the_file_does() {
        let whole = "*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n#TS:1700000000\r\n*2\r\n$3\r\nDEL\r\n$4\r\na\r\nb\r\n";
        let all = [vec!["SELECT", "0"], vec!["DEL", "a\r\nb"]];
        assert_eq!(commands(whole).unwrap(), all);
        let between = [0, 23, 39];
        for end in 0..whole.len() {
            let found = commands(&whole[..end]);
            assert_eq!(found.is_ok(), between.contains(&end), "{end} bytes");
            if let Ok(found) = found {
                assert_eq!(found, all[..usize::from(end > 0)], "{end} bytes");
            }
        }
    }

    #[test]
    fn what_is_no_command_is_an_error() {
        let longer = "*1\r\n$19\r\nPING\r\n*1\r\n$4\r\nPING\r\n";
        let beyond_counting = "*1\r\n$18446744073709551615\r\nPING\r\n";
        let long_remark = format!("#{}\n", "x".repeat(2000));
        for damaged in ["*1\r\nPING\r\n", "PING\r\n", "*x\r\n", longer, beyond_counting, &long_remark] {
            assert!(commands(damaged).is_err(), "{damaged:?}");
        }
    }

    #[test]
    fn of_a_long_value_only_its_beginning_is_read() {
        let value = "v".repeat(5 << 20);
        let set =
            format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n${}\r\n{value}\r\n*2\r\n$3\r\nDEL\r\n$1\r\nb\r\n", value.len());
        let found = commands(&set).unwrap();
        assert_eq!((found[0][1].as_str(), found[0][2].len() as u64), ("a", MAX_ARGUMENT_BYTES));
        assert_eq!(found[1], ["DEL", "b"]);
        assert!(commands(&set[..4 << 20]).is_err(), "it ends in the value");
    }

    #[test]
    fn keys_are_counted_from_both_ends() {
        let command = || ["LMOVE", "a", "b", "c", "d"].map(|word| word.as_bytes().to_vec()).to_vec();
        let keys = |first, last, step| String::from_utf8(keys_in_range(command(), first, last, step).concat()).unwrap();
        assert_eq!(keys(1, 1, 1), "a");
        assert_eq!(keys(1, 2, 1), "ab");
        assert_eq!(keys(1, -1, 2), "ac");
        assert_eq!(keys(1, -2, 1), "abc");
        assert_eq!(keys(7, -1, 1), "");
    }
}
