//! Plans as procedures: each file in `transcripts/` describes a situation, the options, and the resulting plan.
//!
//! The situation is read from the file; the text below `--- plan` is compared exactly.
//! `UPDATE_TRANSCRIPTS=1` updates it.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use dunlin::rebalance::check::check_plan;
use dunlin::rebalance::observation::Observation;
use dunlin::rebalance::plan::what_if::WhatIf;
use dunlin::rebalance::plan::{PlanOptions, RebalancePlan, Role, plan};

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
        let contents = fs::read_to_string(&file).unwrap();
        let (situation, expected) = contents.split_once(PLAN).unwrap_or((&contents, ""));
        let text = describe_plan(situation);
        if update {
            fs::write(&file, format!("{situation}{PLAN}{text}")).unwrap();
        } else if text != expected {
            wrong.push(format!("{}\n{text}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "these changed; look, then UPDATE_TRANSCRIPTS=1:\n{}", wrong.join("\n"));
}

/// Reads a situation and describes its plan.
fn describe_plan(situation: &str) -> String {
    let (observation, options, mut text) = read_situation(situation);
    match plan(&observation, &options) {
        Ok(found) => {
            assert_eq!(check_plan(&observation, &options, &found), [], "in\n{situation}");
            write_procedure(&mut text, &found);
        }
        Err(refused) => {
            let _ = writeln!(
                text,
                "refused: {refused}\n  shards {:?} on {}\n  hint: {}",
                refused.shards.iter().map(|shard| shard.0).collect::<Vec<_>>(),
                refused.hosts.join(", "),
                refused.hint
            );
        }
    }
    text
}

fn write_procedure(text: &mut String, found: &RebalancePlan) {
    let _ = writeln!(text, "{}", found.summary_line());
    for (wave, _) in found.waves.iter().enumerate() {
        let _ = writeln!(text, "wave {}", wave + 1);
        for m in found.moves.iter().filter(|m| m.wave == wave) {
            let role = if m.role == Role::Replica { " (replica)" } else { "" };
            let _ = writeln!(
                text,
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
            text,
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
        let _ = writeln!(text, "note: {note}");
    }
    let _ = writeln!(text, "takes about {:.0} s", found.estimated_seconds);
}

/// Lines: `host N ZONE CAPACITY`, `shard ID BYTES OPS HOST[+REPLICA] [pinned]`, `shards FROM-TO BYTES OPS
/// HOST[+REPLICA]`, `option KEY VALUE`, `what if …`; sizes in MiB, `#` begins a comment.
fn read_situation(situation: &str) -> (Observation, PlanOptions, String) {
    let mut observation = Observation {
        format_version: 1,
        cluster: "timeline".to_owned(),
        epoch: 7,
        port_base: None,
        hosts: Vec::new(),
        shards: Vec::new(),
    };
    let (mut options, mut text) = (PlanOptions::default(), String::new());
    for line in situation.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "host" => {
                let zone = (words[2] != "-").then(|| words[2].to_owned());
                observation.hosts.push(host(parse_number(words[1]) - 1, zone, parse_number(words[3]) as u64 * MIB));
            }
            "shard" | "shards" => add_shards(&mut observation, &words),
            "option" => set_option(&mut options, words[1], &words[2..].join(" ")),
            "what" => {
                let simulated = words[2..].join(" ").parse::<WhatIf>().unwrap().apply(&observation).unwrap();
                simulated.notes.iter().for_each(|note| text.push_str(&format!("what if: {note}\n")));
                observation = simulated.observation;
            }
            other => panic!("`{other}` in a transcript"),
        }
    }
    (observation, options, text)
}

fn parse_number(word: &str) -> usize {
    word.parse().unwrap_or_else(|_| panic!("`{word}` is not a number"))
}

fn add_shards(observation: &mut Observation, words: &[&str]) {
    let (first, last) = words[1].split_once('-').unwrap_or((words[1], words[1]));
    let on: Vec<usize> = words[4].split('+').map(|host| parse_number(host) - 1).collect();
    for id in parse_number(first)..=parse_number(last) {
        let mut one = shard(id, &on, parse_number(words[2]) as u64 * MIB, parse_number(words[3]) as f64);
        one.pinned = words.get(5) == Some(&"pinned");
        observation.shards.push(one);
    }
}

fn set_option(options: &mut PlanOptions, key: &str, value: &str) {
    match key {
        "drain" => options.drain.push(value.to_owned()),
        "targets" => options.targets.get_or_insert_default().push(value.to_owned()),
        "tolerance" => options.tolerance = value.parse().unwrap(),
        "balance" => options.balance = value.parse().unwrap(),
        "max_moves" => options.max_moves = Some(parse_number(value)),
        "max_bytes" => options.max_bytes = Some(parse_number(value) as u64 * MIB),
        "max_utilization" => options.max_utilization = value.parse().unwrap(),
        other => panic!("`{other}` is not an option of a transcript"),
    }
}
