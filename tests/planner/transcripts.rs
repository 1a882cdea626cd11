//! Plans as procedures: each file in `transcripts/` tells a situation, the wishes, and what the planner then says.
//!
//! The situation is read from the file; what stands below `--- plan` is compared to the letter.
//! `UPDATE_TRANSCRIPTS=1` writes it anew.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use dunlin::rebalance::check::check;
use dunlin::rebalance::observation::Observation;
use dunlin::rebalance::plan::simulate::WhatIf;
use dunlin::rebalance::plan::{RebalancePlan, Role, Wishes, plan};

use crate::generate::{MIB, host, shard};

const PLAN: &str = "--- plan\n";

#[test]
fn transcripts_read_as_before() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/planner/transcripts");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 6, "transcripts are missing");
    let update = std::env::var_os("UPDATE_TRANSCRIPTS").is_some();
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let (situation, expected) = text.split_once(PLAN).unwrap_or((&text, ""));
        let told = tell(situation);
        if update {
            fs::write(&file, format!("{situation}{PLAN}{told}")).unwrap();
        } else if told != expected {
            wrong.push(format!("{}\n{told}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "these changed; look, then UPDATE_TRANSCRIPTS=1:\n{}", wrong.join("\n"));
}

/// Reads a situation, plans, and tells the outcome.
fn tell(situation: &str) -> String {
    let (observation, wishes, mut told) = read(situation);
    match plan(&observation, &wishes) {
        Ok(found) => {
            assert_eq!(check(&observation, &wishes, &found), [], "in\n{situation}");
            procedure(&mut told, &found);
        }
        Err(refused) => {
            let _ = writeln!(
                told,
                "refused: {refused}\n  shards {:?} on {}\n  hint: {}",
                refused.shards,
                refused.hosts.join(", "),
                refused.hint
            );
        }
    }
    told
}

fn procedure(told: &mut String, found: &RebalancePlan) {
    let _ = writeln!(told, "{}", found.summary_line());
    for (wave, _) in found.waves.iter().enumerate() {
        let _ = writeln!(told, "wave {}", wave + 1);
        for m in found.moves.iter().filter(|m| m.wave == wave) {
            let role = if m.role == Role::Replica { " (replica)" } else { "" };
            let _ = writeln!(
                told,
                "  move shard {}{role}, {} MiB, {} -> {}: {}",
                m.shard,
                m.bytes / MIB,
                m.from,
                m.to,
                m.reason
            );
        }
    }
    for host in &found.hosts {
        let _ = writeln!(
            told,
            "host {}: {} MiB in {} -> {} MiB in {} (peak {}), {:.0} -> {:.0} ops/s",
            host.name,
            host.before.bytes / MIB,
            host.before.shards,
            host.after.bytes / MIB,
            host.after.shards,
            host.peak_bytes / MIB,
            host.before.ops_per_s,
            host.after.ops_per_s
        );
    }
    for note in &found.notes {
        let _ = writeln!(told, "note: {note}");
    }
    let _ = writeln!(told, "takes about {:.0} s", found.estimated_seconds);
}

/// Lines: `host N ZONE CAPACITY`, `shard ID BYTES OPS HOST[+REPLICA] [pinned]`, `shards FROM-TO BYTES OPS HOST[+REPLICA]`,
/// `wish KEY VALUE`, `what if …`; sizes in MiB, `#` begins a comment.
fn read(situation: &str) -> (Observation, Wishes, String) {
    let mut observation = Observation {
        format_version: 1,
        cluster: "timeline".to_owned(),
        epoch: 7,
        port_base: None,
        hosts: Vec::new(),
        shards: Vec::new(),
    };
    let (mut wishes, mut told) = (Wishes::default(), String::new());
    for line in situation.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "host" => {
                let zone = (words[2] != "-").then(|| words[2].to_owned());
                observation.hosts.push(host(number(words[1]) - 1, zone, number(words[3]) as u64 * MIB));
            }
            "shard" | "shards" => shards(&mut observation, &words),
            "wish" => wish(&mut wishes, words[1], &words[2..].join(" ")),
            "what" => {
                let supposed = words[2..].join(" ").parse::<WhatIf>().unwrap().apply(&observation).unwrap();
                supposed.notes.iter().for_each(|note| told.push_str(&format!("supposed: {note}\n")));
                observation = supposed.observation;
            }
            other => panic!("`{other}` in a transcript"),
        }
    }
    (observation, wishes, told)
}

fn number(word: &str) -> usize {
    word.parse().unwrap_or_else(|_| panic!("`{word}` is not a number"))
}

fn shards(observation: &mut Observation, words: &[&str]) {
    let (first, last) = words[1].split_once('-').unwrap_or((words[1], words[1]));
    let on: Vec<usize> = words[4].split('+').map(|host| number(host) - 1).collect();
    for id in number(first)..=number(last) {
        let mut one = shard(id, &on, number(words[2]) as u64 * MIB, number(words[3]) as f64);
        one.pinned = words.get(5) == Some(&"pinned");
        observation.shards.push(one);
    }
}

fn wish(wishes: &mut Wishes, key: &str, value: &str) {
    match key {
        "drain" => wishes.drain.push(value.to_owned()),
        "to" => wishes.to.get_or_insert_default().push(value.to_owned()),
        "tolerance" => wishes.tolerance = value.parse().unwrap(),
        "balance" => wishes.balance = value.parse().unwrap(),
        "max_moves" => wishes.max_moves = Some(number(value)),
        "max_bytes" => wishes.max_bytes = Some(number(value) as u64 * MIB),
        "headroom" => wishes.headroom = value.parse().unwrap(),
        other => panic!("`{other}` is no wish of a transcript"),
    }
}
