//! Finds programs of a release that are built for another architecture than the host's.

use std::path::Path;

use crate::plan::Digest;
use crate::protocol::deploy::{DesiredState, ReleaseFile};

/// The bytes of a file that tell its architecture.
pub const HEADER_BYTES: usize = 20;

/// Looks up the bytes of a text.
pub type UnitTextLookup<'a> = &'a dyn Fn(&Digest) -> Option<&'a [u8]>;
/// Looks up the first [`HEADER_BYTES`] of a file; all of a shorter one.
pub type HeaderLookup<'a> = &'a dyn Fn(&ReleaseFile) -> Option<Vec<u8>>;

/// The programs of a release for one host.
pub struct ReleasePrograms<'a> {
    /// The state of the host.
    pub desired: &'a DesiredState,
    /// The service's folder.
    pub root: &'a Path,
    /// The beginnings of the release's files.
    pub header: HeaderLookup<'a>,
}

impl ReleasePrograms<'_> {
    /// Returns the reason if the host cannot run the release: a unit starts a program of another architecture, or no
    /// program of the release fits. A release may have programs for several architectures.
    pub fn find_foreign_program(&self, host_arch: &str, unit_text: UnitTextLookup<'_>) -> Option<String> {
        let is_program = |file: &&ReleaseFile| file.mode & 0o111 != 0;
        let programs: Vec<(&ReleaseFile, &str)> = self
            .desired
            .manifest
            .files
            .iter()
            .filter(is_program)
            .filter_map(|file| Some((file, parse_architecture(&(self.header)(file)?)?)))
            .collect();
        let foreign: Vec<&(&ReleaseFile, &str)> =
            programs.iter().filter(|(_, arch)| !can_run(host_arch, arch)).collect();
        let is_started = |file: &ReleaseFile| {
            let path = self.root.join("current").join(file.path.as_str()).display().to_string();
            let mut texts = self.desired.config.units.iter().filter_map(|unit| unit_text(&unit.digest));
            texts.any(|text| starts_program(&String::from_utf8_lossy(text), &path))
        };
        let started = foreign.iter().find(|(file, _)| is_started(file));
        let only_foreign = foreign.first().filter(|_| foreign.len() == programs.len());
        let (file, arch) = started.or(only_foreign)?;
        Some(format!("{} is built for {arch}, and the host is {host_arch}", file.path))
    }
}

/// Returns whether an `Exec…=` line of a unit starts the program.
fn starts_program(unit: &str, path: &str) -> bool {
    let command = |line: &str| {
        let (_, command) = line.trim().strip_prefix("Exec")?.split_once('=')?;
        Some(command.trim_start_matches(['-', '@', ':', '+', '!', ' ']).split(' ').next()? == path)
    };
    unit.lines().filter_map(command).any(|is_program| is_program)
}

/// Returns the architecture of an ELF file, as `uname -m` names it; `None` for other files and architectures.
fn parse_architecture(bytes: &[u8]) -> Option<&'static str> {
    let header = bytes.get(..HEADER_BYTES).filter(|header| header.starts_with(b"\x7fELF"))?;
    let machine = [header[18], header[19]];
    let is_little_endian = header[5] == 1;
    let machine = if is_little_endian { u16::from_le_bytes(machine) } else { u16::from_be_bytes(machine) };
    match (machine, is_little_endian) {
        (3, _) => Some("i686"),
        (21, true) => Some("ppc64le"),
        (22, _) => Some("s390x"),
        (40, _) => Some("arm"),
        (62, _) => Some("x86_64"),
        (183, _) => Some("aarch64"),
        (243, _) => Some("riscv64"),
        _ => None,
    }
}

fn can_run(host: &str, program: &str) -> bool {
    let is_x86 = |arch: &str| matches!(arch, "i386" | "i486" | "i586" | "i686");
    let is_arm = |arch: &str| arch.starts_with("arm");
    host == program
        || (is_x86(program) && (is_x86(host) || host == "x86_64"))
        || (is_arm(program) && (is_arm(host) || host == "aarch64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(machine: u16) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(18, 0);
        bytes.extend(machine.to_le_bytes());
        bytes
    }

    #[test]
    fn the_architecture_is_read_from_the_header() {
        assert_eq!(parse_architecture(&elf(62)), Some("x86_64"));
        assert_eq!(parse_architecture(&elf(183)), Some("aarch64"));
        assert_eq!(parse_architecture(&elf(9999)), None);
        assert_eq!(parse_architecture(b"#!/usr/bin/python3\nprint()\n"), None);
        assert_eq!(parse_architecture(b"\x7fELF"), None);
    }

    #[test]
    fn hosts_run_programs_of_their_family() {
        for (host, program) in [("x86_64", "x86_64"), ("x86_64", "i686"), ("aarch64", "arm"), ("armv7l", "arm")] {
            assert!(can_run(host, program), "{host} {program}");
        }
        for (host, program) in [("x86_64", "aarch64"), ("aarch64", "x86_64"), ("i686", "x86_64"), ("armv7l", "aarch64")]
        {
            assert!(!can_run(host, program), "{host} {program}");
        }
    }

    #[test]
    fn a_unit_starts_the_program_of_its_exec_lines() {
        let unit = "[Service]\nExecStartPre=-/srv/x/current/bin/check\nExecStart=/srv/x/current/bin/app --port 1\n";
        assert!(starts_program(unit, "/srv/x/current/bin/app") && starts_program(unit, "/srv/x/current/bin/check"));
        assert!(!starts_program(unit, "/srv/x/current/bin/ap"));
    }
}
