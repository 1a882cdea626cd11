//! Playbook + inventory + facts → the catalogue of one host, with the contents that it names.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use dunlin_shards::ShardMap;
use serde_json::Value as Json;
use tera::{Context, Value};

use super::contents::{Contents, SecretWords, Store};
use super::context::{self, FleetContext};
use super::expand::{self, Instance};
use super::host_steps::Owners;
use super::model::{Play, Playbook, Step};
use super::shards::ShardContext;
use super::templates::Templates;
use super::{host_steps, nodes};
use crate::inventory::{Diagnostic, Diagnostics, Host, Inventory, Origin, SelectError};
use crate::plan::StepRef;
use crate::wire::Facts;
use crate::wire::provision::{self, Catalogue};

/// Which steps are compiled; the default is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only steps that have one of these tags (their own or their play's). Empty: all. Handlers always stay.
    pub tags: Vec<String>,
    /// Only steps of these types of resource, without their notifications and without handlers: how a new shard map is
    /// published. Empty: all.
    pub kinds: Vec<String>,
}

/// What catalogues are made of.
pub struct Parts<'a> {
    /// The hosts.
    pub inventory: &'a Inventory,
    /// The plays.
    pub playbook: &'a Playbook,
    /// The templates.
    pub templates: &'a Templates,
    /// The shard map, where the inventory has one.
    pub shard_map: Option<&'a ShardMap>,
    /// Where `src` of a `file` is looked for, in this order.
    pub folders: Vec<PathBuf>,
    /// Stands in for the inventory's secrets, as a nested table of strings.
    pub secrets: Option<Json>,
    /// Which steps.
    pub selection: Selection,
}

/// Makes catalogues; what all hosts share is worked out once. Usable from several threads.
pub struct Compiler<'a> {
    inventory: &'a Inventory,
    playbook: &'a Playbook,
    fleet: FleetContext,
    store: Store<'a>,
    selection: Selection,
    members: Vec<HashSet<String>>,
}

/// The catalogue of one host and what belongs to it.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// What the agent is given.
    pub catalogue: Catalogue,
    /// The bytes of every content that the catalogue names. Equal bytes are shared between hosts.
    pub contents: Contents,
    /// Where each step and handler stands in the playbook.
    pub origins: BTreeMap<StepRef, Origin>,
    /// For each play of the catalogue its index in [`Playbook::plays`].
    pub plays: Vec<usize>,
}

impl<'a> Compiler<'a> {
    /// Works out what all hosts share.
    ///
    /// # Errors
    /// Unknown hosts in a play's `hosts` or in the shard map; variables that take one of dunlin's own names.
    pub fn new(parts: Parts<'a>) -> Result<Self, Diagnostics> {
        let (inventory, playbook) = (parts.inventory, parts.playbook);
        let mut found = reserved_vars(inventory);
        let members = playbook.plays.iter().map(|play| members(inventory, play, &mut found)).collect();
        let shards = parts.shard_map.map(|map| ShardContext::new(map, inventory)).transpose();
        let shards = shards.unwrap_or_else(|error| {
            let path = inventory.dir().join("shards.toml");
            found.push(Diagnostic::path(&path, error.to_string()));
            None
        });
        if found.has_errors() {
            found.sort();
            return Err(found);
        }
        let secrets = parts.secrets.unwrap_or_else(|| inventory.secrets().expose_json());
        let published = shards.as_ref().map(|shards| shards.published.clone());
        let words = SecretWords::of(&secrets);
        let fleet = FleetContext::new(inventory, &secrets, shards);
        let store = Store::new(parts.templates, parts.folders, published, words);
        Ok(Self { inventory, playbook, fleet, store, selection: parts.selection, members })
    }

    /// The names of the hosts that a play (by its index in [`Playbook::plays`]) applies to, in the inventory's order.
    pub fn hosts_of(&self, play: usize) -> Vec<&'a str> {
        let in_play = |host: &&Host| self.members.get(play).is_some_and(|members| members.contains(&host.name));
        self.inventory.hosts().iter().filter(in_play).map(|host| host.name.as_str()).collect()
    }

    /// The catalogue of one host.
    ///
    /// # Errors
    /// Everything that is wrong for this host, sorted by place.
    pub fn compile(&self, host: &str, facts: &Facts) -> Result<Compiled, Diagnostics> {
        let mut found = Diagnostics::new();
        let Some(host) = self.inventory.host(host) else {
            found.push(Diagnostic::path(self.inventory.dir(), format!("no host `{host}` in this inventory")));
            return Err(found);
        };
        let context = self.fleet.host(self.inventory, host, facts);
        let mut compiled = Compiled {
            catalogue: Catalogue::default(),
            contents: Contents::new(),
            origins: BTreeMap::new(),
            plays: Vec::new(),
        };
        let mut owners = Owners::default();
        for (index, play) in self.playbook.plays.iter().enumerate() {
            if !self.members[index].contains(&host.name) {
                continue;
            }
            let Some(context) = self.play_context(play, &context, &mut found) else { continue };
            self.play(play, &context, (&mut compiled, &mut owners, &mut found));
            compiled.plays.push(index);
        }
        if found.has_errors() {
            found.sort();
            return Err(found);
        }
        Ok(compiled)
    }

    /// The host's context with the play's variables; `None` where the play's condition does not hold.
    fn play_context(&self, play: &Play, host: &Context, found: &mut Diagnostics) -> Option<Context> {
        let strings = &self.playbook.strings;
        let mut context = host.clone();
        match nodes::evaluate_table(&play.vars, strings, host) {
            Ok(vars) => {
                for (name, value) in vars {
                    context.insert_value(name, Value::from_serializable(&value));
                }
            }
            Err(wrong) => wrong.into_iter().for_each(|diagnostic| found.push(diagnostic)),
        }
        context.insert("play", &serde_json::json!({"name": play.name.value}));
        match play.when.as_ref().map_or(Ok(true), |when| strings.holds(when, &context)) {
            Ok(holds) => holds.then_some(context),
            Err(wrong) => {
                wrong.into_iter().for_each(|diagnostic| found.push(diagnostic));
                None
            }
        }
    }

    fn play(
        &self,
        play: &Play,
        context: &Context,
        (compiled, owners, found): (&mut Compiled, &mut Owners, &mut Diagnostics),
    ) {
        let steps: Vec<&Step> = play.steps.iter().filter(|step| self.is_selected(play, step)).collect();
        let steps = self.expand(steps, context, found);
        let publishing = !self.selection.kinds.is_empty();
        let handlers =
            if publishing { Vec::new() } else { self.expand(play.handlers.iter().collect(), context, found) };
        let names = host_steps::handler_names(&handlers, found);
        let mut made = provision::Play { name: play.name.value.clone(), steps: Vec::new(), handlers: Vec::new() };
        let number = compiled.catalogue.plays.len();
        let mut origins = Vec::new();
        for instance in steps.iter().filter(|instance| instance.runs && instance.step.sound) {
            let Some(one) = host_steps::build(instance, &self.store, &self.playbook.strings, found) else { continue };
            host_steps::claim(instance, &one, owners, found);
            let notify = if publishing { Vec::new() } else { host_steps::notify(instance, (play, &names), found) };
            compiled.contents.extend(one.contents);
            made.steps.push(provision::Step { notify, ..one.step });
            origins.push(instance.step.origin.clone());
        }
        for instance in handlers.iter().filter(|instance| instance.runs && instance.step.sound) {
            let Some(one) = host_steps::build(instance, &self.store, &self.playbook.strings, found) else { continue };
            compiled.contents.extend(one.contents);
            made.handlers.push(one.step);
            origins.push(instance.step.origin.clone());
        }
        let placed = origins.into_iter().enumerate().map(|(step, origin)| (StepRef { play: number, step }, origin));
        compiled.origins.extend(placed);
        compiled.catalogue.plays.push(made);
    }

    fn expand<'p>(&self, steps: Vec<&'p Step>, context: &Context, found: &mut Diagnostics) -> Vec<Instance<'p>> {
        let strings = &self.playbook.strings;
        steps.into_iter().flat_map(|step| expand::instances(step, strings, context, found)).collect()
    }

    fn is_selected(&self, play: &Play, step: &Step) -> bool {
        let Selection { tags, kinds } = &self.selection;
        let tagged = tags.is_empty() || step.tags.iter().chain(&play.tags).any(|tag| tags.contains(tag));
        tagged && (kinds.is_empty() || kinds.iter().any(|kind| kind == step.kind.name))
    }
}

fn members(inventory: &Inventory, play: &Play, found: &mut Diagnostics) -> HashSet<String> {
    match inventory.select(&play.hosts.value) {
        Ok(hosts) => hosts.into_iter().map(|host| host.name.clone()).collect(),
        // A group that has no hosts yet is no mistake.
        Err(SelectError::Empty(_)) => HashSet::new(),
        Err(SelectError::Unknown { term, near }) => {
            let diagnostic = Diagnostic::on(&play.hosts.origin, format!("no host, group or zone `{term}`"));
            found.push(match near.first() {
                Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
                None => diagnostic,
            });
            HashSet::new()
        }
    }
}

/// Variables that take one of dunlin's own names.
pub(super) fn reserved_vars(inventory: &Inventory) -> Diagnostics {
    let mut found = Diagnostics::new();
    for host in inventory.hosts() {
        let vars = inventory.vars(&host.name);
        vars.iter().filter_map(|(name, var)| context::reserved(name, &var.origin)).for_each(|d| found.push(d));
    }
    found
}
