//! `[[unit]]` of a recipe.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;

use super::PartSelector;
use super::reader::RecipeReader;

/// Maximum number of instances of a unit on one host.
const MAX_INSTANCES: usize = 256;
/// Maximum length of the name of an instance, in bytes: the name of a unit may have 255.
const MAX_INSTANCE_LENGTH: usize = 100;

/// `[[unit]]`: a unit file, rendered for each host.
#[derive(Clone, Debug, PartialEq)]
pub struct UnitEntry {
    /// The unit's name with suffix.
    pub name: String,
    /// The template, relative to the templates folder.
    pub src: PathBuf,
    /// Starts the unit at boot if set.
    pub enable: bool,
    /// Restarts the unit on a switch if set.
    pub restart: bool,
    /// Reloads the unit where a restart is not needed, if set.
    pub reload: bool,
    /// Instances, if it is a template unit.
    pub instances: Option<InstanceList>,
    /// Hosts that have the unit, if not all.
    pub hosts: Option<PartSelector>,
    /// Byte offset of the entry in the recipe.
    pub span: Range<usize>,
}

/// `instances` of a template unit.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "instances must be a number, a list of names, or a string with {{ … }}")]
pub enum InstanceList {
    /// The numbers from 1 to this one.
    Count(u16),
    /// These names; `{{ }}` is filled in per host.
    Names(Vec<String>),
    /// A text that gives a number or names, per host.
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UnitTable {
    name: String,
    src: PathBuf,
    #[serde(default = "default_true")]
    enable: bool,
    restart: Option<bool>,
    #[serde(default)]
    reload: bool,
    instances: Option<InstanceList>,
    hosts: Option<String>,
}

fn default_true() -> bool {
    true
}

impl UnitEntry {
    /// Returns the names of the entry's units on a host; `render` fills in what is in `{{ }}`.
    ///
    /// # Errors
    /// Returns the error of `render`, or one if an instance cannot be in the name of a unit.
    pub fn list_unit_names(&self, render: impl Fn(&str) -> Result<String, String>) -> Result<Vec<String>, String> {
        let instances = match &self.instances {
            None => return Ok(vec![self.name.clone()]),
            Some(InstanceList::Count(count)) => number_instances(usize::from(*count)),
            Some(InstanceList::Names(names)) => names.iter().map(|name| render(name)).collect::<Result<_, _>>()?,
            Some(InstanceList::Text(text)) => split_instances(&render(text)?),
        };
        check_instances(&instances.iter().collect::<Vec<_>>())?;
        Ok(instances.iter().filter_map(|instance| to_instance_name(&self.name, instance)).collect())
    }
}

/// Returns the unit's name for an instance of a template; `None` if the name is not that of a template.
fn to_instance_name(template: &str, instance: &str) -> Option<String> {
    let (stem, kind) = template.split_once("@.")?;
    Some(format!("{stem}@{instance}.{kind}"))
}

/// Returns the numbers from 1. One more than allowed is enough for the error.
fn number_instances(count: usize) -> Vec<String> {
    (1..=count.min(MAX_INSTANCES + 1)).map(|number| number.to_string()).collect()
}

/// Splits a rendered text: a number, a list as templates print it, or names between spaces or commas.
fn split_instances(text: &str) -> Vec<String> {
    if let Ok(count) = text.trim().parse::<usize>() {
        return number_instances(count);
    }
    let words = text.split(|c: char| c.is_whitespace() || ",[]\"'".contains(c));
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Checks the instances of one unit.
fn check_instances(instances: &[&String]) -> Result<(), String> {
    if instances.len() > MAX_INSTANCES {
        return Err(format!("a unit may have up to {MAX_INSTANCES} instances"));
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
    let mut seen = BTreeSet::new();
    for instance in instances {
        if instance.is_empty() || instance.len() > MAX_INSTANCE_LENGTH || !instance.chars().all(is_allowed) {
            return Err(format!("{instance:?} is not the name of an instance: letters, digits, and any of `_-.:`"));
        }
        if !seen.insert(instance) {
            return Err(format!("two instances have the name {instance}"));
        }
    }
    Ok(())
}

impl RecipeReader<'_> {
    pub(super) fn read_units(&mut self, tables: Vec<(Range<usize>, UnitTable)>) -> Vec<UnitEntry> {
        let mut seen = BTreeSet::new();
        for (span, table) in &tables {
            match &table.instances {
                Some(instances) => self.check_template_unit(span, &table.name, instances),
                None => self.check_unit_name(span, &table.name),
            }
            self.check_template_path(span, &table.src);
            if table.reload && (!table.name.ends_with(".service") || table.restart == Some(false)) {
                self.add_error(span, "`reload` goes with a service that a switch restarts", None);
            }
            if !seen.insert(&table.name) {
                self.add_error(span, format!("two units have the name {}", table.name), None);
            }
        }
        let entry = |(span, table): (Range<usize>, UnitTable)| UnitEntry {
            hosts: PartSelector::from_table(table.hosts, &span),
            reload: table.reload,
            instances: table.instances,
            restart: table.restart.unwrap_or_else(|| table.name.ends_with(".service")),
            name: table.name,
            src: table.src,
            enable: table.enable,
            span,
        };
        tables.into_iter().map(entry).collect()
    }

    fn check_template_unit(&mut self, span: &Range<usize>, name: &str, instances: &InstanceList) {
        match to_instance_name(name, "1") {
            Some(instance) => self.check_unit_name(span, &instance),
            None => {
                let help = "the name of a template unit ends with `@` and its kind: app@.service";
                self.add_error(span, format!("{name:?} has `instances` and is no template unit"), Some(help));
            }
        }
        if let InstanceList::Names(names) = instances {
            let literal: Vec<&String> = names.iter().filter(|name| !name.contains("{{")).collect();
            if let Err(error) = check_instances(&literal) {
                self.add_error(span, error, None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::deploy::recipe::Recipe;

    fn list(keys: &str) -> Result<Vec<String>, String> {
        let unit = format!("[[unit]]\nname = \"app@.service\"\nsrc = \"app.service\"\n{keys}\n");
        let text = format!("service = \"shop\"\nhosts = \"web\"\nroot = \"/srv/shop\"\n{unit}");
        let recipe = Recipe::parse(&text).map_err(|errors| errors[0].message.clone())?;
        recipe.units[0].list_unit_names(|text| Ok(text.replace("{{ zone }}", "a").replace("{{ workers }}", "[x, y]")))
    }

    #[test]
    fn instances_are_numbers_names_or_rendered_per_host() {
        assert_eq!(list("instances = 2").unwrap(), ["app@1.service", "app@2.service"]);
        assert_eq!(list("instances = [\"web\", \"{{ zone }}-1\"]").unwrap(), ["app@web.service", "app@a-1.service"]);
        assert_eq!(list("instances = \"{{ workers }}\"").unwrap(), ["app@x.service", "app@y.service"]);
        assert_eq!(list("instances = \"3\"").unwrap().len(), 3);
        assert_eq!(list("instances = 0").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn wrong_instances_are_refused() {
        for (keys, message) in [
            ("", "not the name of a unit"),
            ("instances = true", "a number, a list of names"),
            ("instances = [\"a\", \"a\"]", "two instances"),
            ("instances = [\"a/b\"]", "not the name of an instance"),
            ("instances = [\"{{ zone }}\", \"a\"]", "two instances"),
            ("instances = 300", "up to 256"),
        ] {
            let error = list(keys).unwrap_err();
            assert!(error.contains(message), "{keys}: {error}");
        }
    }

    #[test]
    fn only_a_template_has_instances() {
        let unit = "[[unit]]\nname = \"app.service\"\nsrc = \"a\"\ninstances = 2\n";
        let text = format!("service = \"s\"\nhosts = \"web\"\nroot = \"/srv/s\"\n{unit}");
        assert!(Recipe::parse(&text).unwrap_err()[0].message.contains("no template unit"));
    }
}
