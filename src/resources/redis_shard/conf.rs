//! redis.conf: directives, compared by their meaning, because `CONFIG REWRITE` rewrites the file at run time.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_shards::InstanceAddress;
use serde::{Deserialize, Serialize};

use crate::plan::Digest;

/// Prefix of the digest of a password in a normalized configuration.
pub const SECRET_PREFIX: &str = "secret ";

/// Directives that belong to the running state: moves set them, provisioning leaves them alone.
const RUNTIME_DIRECTIVES: &[&str] = &["replicaof", "min-replicas-to-write"];

/// Directives whose values are passwords, or stand for one: who knows a renamed command may run it.
const SECRET_DIRECTIVES: &[&str] =
    &["masterauth", "requirepass", "rename-command", "tls-key-file-pass", "tls-client-key-file-pass", "user"];

/// Directives that `CONFIG REWRITE` of Valkey 8.0 and later renames, and their names in Redis, which Valkey accepts
/// too.
const VALKEY_NAMES: &[(&str, &str)] = &[("primaryauth", "masterauth"), ("primaryuser", "masteruser")];

/// Returns the name of a directive in Redis.
fn redis_name(name: String) -> String {
    let known = VALKEY_NAMES.iter().find(|(valkey, _)| *valkey == name);
    known.map_or(name, |(_, redis)| (*redis).to_owned())
}

/// Returns whether the values of a directive must not be shown.
pub fn is_secret_directive(name: &str) -> bool {
    SECRET_DIRECTIVES.contains(&redis_name(name.to_owned()).as_str())
}

/// A line of a redis.conf.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ConfDirective {
    name: String,
    args: Vec<String>,
}

/// A redis.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisConf {
    directives: Vec<ConfDirective>,
}

/// Normalized meaning of a redis.conf without the running state: words by directive (and class, if a directive has
/// several lines); secrets as digests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NormalizedConf(BTreeMap<String, Vec<String>>);

impl NormalizedConf {
    /// Returns the directives that differ: name, value now, value as desired.
    pub fn diff_directives(&self, desired: &Self) -> Vec<(String, Option<String>, Option<String>)> {
        let names: BTreeSet<&String> = self.0.keys().chain(desired.0.keys()).collect();
        let shown = |words: &Vec<String>| words.join(" ");
        let changed = names.into_iter().filter(|name| self.0.get(*name) != desired.0.get(*name));
        changed.map(|name| (name.clone(), self.0.get(name).map(shown), desired.0.get(name).map(shown))).collect()
    }
}

impl RedisConf {
    /// Reads a file; comments and empty lines fall away.
    pub fn parse(text: &str) -> Self {
        let directives = text.lines().filter_map(|line| {
            let mut words = split_words(line.trim()).into_iter();
            let name = redis_name(words.next()?.to_ascii_lowercase());
            Some(ConfDirective { name, args: words.collect() })
        });
        Self { directives: directives.collect() }
    }

    /// Returns the value of a directive's last line, words joined by a space.
    pub fn last_value(&self, name: &str) -> Option<String> {
        self.directives.iter().rev().find(|line| line.name == name).map(|line| line.args.join(" "))
    }

    /// Returns the files of its `loadmodule` lines, in their order.
    pub fn module_paths(&self) -> Vec<&str> {
        let lines = self.directives.iter().filter(|line| line.name == "loadmodule");
        lines.filter_map(|line| line.args.first().map(String::as_str)).collect()
    }

    /// Returns whether an instance with this file keeps an append-only file.
    pub fn is_append_only(&self) -> bool {
        self.last_value("appendonly").is_some_and(|value| value.eq_ignore_ascii_case("yes"))
    }

    /// Returns the value as a size in bytes.
    pub fn last_bytes(&self, name: &str) -> Option<u64> {
        normalize_value(&self.last_value(name)?).parse().ok()
    }

    /// Returns the primary that the instance follows after a restart.
    pub fn replica_of(&self) -> Option<InstanceAddress> {
        let line = self.directives.iter().rev().find(|line| line.name == "replicaof")?;
        match &line.args[..] {
            // A directive with an invalid port still makes the instance a replica.
            [host, port] if !host.eq_ignore_ascii_case("no") => {
                Some(InstanceAddress::new(host, port.parse().unwrap_or(0)))
            }
            _ => None,
        }
    }

    /// Returns the lines of the running state, to be appended to a new content.
    pub fn runtime_lines(&self) -> String {
        let lines = self.directives.iter().filter(|line| RUNTIME_DIRECTIVES.contains(&line.name.as_str()));
        let quoted = |line: &ConfDirective| line.args.iter().map(|arg| quote_word(arg)).collect::<Vec<_>>().join(" ");
        lines.map(|line| format!("{} {}\n", line.name, quoted(line))).collect()
    }

    /// Normalizes the configuration, without the running state.
    pub fn normalize(&self) -> NormalizedConf {
        let mut table: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in self.directives.iter().filter(|line| !RUNTIME_DIRECTIVES.contains(&line.name.as_str())) {
            let (key, args) = match (line.name.as_str(), &line.args[..]) {
                ("client-output-buffer-limit" | "rename-command", [class, rest @ ..]) => {
                    (format!("{} {}", line.name, class.to_ascii_lowercase()), rest)
                }
                (_, args) => (line.name.clone(), args),
            };
            let is_secret = is_secret_directive(&line.name);
            let secret = |arg: &String| format!("{SECRET_PREFIX}{}", Digest::of_bytes(arg.as_bytes()).short_hex());
            let values = args.iter().map(|arg| if is_secret { secret(arg) } else { normalize_value(arg) });
            match line.name.as_str() {
                "save" | "include" | "loadmodule" | "user" => table.entry(key).or_default().extend(values),
                _ => drop(table.insert(key, values.collect())),
            }
        }
        NormalizedConf(table)
    }
}

/// Removes a directive from the text of a redis.conf; every other byte stays.
pub fn remove_directive(text: &str, name: &str) -> String {
    let is_it = |line: &str| split_words(line.trim()).first().is_some_and(|word| word.eq_ignore_ascii_case(name));
    text.split_inclusive('\n').filter(|line| !is_it(line)).collect()
}

/// Sets a directive to one value in the text of a redis.conf, on its last line; every other byte stays.
pub fn set_directive(text: &str, name: &str, value: &str) -> String {
    let rest = remove_directive(text, name);
    let separate = if rest.is_empty() || rest.ends_with('\n') { "" } else { "\n" };
    format!("{rest}{separate}{name} {value}\n")
}

/// Normalizes a value: sizes in bytes, yes and no in lower case.
fn normalize_value(word: &str) -> String {
    let lower = word.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: Option<u64> = match &lower[digits.len()..] {
        "b" => Some(1),
        "k" => Some(1000),
        "kb" => Some(1 << 10),
        "m" => Some(1_000_000),
        "mb" => Some(1 << 20),
        "g" => Some(1_000_000_000),
        "gb" => Some(1 << 30),
        _ => None,
    };
    match (factor, digits.parse::<u64>()) {
        (Some(factor), Ok(number)) => number.saturating_mul(factor).to_string(),
        _ if lower == "yes" || lower == "no" => lower,
        _ => word.to_owned(),
    }
}

/// Splits a line into words as Redis does: quotes, `\xHH` and the usual escapes in double quotes.
fn split_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    if line.starts_with('#') {
        return words;
    }
    let mut chars = line.chars().peekable();
    while let Some(&first) = chars.peek() {
        if first.is_whitespace() {
            chars.next();
            continue;
        }
        let quote = (first == '"' || first == '\'').then_some(first);
        if quote.is_some() {
            chars.next();
        }
        let mut word = String::new();
        while let Some(c) = chars.next_if(|&c| quote.map_or(!c.is_whitespace(), |quote| c != quote)) {
            let escaped = c == '\\' && quote == Some('"');
            word.push(if escaped { unescape_char(&mut chars) } else { c });
        }
        if quote.is_some() {
            chars.next();
        }
        words.push(word);
    }
    words
}

/// Returns a word as [`split_words`] reads it back: in double quotes where it would be split or escaped otherwise.
fn quote_word(word: &str) -> String {
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '\'' | '\\' | '#');
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    let escaped = word.chars().map(|c| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_ascii_control() => format!("\\x{:02x}", u32::from(c)),
        c => c.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

fn unescape_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> char {
    match chars.next() {
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some('x') => {
            let digits: String = chars.by_ref().take(2).collect();
            u8::from_str_radix(&digits, 16).map_or('?', char::from)
        }
        Some(other) => other,
        None => '\\',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_valkey_have_the_meaning_of_those_of_redis() {
        let redis = RedisConf::parse("masteruser \"replica\"\nmasterauth \"a password\"\n").normalize();
        let valkey = RedisConf::parse("primaryuser \"replica\"\nprimaryauth \"a password\"\n").normalize();
        assert_eq!(redis, valkey);
        let other = RedisConf::parse("primaryuser replica\nprimaryauth other\n").normalize();
        let changes = other.diff_directives(&redis);
        let shown = |value: &Option<String>| value.as_ref().is_some_and(|value| value.starts_with(SECRET_PREFIX));
        assert!(
            matches!(&changes[..], [(name, from, to)] if name == "masterauth" && shown(from) && shown(to)),
            "{changes:?}"
        );
        assert!(is_secret_directive("primaryauth") && !is_secret_directive("primaryuser"));
    }

    #[test]
    fn lines_of_the_running_state_are_read_back_as_they_were() {
        let text = "replicaof \"\" rename-command FLUSHALL\nreplicaof \"10.0.0.1\\nmaxmemory 1\" \"a \\\"b\\\\\"\n";
        let conf = RedisConf::parse(text);
        assert_eq!(RedisConf::parse(&conf.runtime_lines()), conf);
        let plain = "replicaof 10.0.0.1 7017\nmin-replicas-to-write 1\n";
        assert_eq!(RedisConf::parse(plain).runtime_lines(), plain);
    }

    #[test]
    fn config_rewrite_makes_no_difference() {
        let desired = RedisConf::parse(
            "# ours\nmaxmemory 64mb\nappendonly Yes\ndir /var/lib/x\nmasterauth \"a \\\"b\"\nclient-output-buffer-limit pubsub 32mb 8mb 60\nsave \"\"\n",
        );
        let rewritten = RedisConf::parse(
            "dir \"/var/lib/x\"\nmaxmemory 67108864\nappendonly yes\nsave \"\"\nmasterauth \"a \\x22b\"\n# Generated by CONFIG REWRITE\nclient-output-buffer-limit pubsub 33554432 8388608 60\n\nreplicaof 10.0.0.1 7017\nmin-replicas-to-write 1\n",
        );
        assert_eq!(rewritten.normalize().diff_directives(&desired.normalize()), []);
        assert_eq!(rewritten.replica_of(), Some(InstanceAddress::new("10.0.0.1", 7017)));
        assert_eq!(rewritten.runtime_lines(), "replicaof 10.0.0.1 7017\nmin-replicas-to-write 1\n");
    }

    #[test]
    fn edits_keep_the_rest() {
        let text = "# replicaof\nport 1\nREPLICAOF 10.0.0.1 7017\n\nmasterauth \"a\\x22\"\nreplicaof 10.0.0.1 7017";
        let rest = "# replicaof\nport 1\n\nmasterauth \"a\\x22\"\n";
        assert_eq!(remove_directive(text, "replicaof"), rest);
        assert_eq!(RedisConf::parse(rest).replica_of(), None);
        let armed = set_directive(rest, "min-replicas-to-write", "1");
        assert_eq!(armed, format!("{rest}min-replicas-to-write 1\n"));
        assert_eq!(set_directive(&armed, "min-replicas-to-write", "2"), format!("{rest}min-replicas-to-write 2\n"));
        assert_eq!(set_directive("port 1", "timeout", "0"), "port 1\ntimeout 0\n");
    }

    #[test]
    fn differences_are_named_without_secrets() {
        let meaning = |text| RedisConf::parse(text).normalize();
        let differing =
            meaning("port 1\nmasterauth aaa\nmaxclients 5\n").diff_directives(&meaning("port 2\nmasterauth bbb\n"));
        let names: Vec<&str> = differing.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["masterauth", "maxclients", "port"]);
        assert_eq!(differing[1].1.as_deref(), Some("5"));
        assert_eq!((differing[2].1.as_deref(), differing[2].2.as_deref()), (Some("1"), Some("2")));
        assert!(!format!("{differing:?}").contains("aaa"), "{differing:?}");
        for secret in ["tls-key-file-pass aaa", "rename-command CONFIG aaa", "user app on >aaa"] {
            let differing = meaning(secret).diff_directives(&meaning("port 2\n"));
            assert!(differing.len() == 2 && !format!("{differing:?}").contains("aaa"), "{differing:?}");
        }
    }
}
