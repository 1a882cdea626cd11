//! TLS of an instance: its `tls_ca_file`, and the directives that must go with it.
//!
//! The operator's files decide whether an instance uses TLS, never the redis.conf on the host: its own user can change
//! that file, and dunlin would send the administrator's password in clear.

use std::path::Path;

use anyhow::{Context, Result};

use super::RedisShard;
use super::conf::RedisConf;
use crate::host_fs;

impl RedisShard {
    /// Returns whether the instance accepts connections over TLS only.
    pub fn uses_tls(&self) -> bool {
        !self.tls_ca_file.is_empty()
    }

    /// Checks the paths of the TLS files.
    pub(super) fn validate_tls_paths(&self) -> Result<(), String> {
        for (key, path) in self.tls_paths() {
            if !self.uses_tls() {
                return Err(format!("{key} needs the key tls_ca_file"));
            }
            if !path.is_absolute() {
                return Err(format!("{key} must be an absolute path, not \"{}\"", path.display()));
            }
        }
        Ok(())
    }

    /// Returns the TLS files that the step names: key and path.
    pub(super) fn tls_paths(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let keys = [
            ("tls_ca_file", &self.tls_ca_file),
            ("tls_cert_file", &self.tls_cert_file),
            ("tls_key_file", &self.tls_key_file),
        ];
        keys.into_iter().filter(|(_, path)| !path.is_empty()).map(|(key, path)| (key, Path::new(path)))
    }

    /// Checks that the rendered configuration uses TLS for everything if there is a CA file, and for nothing otherwise.
    pub(super) fn validate_tls_directives(&self, conf: &RedisConf) -> Result<(), String> {
        let found = |name: &str| conf.last_value(name).unwrap_or_default();
        if !self.uses_tls() {
            return match found("tls-port").as_str() {
                "" | "0" => Ok(()),
                _ => Err("the rendered configuration has a tls-port, which needs the key tls_ca_file".to_owned()),
            };
        }
        let required = [
            ("port", "0"),
            ("tls-port", &self.port),
            ("tls-replication", "yes"),
            ("tls-ca-cert-file", &self.tls_ca_file),
            ("tls-auth-clients", "no"),
        ];
        if let Some((name, value)) = required.into_iter().find(|(name, value)| found(name) != *value) {
            return Err(format!("with tls_ca_file, the rendered configuration needs `{name} {value}`"));
        }
        let files = [("tls-cert-file", &self.tls_cert_file), ("tls-key-file", &self.tls_key_file)];
        match files.into_iter().find(|(name, path)| !path.is_empty() && found(name) != **path) {
            Some((name, path)) => {
                let key = name.replace('-', "_");
                Err(format!("with this {key}, the rendered configuration needs `{name} {path}`"))
            }
            None => Ok(()),
        }
    }

    /// Reads the CA file, which only root may own; `None` if the instance does not use TLS.
    ///
    /// # Errors
    /// Returns an error if the file is missing, or belongs to another user.
    pub(super) fn read_tls_ca(&self) -> Result<Option<String>> {
        if !self.uses_tls() {
            return Ok(None);
        }
        let ca = host_fs::read_trusted(Path::new(&self.tls_ca_file), None);
        Ok(Some(ca.with_context(|| format!("the CA file {}", self.tls_ca_file))?))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TLS_LINES: &str = "port 0\ntls-port 7017\ntls-replication yes\ntls-auth-clients no\n\
                             tls-ca-cert-file \"/etc/redis-tls/ca.crt\"\n";

    fn shard(tls_ca_file: &str) -> RedisShard {
        let content = json!({ "digest": crate::plan::Digest::of_bytes(b""), "len": 0 });
        serde_json::from_value(json!({
            "id": "17", "port": "7017", "conf": content, "acl": content, "data_dir": "/var/lib/redis/shard-17",
            "tls_ca_file": tls_ca_file,
        }))
        .unwrap()
    }

    #[test]
    fn a_ca_file_and_the_directives_go_together() {
        let check = |ca: &str, conf: &str| shard(ca).validate_tls_directives(&RedisConf::parse(conf));
        assert_eq!(check("/etc/redis-tls/ca.crt", TLS_LINES), Ok(()));
        assert_eq!(check("", "port 7017\ntls-port 0\n"), Ok(()));
        assert!(check("", TLS_LINES).unwrap_err().contains("tls_ca_file"));
        for line in TLS_LINES.lines() {
            let error = check("/etc/redis-tls/ca.crt", &TLS_LINES.replace(line, "")).unwrap_err();
            assert!(error.contains(line.split(' ').next().unwrap_or_default()), "{error}");
        }
        let error = check("/etc/redis-tls/ca.crt", &TLS_LINES.replace("port 0", "port 7016")).unwrap_err();
        assert!(error.ends_with("`port 0`"), "{error}");
    }

    #[test]
    fn tls_files_have_absolute_paths() {
        assert!(shard("ca.crt").validate_tls_paths().is_err());
        assert!(shard("/etc/redis-tls/ca.crt").validate_tls_paths().is_ok() && shard("").validate_tls_paths().is_ok());
        let with_cert = |ca: &str| RedisShard { tls_cert_file: "/etc/redis-tls/server.crt".to_owned(), ..shard(ca) };
        assert_eq!(with_cert("").validate_tls_paths().unwrap_err(), "tls_cert_file needs the key tls_ca_file");
        let check = |conf: &str| with_cert("/etc/redis-tls/ca.crt").validate_tls_directives(&RedisConf::parse(conf));
        assert!(check(TLS_LINES).unwrap_err().ends_with("`tls-cert-file /etc/redis-tls/server.crt`"));
        assert_eq!(check(&format!("{TLS_LINES}tls-cert-file \"/etc/redis-tls/server.crt\"\n")), Ok(()));
    }
}
