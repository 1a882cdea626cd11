//! The units, configuration files and the health check of a recipe that only some of its hosts have.

use crate::deploy::recipe::{PartSelector, Recipe};
use crate::inventory::{Diagnostic, Diagnostics, Inventory, Selector, SourceFile};

/// Removes from a recipe what `hosts` of its units, configuration files and health check keep from a host.
pub fn select_parts(
    recipe: &Recipe,
    host: &str,
    inventory: &Inventory,
    file: &SourceFile,
    found: &mut Diagnostics,
) -> Recipe {
    let mut is_selected = |selector: Option<&PartSelector>| {
        selector.is_none_or(|selector| {
            is_selected_host(selector, host, inventory).unwrap_or_else(|error| {
                found.push(Diagnostic::error_at_span(file, selector.span.clone(), error));
                false
            })
        })
    };
    let mut own = recipe.clone();
    own.units.retain(|unit| is_selected(unit.hosts.as_ref()));
    own.configs.retain(|config| is_selected(config.hosts.as_ref()));
    if !is_selected(own.health_hosts.as_ref()) {
        own.health.probe = None;
    }
    own
}

fn is_selected_host(selector: &PartSelector, host: &str, inventory: &Inventory) -> Result<bool, String> {
    let parsed = selector.text.parse::<Selector>().map_err(|error| error.to_string())?;
    let hosts = inventory.select_hosts(&parsed).map_err(|error| error.to_string())?;
    Ok(hosts.iter().any(|selected| selected.name == host))
}
