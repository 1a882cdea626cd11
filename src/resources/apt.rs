//! Runs apt and parses its output, for the type `package`.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::process::{OnAgentDeath, Program};

/// Time limit of apt-get without another one: a mirror or a script of a package that hangs would hold the host's lock.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Path of the policy that invoke-rc.d reads; see its manual page.
const POLICY_RC_D_PATH: &str = "/usr/sbin/policy-rc.d";

/// Rejects every start of a service. The second line identifies dunlin as its author.
const POLICY_RC_D_TEXT: &str = "#!/bin/sh\n# dunlin: no service is started while packages are installed\nexit 101\n";

/// Versions of one package that apt offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageVersions {
    /// The version that an install without a wish gives.
    pub candidate: Option<String>,
    /// Every available version.
    pub versions: Vec<String>,
}

/// Refuses what is no name of a package; see Debian Policy 5.6.1.
///
/// # Errors
/// Returns a description of the problem, in one sentence.
pub fn check_package_name(name: &str) -> Result<(), String> {
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    // apt treats a `+` or `-` at the end as an operator; only names such as `g++` may end so.
    let ends = !name.ends_with('-') && (!name.ends_with('+') || name.ends_with("++"));
    let allowed = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c));
    if begins && ends && allowed && name.len() > 1 {
        return Ok(());
    }
    Err(format!("\"{name}\" is not a valid package name: lower-case letters, digits and + - ."))
}

/// Refuses what is no version; see Debian Policy 5.6.12.
///
/// # Errors
/// Returns a description of the problem, in one sentence.
pub fn check_package_version(version: &str) -> Result<(), String> {
    let allowed = version.chars().all(|c| c.is_ascii_alphanumeric() || ".+-~:".contains(c));
    if allowed && version.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(());
    }
    Err(format!("\"{version}\" is not a valid package version"))
}

/// Returns `name` or `name=version`.
pub fn package_argument(name: &str, version: Option<&str>) -> String {
    version.map_or_else(|| name.to_owned(), |version| format!("{name}={version}"))
}

/// Asks apt once what it offers of all these packages.
///
/// # Errors
/// Returns an error if apt-cache fails.
pub fn query_versions(names: &[&str]) -> Result<BTreeMap<String, PackageVersions>> {
    let stdout = Program::short("apt-cache").arg("policy").args(names).run()?;
    Ok(parse_policy(&String::from_utf8_lossy(&stdout)))
}

/// Asks apt what a removal takes with it: names and versions.
///
/// # Errors
/// Returns an error if apt rejects the removal.
pub fn simulate_removal(names: &[&str], timeout: Duration) -> Result<Vec<(String, String)>> {
    let stdout = apt_get_command("remove", timeout).arg("--simulate").arg("--").args(names).run()?;
    Ok(parse_removals(&String::from_utf8_lossy(&stdout)))
}

/// Updates apt's lists.
///
/// # Errors
/// Returns the error of apt-get, usually that no mirror can be reached.
pub fn update_lists(timeout: Duration) -> Result<()> {
    run_to_end(apt_get_command("update", timeout))
}

/// Installs packages, and removes none for that.
///
/// # Errors
/// Returns the error of apt-get.
pub fn install_packages(packages: &[String], install_recommends: bool, timeout: Duration) -> Result<()> {
    let recommends = if install_recommends { "--install-recommends" } else { "--no-install-recommends" };
    let versions = packages.iter().any(|package| package.contains('='));
    let downgrades = versions.then_some("--allow-downgrades");
    let command = apt_get_command("install", timeout).args(["--no-remove", recommends]).args(downgrades);
    run_to_end(command.arg("--").args(packages))
}

/// Removes packages; their configuration files stay.
///
/// # Errors
/// Returns the error of apt-get.
pub fn remove_packages(packages: &[String], timeout: Duration) -> Result<()> {
    run_to_end(apt_get_command("remove", timeout).arg("--").args(packages))
}

/// Disables the units of these packages.
///
/// # Errors
/// Returns the error of dpkg-query or systemctl.
pub fn disable_units(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let stdout = Program::short("dpkg-query").arg("--listfiles").args(packages).run()?;
    let units = parse_units(&String::from_utf8_lossy(&stdout));
    if units.is_empty() {
        return Ok(());
    }
    Program::short("systemctl").args(["disable", "--quiet", "--"]).args(&units).run().map(drop)
}

/// Runs an apt-get that changes packages; at its time limit, the error names what completes its work.
fn run_to_end(command: Program<'_>) -> Result<()> {
    command.explain_timeout("its step may have a longer `timeout`; dpkg --configure -a completes its work").run()?;
    Ok(())
}

fn apt_get_command(verb: &str, timeout: Duration) -> Program<'static> {
    Program::new("apt-get")
        .args(["--yes", "--quiet", "-o", "Dpkg::Options::=--force-confold", "-o", "Dpkg::Use-Pty=0"])
        .args(["-o", "DPkg::Lock::Timeout=60", verb])
        .env("APT_LISTCHANGES_FRONTEND", "none")
        .env("NEEDRESTART_MODE", "l")
        .guarded(OnAgentDeath::Finish)
        .timeout(timeout)
}

/// Blocks the start of services with a policy for invoke-rc.d until it is deactivated.
pub struct ServiceStartBlock {
    policy: PathBuf,
    is_deactivated: bool,
}

impl ServiceStartBlock {
    /// Begins it.
    ///
    /// # Errors
    /// Returns an error if the policy cannot be written.
    pub fn activate() -> Result<Self> {
        Self::activate_at(Path::new(POLICY_RC_D_PATH))
    }

    fn activate_at(policy: &Path) -> Result<Self> {
        match fs::read_to_string(policy) {
            // Left by a run that was killed; what stood there before is beside it already.
            Ok(text) if text == POLICY_RC_D_TEXT => {}
            Ok(_) => {
                fs::rename(policy, backup_path(policy))
                    .with_context(|| format!("putting {} aside", policy.display()))?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("reading {}", policy.display())),
        }
        let quiet = Self { policy: policy.to_owned(), is_deactivated: false };
        fs::write(policy, POLICY_RC_D_TEXT).with_context(|| format!("writing {}", policy.display()))?;
        fs::set_permissions(policy, fs::Permissions::from_mode(0o755))?;
        Ok(quiet)
    }

    /// Ends the block and restores the previous policy.
    ///
    /// # Errors
    /// Returns an error if the policy cannot be removed: later installs would not start services.
    pub fn deactivate(mut self) -> Result<()> {
        self.is_deactivated = true;
        self.restore_policy().with_context(|| format!("removing {}; remove it by hand", self.policy.display()))
    }

    fn restore_policy(&self) -> std::io::Result<()> {
        let before = backup_path(&self.policy);
        if before.exists() { fs::rename(before, &self.policy) } else { fs::remove_file(&self.policy) }
    }
}

impl Drop for ServiceStartBlock {
    fn drop(&mut self) {
        if !self.is_deactivated {
            // Runs during an error or a panic, which is reported; the next run repairs a policy that remains.
            self.restore_policy().ok();
        }
    }
}

fn backup_path(policy: &Path) -> PathBuf {
    policy.with_file_name("policy-rc.d.before-dunlin")
}

/// Reads `apt-cache policy NAME…`: a line `NAME:` and, further in, `Candidate:` and a table of versions.
fn parse_policy(stdout: &str) -> BTreeMap<String, PackageVersions> {
    let mut offers: BTreeMap<String, PackageVersions> = BTreeMap::new();
    let mut name = String::new();
    for line in stdout.lines() {
        if !line.starts_with(' ') {
            name = line.trim_end_matches(':').to_owned();
            continue;
        }
        let offer = offers.entry(name.clone()).or_default();
        if let Some(candidate) = line.strip_prefix("  Candidate: ") {
            offer.candidate = (candidate != "(none)").then(|| candidate.to_owned());
        } else if let Some(entry) = line.strip_prefix(" *** ").or_else(|| line.strip_prefix("     "))
            && !entry.starts_with(' ')
            && let Some(version) = entry.split_whitespace().next()
        {
            offer.versions.push(version.to_owned());
        }
    }
    offers
}

/// Reads `apt-get --simulate remove`: lines `Remv NAME [VERSION] …`.
fn parse_removals(stdout: &str) -> Vec<(String, String)> {
    let removal = |line: &str| {
        let (name, rest) = line.strip_prefix("Remv ")?.split_once(' ')?;
        let version = rest.strip_prefix('[')?.split([']', ' ']).next()?;
        Some((name.to_owned(), version.to_owned()))
    };
    stdout.lines().filter_map(removal).collect()
}

/// Returns the units among a package's files, without templates.
fn parse_units(files: &str) -> Vec<String> {
    let unit = |line: &str| {
        let (folder, name) = line.rsplit_once('/')?;
        let is_unit = [".service", ".socket", ".timer", ".path"].iter().any(|suffix| name.ends_with(suffix));
        (folder.ends_with("/lib/systemd/system") && is_unit && !name.contains("@.")).then(|| name.to_owned())
    };
    files.lines().filter_map(unit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_output_is_parsed() {
        let said = "redis-server:\n  Installed: (none)\n  Candidate: 5:7.0.15-1~deb12u5\n  Version table:\n     \
                    5:7.0.15-1~deb12u5 500\n        500 http://mirror/debian bookworm/main amd64 Packages\n     \
                    5:7.0.11-1 100\n        100 /var/lib/dpkg/status\nvirtual:\n  Installed: (none)\n  \
                    Candidate: (none)\n  Version table:\n";
        let offers = parse_policy(said);
        assert_eq!(offers["redis-server"].candidate.as_deref(), Some("5:7.0.15-1~deb12u5"));
        assert_eq!(offers["redis-server"].versions, ["5:7.0.15-1~deb12u5", "5:7.0.11-1"]);
        assert_eq!(offers["virtual"], PackageVersions::default());
        let installed = "a:\n  Installed: 1\n  Candidate: 1\n  Version table:\n *** 1 500\n        100 /x\n";
        assert_eq!(parse_policy(installed)["a"].versions, ["1"]);
    }

    #[test]
    fn removal_output_is_parsed() {
        let said = "Reading package lists...\nRemv redis [5:7.0.15-1]\nRemv redis-server [5:7.0.15-1] []\n";
        let wanted = [("redis", "5:7.0.15-1"), ("redis-server", "5:7.0.15-1")];
        assert_eq!(parse_removals(said), wanted.map(|(name, version)| (name.to_owned(), version.to_owned())));
    }

    #[test]
    fn names_with_apt_modifiers_are_rejected() {
        for right in ["redis-server", "g++", "libstdc++6", "0ad"] {
            assert_eq!(check_package_name(right), Ok(()), "{right}");
        }
        for wrong in ["redis-", "redis+", "-o", "Redis", "a b", "a/b", "x", "redis:amd64"] {
            assert!(check_package_name(wrong).is_err(), "{wrong}");
        }
        assert!(check_package_version("5:7.0.15-1~deb12u5").is_ok() && check_package_version("").is_err());
    }

    #[test]
    fn only_units_are_taken_from_the_file_list() {
        let files = "/.\n/lib/systemd/system/redis-server.service\n/lib/systemd/system/redis-server@.service\n\
                     /usr/lib/systemd/system/a.timer\n/usr/share/doc/x.service\n";
        assert_eq!(parse_units(files), ["redis-server.service", "a.timer"]);
    }

    #[test]
    fn an_existing_policy_is_restored() {
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy-rc.d");
        let quiet = ServiceStartBlock::activate_at(&policy).unwrap();
        assert_eq!(fs::read_to_string(&policy).unwrap(), POLICY_RC_D_TEXT);
        quiet.deactivate().unwrap();
        assert!(!policy.exists());
        fs::write(&policy, "theirs").unwrap();
        let killed = ServiceStartBlock::activate_at(&policy).unwrap();
        std::mem::forget(killed);
        drop(ServiceStartBlock::activate_at(&policy).unwrap());
        assert_eq!(fs::read_to_string(&policy).unwrap(), "theirs");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
