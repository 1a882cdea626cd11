//! The facts of this host, read from `/etc` and `/proc`.

use std::fs;
use std::path::Path;

use crate::protocol::{HostFacts, OsFacts, SystemLoad};

/// Reads the facts; a value that cannot be read stays empty or 0.
pub fn read_facts() -> HostFacts {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let uname = rustix::system::uname();
    let mut os = parse_os_release(&release);
    os.kernel = uname.release().to_string_lossy().into_owned();
    os.arch = uname.machine().to_string_lossy().into_owned();
    HostFacts {
        hostname: uname.nodename().to_string_lossy().into_owned(),
        os,
        cpus: std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        memory_bytes: meminfo_bytes("MemTotal:", &read_meminfo()),
        disk_free_bytes: rustix::fs::statvfs("/var/lib").map_or(0, |stat| stat.f_bavail * stat.f_frsize),
        systemd: Path::new("/run/systemd/system").exists(),
    }
}

/// Reads the load from `/proc/loadavg` and `/proc/meminfo`; a value that cannot be read is 0.
pub fn read_pressure() -> SystemLoad {
    let loads = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load_1m = loads.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    SystemLoad { load_1m, memory_available_bytes: meminfo_bytes("MemAvailable:", &read_meminfo()) }
}

fn read_meminfo() -> String {
    fs::read_to_string("/proc/meminfo").unwrap_or_default()
}

/// Parses the fields of os-release(5).
fn parse_os_release(release: &str) -> OsFacts {
    let field = |name: &str| {
        let value = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().trim_matches('"').to_owned()
    };
    let id = field("ID");
    let like = field("ID_LIKE");
    let family =
        if id == "debian" || like.split(' ').any(|word| word == "debian") { "debian".to_owned() } else { id.clone() };
    OsFacts { family, id, version: field("VERSION_ID"), codename: field("VERSION_CODENAME"), ..OsFacts::default() }
}

/// Returns the value of one line of `/proc/meminfo`, in bytes.
fn meminfo_bytes(name: &str, meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ubuntu_belongs_to_the_debian_family() {
        let os = parse_os_release("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\nVERSION_CODENAME=noble\n");
        assert_eq!((os.family.as_str(), os.id.as_str(), os.version.as_str()), ("debian", "ubuntu", "24.04"));
    }

    #[test]
    fn memory_is_in_bytes() {
        let meminfo = "MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:    4096 kB\n";
        assert_eq!(
            (meminfo_bytes("MemTotal:", meminfo), meminfo_bytes("MemAvailable:", meminfo)),
            (16384 * 1024, 4096 * 1024)
        );
    }
}
