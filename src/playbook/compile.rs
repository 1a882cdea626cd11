//! Playbook + inventory + facts → the catalog of one host, with the contents that it names.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use dunlin_shards::ShardMap;
use serde_json::Value as Json;

use super::catalog_step::OwnershipIndex;
use super::content_store::{ContentMap, ContentStore};
use super::context::{self, FleetContext};
use super::decoys::TaintedContext;
use super::expand::{self, StepInstance};
use super::model::{Playbook, PlaybookPlay, PlaybookStep};
use super::secret_redactor::SecretRedactor;
use super::shards::ShardContext;
use super::templates::Templates;
use super::{catalog_step, value_template};
use crate::inventory::{Diagnostic, Diagnostics, Inventory, InventoryHost, Origin, SelectError};
use crate::plan::{DigestKey, StepRef};
use crate::protocol::HostFacts;
use crate::protocol::provision::{self, Catalog};
use crate::resources::Resource as _;
use crate::resources::line::LineResource;

/// Selection of the steps to compile; the default selects every step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepSelection {
    /// Only steps that have one of these tags (their own or their play's). Empty: all. Handlers always stay.
    pub tags: Vec<String>,
    /// Only steps of these types of resource, without their notifications and without handlers: how a new shard map is
    /// published. Empty: all.
    pub kinds: Vec<String>,
}

/// Input from which catalogs are compiled.
pub struct CompilerInput<'a, 'm> {
    /// The hosts.
    pub inventory: &'a Inventory,
    /// The plays.
    pub playbook: &'a Playbook,
    /// The templates.
    pub templates: &'a Templates,
    /// The shard map, where the inventory has one.
    pub shard_map: Option<&'m ShardMap>,
    /// Search path for `src` of a `file`, in this order.
    pub file_folders: Vec<PathBuf>,
    /// Stands in for the inventory's secrets, as a nested table of strings.
    pub secrets: Option<Json>,
    /// Steps to compile.
    pub selection: StepSelection,
    /// The key under which plans show digests of secrets.
    pub digest_key: Option<DigestKey>,
}

/// Makes catalogs; what all hosts share is worked out once. Usable from several threads.
pub struct Compiler<'a> {
    inventory: &'a Inventory,
    playbook: &'a Playbook,
    fleet: FleetContext,
    content_store: ContentStore<'a>,
    selection: StepSelection,
    digest_key: Option<DigestKey>,
    members_by_play: Vec<HashSet<String>>,
}

/// The catalog of one host and what belongs to it.
#[derive(Clone, Debug)]
pub struct CompiledHost {
    /// Catalog for the agent.
    pub catalog: Catalog,
    /// The bytes of every content that the catalog names. Equal bytes are shared between hosts.
    pub contents: ContentMap,
    /// Place of each step and handler in the playbook.
    pub origins: BTreeMap<StepRef, Origin>,
    /// For each play of the catalog its index in [`Playbook::plays`].
    pub play_indices: Vec<usize>,
}

impl<'a> Compiler<'a> {
    /// Works out what all hosts share.
    ///
    /// # Errors
    /// Returns an error if a play's `hosts` or the shard map names an unknown host, or a variable takes one of dunlin's
    /// own names.
    pub fn new(parts: CompilerInput<'a, '_>) -> Result<Self, Diagnostics> {
        let (inventory, playbook) = (parts.inventory, parts.playbook);
        let mut found = reserved_var_errors(inventory);
        let members = playbook.plays.iter().map(|play| play_members(inventory, play, &mut found)).collect();
        let shards = parts.shard_map.map(|map| ShardContext::new(map, inventory)).transpose();
        let shards = shards.unwrap_or_else(|error| {
            let path = inventory.dir().join("shards.toml");
            found.push(Diagnostic::error_at_path(&path, error.to_string()));
            None
        });
        if found.has_errors() {
            found.sort();
            return Err(found);
        }
        let secrets = parts.secrets.unwrap_or_else(|| inventory.secrets().expose_json());
        let published = shards.as_ref().map(|shards| shards.published_map.clone());
        let words = SecretRedactor::from_secrets(&secrets);
        let fleet = FleetContext::new(inventory, &secrets, shards);
        let store = ContentStore::new(parts.templates, parts.file_folders, published, words);
        Ok(Self {
            inventory,
            playbook,
            fleet,
            content_store: store,
            selection: parts.selection,
            digest_key: parts.digest_key,
            members_by_play: members,
        })
    }

    /// Returns the words that must not be shown, for texts that hosts send.
    pub fn secret_redactor(&self) -> &SecretRedactor {
        &self.content_store.secret_redactor
    }

    /// Returns whether any play applies to the host.
    pub fn applies_to(&self, host: &str) -> bool {
        self.members_by_play.iter().any(|members| members.contains(host))
    }

    /// Returns the names of the hosts that a play (by its index in [`Playbook::plays`]) applies to, in the inventory's
    /// order.
    pub fn hosts_in_play(&self, play: usize) -> Vec<&'a str> {
        let in_play =
            |host: &&InventoryHost| self.members_by_play.get(play).is_some_and(|members| members.contains(&host.name));
        self.inventory.hosts().iter().filter(in_play).map(|host| host.name.as_str()).collect()
    }

    /// Compiles the catalog of one host.
    ///
    /// # Errors
    /// Returns the diagnostics for this host, sorted by place.
    pub fn compile_host(&self, host: &str, facts: &HostFacts) -> Result<CompiledHost, Diagnostics> {
        let mut found = Diagnostics::new();
        let Some(host) = self.inventory.find_host(host) else {
            found.push(Diagnostic::error_at_path(self.inventory.dir(), format!("no host `{host}` in this inventory")));
            return Err(found);
        };
        let context = self.fleet.host_context(self.inventory, host, facts);
        let mut compiled = CompiledHost {
            catalog: Catalog { plays: Vec::new(), digest_key: self.digest_key.clone() },
            contents: ContentMap::new(),
            origins: BTreeMap::new(),
            play_indices: Vec::new(),
        };
        let mut owners = OwnershipIndex::default();
        for (index, play) in self.playbook.plays.iter().enumerate() {
            if !self.members_by_play[index].contains(&host.name) {
                continue;
            }
            let Some(context) = self.play_context(play, &context, &mut found) else { continue };
            self.compile_play(play, &context, &mut compiled, &mut owners, &mut found);
            compiled.play_indices.push(index);
        }
        owners.hide_shared_paths(&mut compiled.catalog);
        if found.has_errors() {
            found.sort();
            return Err(found);
        }
        Ok(compiled)
    }

    /// Returns the host's context with the play's variables; `None` if the play's condition does not hold.
    fn play_context(
        &self,
        play: &PlaybookPlay,
        host: &TaintedContext,
        found: &mut Diagnostics,
    ) -> Option<TaintedContext> {
        let strings = &self.playbook.strings;
        let mut context = host.clone();
        match host.evaluate(|host| value_template::evaluate_table(&play.vars, strings, host)) {
            Ok(vars) => {
                // A decoy that cannot be used leaves no value, which is another one than the real.
                let decoys = host
                    .decoy
                    .as_ref()
                    .map(|decoy| value_template::evaluate_table(&play.vars, strings, decoy).unwrap_or_default());
                for (name, value) in vars {
                    let decoy = decoys.as_ref().map(|vars| vars.get(&name).unwrap_or(&Json::Null));
                    context.insert(&name, &value, decoy);
                }
            }
            Err(wrong) => wrong.into_iter().for_each(|diagnostic| found.push(diagnostic)),
        }
        context.insert("play", &serde_json::json!({"name": play.name.value}), None);
        let condition = context
            .evaluate(|context| play.when.as_ref().map_or(Ok(true), |when| strings.evaluate_condition(when, context)));
        match condition {
            Ok(holds) => holds.then_some(context),
            Err(wrong) => {
                wrong.into_iter().for_each(|diagnostic| found.push(diagnostic));
                None
            }
        }
    }

    fn compile_play(
        &self,
        play: &PlaybookPlay,
        context: &TaintedContext,
        compiled: &mut CompiledHost,
        owners: &mut OwnershipIndex,
        found: &mut Diagnostics,
    ) {
        let steps: Vec<&PlaybookStep> = play.steps.iter().filter(|step| self.is_selected(play, step)).collect();
        let steps = self.expand_steps(steps, context, found);
        let publishing = !self.selection.kinds.is_empty();
        let handlers =
            if publishing { Vec::new() } else { self.expand_steps(play.handlers.iter().collect(), context, found) };
        let names = catalog_step::handler_names(&handlers, found);
        let mut compiled_play =
            provision::CatalogPlay { name: play.name.value.clone(), steps: Vec::new(), handlers: Vec::new() };
        let number = compiled.catalog.plays.len();
        let mut origins = Vec::new();
        for instance in steps.iter().filter(|instance| instance.is_selected && instance.step.is_valid) {
            let Some(one) = catalog_step::build_step(instance, &self.content_store, &self.playbook.strings, found)
            else {
                continue;
            };
            catalog_step::claim_ownership(instance, &one, owners, found);
            owners.note_editor(&one, StepRef { play: number, step: compiled_play.steps.len() });
            owners.note_secret_paths(&one);
            let notify =
                if publishing { Vec::new() } else { catalog_step::notified_handlers(instance, play, &names, found) };
            compiled.contents.extend(one.contents);
            compiled_play.steps.push(provision::CatalogStep { notify, ..one.step });
            origins.push(instance.step.origin.clone());
        }
        for instance in handlers.iter().filter(|instance| instance.is_selected && instance.step.is_valid) {
            let Some(one) = catalog_step::build_step(instance, &self.content_store, &self.playbook.strings, found)
            else {
                continue;
            };
            let step = compiled_play.steps.len() + compiled_play.handlers.len();
            owners.note_editor(&one, StepRef { play: number, step });
            owners.note_secret_paths(&one);
            compiled.contents.extend(one.contents);
            compiled_play.handlers.push(one.step);
            origins.push(instance.step.origin.clone());
        }
        self.note_unselected_paths(play, context, owners);
        let placed = origins.into_iter().enumerate().map(|(step, origin)| (StepRef { play: number, step }, origin));
        compiled.origins.extend(placed);
        compiled.catalog.plays.push(compiled_play);
    }

    /// Notes the secret paths of the steps that are not applied in this run: what they wrote in another run is in
    /// the files, around the lines that this run changes.
    fn note_unselected_paths(&self, play: &PlaybookPlay, context: &TaintedContext, owners: &mut OwnershipIndex) {
        if context.decoy.is_none() {
            return;
        }
        // A mistake in a step that is not applied stops nothing.
        let mut ignored = Diagnostics::new();
        let shares_paths = |step: &&PlaybookStep| step.is_valid && step.kind.name == LineResource::KIND;
        let steps = play.steps.iter().chain(&play.handlers).filter(shares_paths).collect();
        for instance in self.expand_steps(steps, context, &mut ignored) {
            if instance.is_selected && self.is_selected(play, instance.step) {
                continue;
            }
            let (store, strings) = (&self.content_store, &self.playbook.strings);
            if let Some(one) = catalog_step::build_step(&instance, store, strings, &mut ignored) {
                owners.note_secret_paths(&one);
            }
        }
    }

    fn expand_steps<'p>(
        &self,
        steps: Vec<&'p PlaybookStep>,
        context: &TaintedContext,
        found: &mut Diagnostics,
    ) -> Vec<StepInstance<'p>> {
        let strings = &self.playbook.strings;
        steps.into_iter().flat_map(|step| expand::expand_step(step, strings, context, found)).collect()
    }

    fn is_selected(&self, play: &PlaybookPlay, step: &PlaybookStep) -> bool {
        let StepSelection { tags, kinds } = &self.selection;
        let tagged = tags.is_empty() || step.tags.iter().chain(&play.tags).any(|tag| tags.contains(tag));
        tagged && (kinds.is_empty() || kinds.iter().any(|kind| kind == step.kind.name))
    }
}

fn play_members(inventory: &Inventory, play: &PlaybookPlay, found: &mut Diagnostics) -> HashSet<String> {
    match inventory.select_hosts(&play.hosts.value) {
        Ok(hosts) => hosts.into_iter().map(|host| host.name.clone()).collect(),
        // A group that has no hosts yet is no mistake.
        Err(SelectError::NoHosts(_)) => HashSet::new(),
        Err(SelectError::UnknownTerm { term, similar: near }) => {
            let diagnostic = Diagnostic::error_at(&play.hosts.origin, format!("no host, group or zone `{term}`"));
            found.push(match near.first() {
                Some(near) => diagnostic.with_help(format!("did you mean `{near}`?")),
                None => diagnostic,
            });
            HashSet::new()
        }
    }
}

/// Variables that take one of dunlin's own names.
pub(super) fn reserved_var_errors(inventory: &Inventory) -> Diagnostics {
    let mut found = Diagnostics::new();
    for host in inventory.hosts() {
        let vars = inventory.merged_vars(&host.name);
        vars.iter()
            .filter_map(|(name, var)| context::reserved_name_error(name, &var.origin))
            .for_each(|d| found.push(d));
    }
    found
}
