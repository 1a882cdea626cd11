//! Loops and conditions: a step of the playbook becomes as many steps of a catalog as it has items on that host.

use serde_json::Value as Json;
use tera::Context;

use super::decoys::TaintedContext;
use super::model::{LocatedValue, PlaybookStep, ValueTemplate};
use super::template_string::TemplateStrings;
use super::value_template;
use crate::inventory::{Diagnostic, Diagnostics, Origin};

/// A step for one host and one item.
pub(super) struct StepInstance<'p> {
    pub step: &'p PlaybookStep,
    /// The play's context with `item` in it.
    pub context: TaintedContext,
    pub name: Option<String>,
    /// The name with decoys in place of secrets.
    pub decoy_name: Option<String>,
    pub notify: Vec<NotifyRef>,
    /// The number of its item, from 1.
    pub item_number: Option<usize>,
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
    context: &TaintedContext,
    found: &mut Diagnostics,
) -> Vec<StepInstance<'p>> {
    let items = match &step.for_each {
        None => vec![None],
        Some(list) => match evaluate_tainted_items(list, strings, context, &step.origin) {
            Ok(items) => items.into_iter().map(Some).collect(),
            Err(wrong) => {
                wrong.into_iter().for_each(|diagnostic| found.push(diagnostic));
                return Vec::new();
            }
        },
    };
    let mut instances = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let mut context = context.clone();
        let number = item.is_some().then_some(index + 1);
        if let Some((item, decoy)) = item {
            context.insert("item", &item, decoy.as_ref());
        }
        match build_instance(step, strings, context) {
            Ok(instance) => instances.push(StepInstance { item_number: number, ..instance }),
            Err(wrong) => wrong.into_iter().for_each(|diagnostic| found.push(diagnostic)),
        }
    }
    instances
}

fn build_instance<'p>(
    step: &'p PlaybookStep,
    strings: &TemplateStrings,
    context: TaintedContext,
) -> Result<StepInstance<'p>, Vec<Diagnostic>> {
    let runs = context
        .evaluate(|context| step.when.as_ref().map_or(Ok(true), |when| strings.evaluate_condition(when, context)))?;
    let text = |text| context.evaluate(|context| strings.evaluate_text(text, context));
    let name = step.name.as_ref().map(text).transpose()?;
    let with_decoys = |decoy| strings.evaluate_text(step.name.as_ref()?, decoy).ok();
    let decoy_name = context.decoy.as_ref().map_or_else(|| name.clone(), with_decoys);
    let notify = step.notify.iter().map(|name| Ok(NotifyRef { name: text(name)?, origin: name.origin.clone() }));
    let notify = notify.collect::<Result<_, Vec<Diagnostic>>>()?;
    Ok(StepInstance { step, context, name, decoy_name, notify, item_number: None, is_selected: runs })
}

/// Returns the items of a loop, each with its value with decoys.
fn evaluate_tainted_items(
    list: &LocatedValue,
    strings: &TemplateStrings,
    context: &TaintedContext,
    step: &Origin,
) -> Result<Vec<(Json, Option<Json>)>, Vec<Diagnostic>> {
    let real = context.evaluate(|context| evaluate_items(list, strings, context, step))?;
    let Some(decoy) = &context.decoy else { return Ok(real.into_iter().map(|item| (item, None)).collect()) };
    match evaluate_items(list, strings, decoy, step) {
        Ok(decoys) if decoys.len() == real.len() => Ok(real.into_iter().zip(decoys.into_iter().map(Some)).collect()),
        _ => Err(vec![
            Diagnostic::error_at(step, "the number of items of `for_each` depends on the value of a secret")
                .with_help("every plan would show it; use a variable"),
        ]),
    }
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
