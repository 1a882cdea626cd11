//! Checks of a project that need no connection to a host.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::compile::{Compiler, CompilerInput, StepSelection};
use super::project_sources::ProjectSources;
use crate::inventory::{
    CertificateProblem, Diagnostic, Diagnostics, Inventory, SelectError, TlsCertificates, read_secret_source,
};
use crate::project::Project;
use crate::protocol::{HostFacts, OsFacts};

/// Loads a project and compiles every host as if it were a plain Debian 12. Returns all findings, sorted.
pub fn check_project(project: &Project) -> Diagnostics {
    let mut found = Diagnostics::new();
    let sources = ProjectSources::load_project(project, &mut found);
    let stand_in = sources.inventory.as_ref().and_then(|inventory| example_secrets(inventory, &mut found));
    if let Some(parts) = sources.compiler_input(StepSelection::default(), stand_in) {
        check_hosts(parts, &mut found);
    }
    check_certificates(&sources, &mut found);
    found.sort();
    found
}

/// Warns of certificates for Redis that expire soon, or that clients of a host of the shard map refuse.
fn check_certificates(sources: &ProjectSources, found: &mut Diagnostics) {
    let (Some(inventory), Some((map, _))) = (&sources.inventory, &sources.shard_map) else { return };
    let path = inventory.dir().join("secrets.toml");
    let certificates = match TlsCertificates::from_secrets(inventory.secrets()) {
        Ok(certificates) => certificates,
        Err(error) => return found.push(Diagnostic::error_at_path(&path, format!("{error:#}"))),
    };
    if certificates.cas.is_empty() {
        return;
    }
    let names: BTreeSet<&String> =
        map.shards.iter().flat_map(|shard| std::iter::once(&shard.host).chain(&shard.replicas)).collect();
    for host in names.into_iter().filter_map(|name| inventory.find_host(name)) {
        if let Some(problem) = certificates.find_problem(host, jiff::Timestamp::now()) {
            let option = if matches!(problem, CertificateProblem::ExpiresSoon(_)) { " --renew" } else { "" };
            let warning = Diagnostic::error_at_path(&path, format!("{}: {problem}", host.name)).as_warning();
            found.push(warning.with_help(format!("dunlin shards certificates{option}")));
        }
    }
}

/// Facts of a plain Debian 12, with which conditions and templates are checked offline.
pub fn debian_facts(hostname: &str) -> HostFacts {
    let text = str::to_owned;
    HostFacts {
        hostname: hostname.to_owned(),
        os: OsFacts {
            family: text("debian"),
            id: text("debian"),
            version: text("12"),
            codename: text("bookworm"),
            kernel: text("6.1.0"),
            arch: text("x86_64"),
        },
        cpus: 2,
        memory_bytes: 4 << 30,
        disk_free_bytes: 20 << 30,
        systemd: true,
    }
}

/// Reads `secrets.toml.example`, which lists the names of the secrets; it is used if `secrets.toml` is not on this
/// machine.
fn example_secrets(inventory: &Inventory, found: &mut Diagnostics) -> Option<Json> {
    if !inventory.secrets().is_empty() {
        return None;
    }
    let path = inventory.dir().join("secrets.toml.example");
    let file = match read_secret_source(&path) {
        Ok(file) => file?,
        Err(error) => {
            found.push(error);
            return None;
        }
    };
    match toml::from_str::<Json>(file.text()) {
        Ok(secrets) => Some(secrets),
        Err(error) => {
            let span = error.span().unwrap_or(0..0);
            found.push(Diagnostic::error_at_span(
                &file,
                span,
                error.message().lines().next().unwrap_or("not valid TOML"),
            ));
            None
        }
    }
}

fn check_hosts(parts: CompilerInput<'_, '_>, found: &mut Diagnostics) {
    let inventory = parts.inventory;
    for play in &parts.playbook.plays {
        if let Err(error @ SelectError::NoHosts(_)) = inventory.select_hosts(&play.hosts.value) {
            found.push(Diagnostic::error_at(&play.hosts.origin, error.to_string()).as_warning());
        }
    }
    let compiler = match Compiler::new(parts) {
        Ok(compiler) => compiler,
        Err(wrong) => return found.extend(wrong),
    };
    let hosts: Vec<&str> = inventory.hosts().iter().map(|host| host.name.as_str()).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = hosts.len().div_ceil(threads).max(1);
    let wrong: Vec<(&str, Diagnostics)> = std::thread::scope(|scope| {
        let of_share = |share: &[_]| compile_all(&compiler, share);
        let running: Vec<_> = hosts.chunks(share).map(|share| scope.spawn(move || of_share(share))).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("compiling does not panic")).collect()
    });
    merge_by_host(wrong, found);
}

fn compile_all<'h>(compiler: &Compiler<'_>, hosts: &[&'h str]) -> Vec<(&'h str, Diagnostics)> {
    let wrong = |host: &&'h str| Some((*host, compiler.compile_host(host, &debian_facts(host)).err()?));
    hosts.iter().filter_map(wrong).collect()
}

/// Merges equal diagnostics of several hosts into one and removes those that loading has already reported.
fn merge_by_host(wrong: Vec<(&str, Diagnostics)>, found: &mut Diagnostics) {
    let diagnostic_key = |d: &Diagnostic| (d.origin.to_string(), d.message.clone());
    let reported: BTreeSet<(String, String)> = found.iter().map(diagnostic_key).collect();
    let mut merged: BTreeMap<(String, String), (Diagnostic, Vec<&str>)> = BTreeMap::new();
    for (host, diagnostics) in wrong {
        for diagnostic in diagnostics {
            let (_, hosts) = merged.entry(diagnostic_key(&diagnostic)).or_insert_with(|| (diagnostic, Vec::new()));
            hosts.push(host);
        }
    }
    for (place, (diagnostic, hosts)) in merged {
        if reported.contains(&place) {
            continue;
        }
        let on = match hosts[..] {
            [one] => format!("on {one}"),
            [first, ref others @ ..] => format!("on {first} and {} more", others.len()),
            [] => continue,
        };
        let help = diagnostic.help.as_ref().map_or_else(|| on.clone(), |help| format!("{help}\n{on}"));
        found.push(diagnostic.with_help(help));
    }
}
