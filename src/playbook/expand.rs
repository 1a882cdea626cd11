//! Loops and conditions: a step of the playbook becomes as many steps of a catalog as it has items on that host.

use serde_json::Value as Json;
use tera::{Context, Value};

use super::model::{LocatedValue, PlaybookStep, ValueTemplate};
use super::template_string::TemplateStrings;
use super::value_template;
use crate::inventory::{Diagnostic, Diagnostics, Origin};

/// A step for one host and one item.
pub(super) struct StepInstance<'p> {
    pub step: &'p PlaybookStep,
    /// The play's context with `item` in it.
    pub context: Context,
    pub name: Option<String>,
    pub notify: Vec<NotifyRef>,
    /// The condition is true. An instance that does not run is only needed for its name.
    pub is_selected: bool,
}

/// A handler's name as a step gives it.
pub(super) struct NotifyRef {
    pub name: String,
    pub origin: Origin,
}

/// Expands a step to its instances, in the order of its items.
pub(super) fn expand_step<'p>(
    step: &'p PlaybookStep,
    strings: &TemplateStrings,
    context: &Context,
    found: &mut Diagnostics,
) -> Vec<StepInstance<'p>> {
    let items = match &step.for_each {
        None => vec![None],
        Some(list) => match evaluate_items(list, strings, context, &step.origin) {
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
        match build_instance(step, strings, context) {
            Ok(instance) => instances.push(instance),
            Err(wrong) => wrong.into_iter().for_each(|diagnostic| found.push(diagnostic)),
        }
    }
    instances
}

fn build_instance<'p>(
    step: &'p PlaybookStep,
    strings: &TemplateStrings,
    context: Context,
) -> Result<StepInstance<'p>, Vec<Diagnostic>> {
    let runs = step.when.as_ref().map_or(Ok(true), |when| strings.evaluate_condition(when, &context))?;
    let name = step.name.as_ref().map(|name| strings.evaluate_text(name, &context)).transpose()?;
    let notify = step.notify.iter().map(|text| {
        let name = strings.evaluate_text(text, &context)?;
        Ok(NotifyRef { name, origin: text.origin.clone() })
    });
    let notify = notify.collect::<Result<_, Vec<Diagnostic>>>()?;
    Ok(StepInstance { step, context, name, notify, is_selected: runs })
}

fn evaluate_items(
    list: &LocatedValue,
    strings: &TemplateStrings,
    context: &Context,
    step: &Origin,
) -> Result<Vec<Json>, Vec<Diagnostic>> {
    match value_template::evaluate_value(list, strings, context)? {
        Json::Array(items) => Ok(items),
        other => {
            let is = match other {
                Json::String(_) => "a string",
                Json::Number(_) => "a number",
                Json::Bool(_) => "a boolean",
                Json::Object(_) => "a table",
                _ => "nothing",
            };
            let origin = match &list.value {
                ValueTemplate::Text(text) => &text.origin,
                _ => step,
            };
            Err(vec![Diagnostic::error_at(origin, format!("`for_each` must give a list; this is {is}"))])
        }
    }
}
