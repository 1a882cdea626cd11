//! Loops and conditions: a step of the playbook becomes as many steps of a catalogue as it has items on that host.

use serde_json::Value as Json;
use tera::{Context, Value};

use super::model::{Item, Node, Step};
use super::nodes;
use super::strings::Strings;
use crate::inventory::{Diagnostic, Diagnostics, Origin};

/// A step for one host and one item.
pub(super) struct Instance<'p> {
    pub step: &'p Step,
    /// The play's context with `item` in it.
    pub context: Context,
    pub name: Option<String>,
    pub notify: Vec<Notify>,
    /// Whether its condition holds; what does not run is needed for its name only.
    pub runs: bool,
}

/// A handler's name as a step gives it.
pub(super) struct Notify {
    pub name: String,
    pub origin: Origin,
}

/// All instances of a step, in the order of its items.
pub(super) fn instances<'p>(
    step: &'p Step,
    strings: &Strings,
    context: &Context,
    found: &mut Diagnostics,
) -> Vec<Instance<'p>> {
    let items = match &step.for_each {
        None => vec![None],
        Some(list) => match items(list, strings, context, &step.origin) {
            Ok(items) => items.into_iter().map(Some).collect(),
            Err(wrong) => {
                wrong.into_iter().for_each(|diagnostic| found.push(diagnostic));
                return Vec::new();
            }
        },
    };
    let mut instances = Vec::with_capacity(items.len());
    for item in items {
        let mut context = context.clone();
        if let Some(item) = item {
            context.insert_value("item", Value::from_serializable(&item));
        }
        match instance(step, strings, context) {
            Ok(instance) => instances.push(instance),
            Err(wrong) => wrong.into_iter().for_each(|diagnostic| found.push(diagnostic)),
        }
    }
    instances
}

fn instance<'p>(step: &'p Step, strings: &Strings, context: Context) -> Result<Instance<'p>, Vec<Diagnostic>> {
    let runs = step.when.as_ref().map_or(Ok(true), |when| strings.holds(when, &context))?;
    let name = step.name.as_ref().map(|name| strings.text(name, &context)).transpose()?;
    let notify = step.notify.iter().map(|text| {
        let name = strings.text(text, &context)?;
        Ok(Notify { name, origin: text.origin.clone() })
    });
    let notify = notify.collect::<Result<_, Vec<Diagnostic>>>()?;
    Ok(Instance { step, context, name, notify, runs })
}

fn items(list: &Item, strings: &Strings, context: &Context, step: &Origin) -> Result<Vec<Json>, Vec<Diagnostic>> {
    match nodes::evaluate(list, strings, context)? {
        Json::Array(items) => Ok(items),
        other => {
            let is = match other {
                Json::String(_) => "a string",
                Json::Number(_) => "a number",
                Json::Bool(_) => "a boolean",
                Json::Object(_) => "a table",
                _ => "nothing",
            };
            let origin = match &list.node {
                Node::Text(text) => &text.origin,
                _ => step,
            };
            Err(vec![Diagnostic::on(origin, format!("`for_each` must give a list; this is {is}"))])
        }
    }
}
