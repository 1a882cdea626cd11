//! The playbook's steps for instances and maps, compiled once per map.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow, bail};
use dunlin_shards::{ShardId, ShardMap};
use serde_json::Value;

use crate::fleet::Session;
use crate::inventory::{Diagnostics, Inventory};
use crate::plan::named_enum;
use crate::playbook::{CompiledHost, Compiler, CompilerInput, Playbook, PlaybookPlay, StepSelection, Templates};

named_enum! {
    /// Types of steps that a rebalance compiles.
    pub enum ShardStep {
        /// An instance of a shard.
        Instance = "redis_shard",
        /// A map of a consumer.
        Map = "shard_map",
    }
}

/// Input from which instances and maps are compiled.
pub struct TemplateSources<'a> {
    /// The inventory.
    pub inventory: &'a Inventory,
    /// The playbook with the `redis_shard` and `shard_map` steps.
    pub playbook: &'a Playbook,
    /// The templates.
    pub templates: &'a Templates,
    /// Folders in which files of steps are searched.
    pub file_folders: Vec<PathBuf>,
}

/// Compiles the desired instances and maps of hosts.
pub struct InstanceTemplates<'a> {
    sources: TemplateSources<'a>,
    /// For each type of step the last map and its compiler.
    compilers: Mutex<BTreeMap<ShardStep, CompiledMap<'a>>>,
}

struct CompiledMap<'a> {
    map: ShardMap,
    compiler: Arc<Compiler<'a>>,
}

impl<'a> InstanceTemplates<'a> {
    /// Creates the templates; nothing is compiled yet.
    pub fn new(sources: TemplateSources<'a>) -> Self {
        Self { sources, compilers: Mutex::default() }
    }

    /// Returns a compiler for the steps of one type under a map.
    ///
    /// # Errors
    /// Returns the mistakes in map, inventory or playbook.
    pub fn compiler(&self, map: &ShardMap, step: ShardStep) -> Result<Arc<Compiler<'a>>> {
        let mut compilers = self.compilers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compiled) = compilers.get(&step).filter(|compiled| compiled.map == *map) {
            return Ok(Arc::clone(&compiled.compiler));
        }
        let compiler = Arc::new(self.build_compiler(map, step)?);
        compilers.insert(step, CompiledMap { map: map.clone(), compiler: Arc::clone(&compiler) });
        Ok(compiler)
    }

    fn build_compiler(&self, map: &ShardMap, step: ShardStep) -> Result<Compiler<'a>> {
        Compiler::new(CompilerInput {
            inventory: self.sources.inventory,
            playbook: self.sources.playbook,
            templates: self.sources.templates,
            shard_map: Some(map),
            file_folders: self.sources.file_folders.clone(),
            secrets: None,
            selection: StepSelection { kinds: vec![step.to_string()], ..StepSelection::default() },
            digest_key: None,
        })
        .map_err(|found| to_diagnostics_error(&found))
    }

    /// Returns the desired instance of a shard on a host under a map, and offers its contents to the host.
    ///
    /// # Errors
    /// Returns an error if the playbook makes no such instance there.
    pub fn desired_instance(&self, map: &ShardMap, shard: ShardId, host: &str, session: &Session) -> Result<Value> {
        let compiled = self
            .compiler(map, ShardStep::Instance)?
            .compile_host(host, &session.hello.facts)
            .map_err(|found| to_diagnostics_error(&found))?;
        let CompiledHost { catalog, contents, .. } = compiled;
        session.add_blobs(&contents);
        let mut steps = catalog.plays.into_iter().flat_map(|play| play.steps);
        let desired_step =
            steps.find(|step| step.desired.get("id").and_then(Value::as_str) == Some(&shard.to_string()));
        match desired_step {
            Some(step) => Ok(step.desired),
            None => {
                bail!("the playbook makes no instance of shard {shard} on {host}: is the host in the play's group?")
            }
        }
    }

    /// Returns the hosts whose plays have a `shard_map` step, sorted.
    ///
    /// # Errors
    /// Returns the mistakes in map, inventory or playbook.
    pub fn list_consumers(&self, map: &ShardMap) -> Result<Vec<String>> {
        let compiler = self.compiler(map, ShardStep::Map)?;
        let publishes = |play: &&PlaybookPlay| play.steps.iter().any(|step| step.kind.name == ShardStep::Map.as_str());
        let plays = self.sources.playbook.plays.iter().enumerate().filter(|(_, play)| publishes(play));
        let mut hosts: Vec<String> =
            plays.flat_map(|(number, _)| compiler.hosts_in_play(number)).map(str::to_owned).collect();
        hosts.sort_unstable();
        hosts.dedup();
        Ok(hosts)
    }
}

/// Returns diagnostics as one error.
pub fn to_diagnostics_error(diagnostics: &Diagnostics) -> anyhow::Error {
    anyhow!("{}", diagnostics.render(false))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::inventory::SourceFile;

    const HOSTS: &str =
        "[groups.app]\nhosts = [\"a\"]\n[hosts.a]\naddress = \"192.0.2.1\"\n[hosts.b]\naddress = \"192.0.2.2\"\n";
    const PLAYBOOK: &str =
        "[[play]]\nname = \"p\"\nhosts = \"app\"\n[[play.step]]\n[play.step.shard_map]\ndest = \"/m\"\n";

    fn map(epoch: u64, host: &str) -> ShardMap {
        let shard = format!("[[shard]]\nid=0\nslots=\"0-16383\"\nhost=\"{host}\"\n");
        ShardMap::parse(&format!("cluster=\"x\"\nepoch={epoch}\nport_base=7000\n{shard}")).unwrap()
    }

    #[test]
    fn a_map_is_compiled_once_and_another_one_anew() {
        let mut found = Diagnostics::new();
        let inventory = Inventory::parse_hosts_toml(Path::new("hosts.toml"), HOSTS).inventory.unwrap();
        let playbook = Playbook::parse_text(&SourceFile::new("site.toml", PLAYBOOK), &mut found);
        let templates = Templates::load_folder(tempfile::tempdir().unwrap().path(), &mut found);
        assert!(!found.has_errors(), "{}", found.render(false));
        let templates = InstanceTemplates::new(TemplateSources {
            inventory: &inventory,
            playbook: &playbook,
            templates: &templates,
            file_folders: Vec::new(),
        });
        let compile = |map: &ShardMap| templates.compiler(map, ShardStep::Map).unwrap();
        let published = |compiler: &Compiler<'_>| {
            let compiled = compiler.compile_host("a", &crate::protocol::HostFacts::default()).unwrap();
            let bytes = compiled.contents.values().next().unwrap().to_vec();
            String::from_utf8(bytes).unwrap()
        };
        let first = compile(&map(1, "a"));
        assert!(Arc::ptr_eq(&first, &compile(&map(1, "a"))));
        // Of the same epoch, as the map after each of two moves of a wave.
        let other = compile(&map(1, "b"));
        assert!(published(&first).contains("192.0.2.1") && published(&other).contains("192.0.2.2"));
        assert!(published(&compile(&map(2, "b"))).contains("epoch = 2"));
        assert_eq!(templates.list_consumers(&map(1, "a")).unwrap(), ["a"]);
    }
}
