//! Modules of the source: their data types and commands exist at the target only if it loads them too.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use redis::Value;

use super::redis_client::{RedisClient, redis_command};
use crate::resources::redis_shard::conf::RedisConf;

/// Modules that are part of a server: it loads them without a `loadmodule` line, and the check of the version covers
/// them.
const BUILT_IN_MODULES: &[&str] = &["vectorset", "lua"];

/// A module that a server has loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LoadedModule {
    name: String,
    /// The file that the server loaded.
    path: String,
}

/// Returns one reason for each module of the source that the target would not load. Writes nothing.
///
/// # Errors
/// Returns an error if the source does not answer.
pub fn find_missing_modules(source: &mut RedisClient, conf: &RedisConf) -> Result<Vec<String>> {
    let listed: Vec<BTreeMap<String, Value>> = source.query(&redis_command(&["MODULE", "LIST"]))?;
    let loaded =
        listed.iter().map(|fields| LoadedModule { name: text_field(fields, "name"), path: text_field(fields, "path") });
    let paths = conf.module_paths();
    let address = source.address.to_string();
    Ok(loaded.filter_map(|module| explain_missing(&module, &paths, &address, &Path::is_file)).collect())
}

fn text_field(fields: &BTreeMap<String, Value>, name: &str) -> String {
    fields.get(name).and_then(|value| redis::from_redis_value_ref(value).ok()).unwrap_or_default()
}

/// Explains why the target would not have the module, if so. A module's name is not known before it is loaded: modules
/// are matched by the names of their files.
fn explain_missing(
    module: &LoadedModule,
    target_paths: &[&str],
    address: &str,
    is_file: &dyn Fn(&Path) -> bool,
) -> Option<String> {
    let LoadedModule { name, path } = module;
    if BUILT_IN_MODULES.contains(&name.as_str()) {
        return None;
    }
    let file_name = Path::new(path).file_name();
    let at_target =
        target_paths.iter().find(|target| file_name.is_some() && Path::new(target).file_name() == file_name);
    match at_target {
        None => Some(format!(
            "{address} has the module {name} ({path}), and the target's configuration does not load it; add a loadmodule \
             line to the configuration template"
        )),
        Some(target) if !is_file(Path::new(target)) => Some(format!(
            "{address} has the module {name}, and its file {target} does not exist on the target's host; install it there"
        )),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_matched_by_file_name() {
        let module = |name: &str, path: &str| LoadedModule { name: name.to_owned(), path: path.to_owned() };
        let explain =
            |module: &LoadedModule, paths: &[&str], exists| explain_missing(module, paths, "a:1", &|_| exists);
        let bloom = module("bf", "/usr/lib/redis/redisbloom.so");
        assert_eq!(explain(&bloom, &["/opt/redis/redisbloom.so"], true), None);
        let absent = explain(&bloom, &["/opt/redis/rejson.so"], true).unwrap();
        assert!(absent.contains("a:1 has the module bf (/usr/lib/redis/redisbloom.so)"), "{absent}");
        let no_file = explain(&bloom, &["/opt/redis/redisbloom.so"], false).unwrap();
        assert!(no_file.contains("/opt/redis/redisbloom.so does not exist on the target's host"), "{no_file}");
        assert!(explain(&module("unknown", ""), &[""], true).is_some(), "a module without a known file");
        assert_eq!(explain(&module("vectorset", ""), &[], true), None);
    }
}
