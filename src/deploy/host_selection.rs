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
        // The units that the check asks listen on them.
        own.ports = None;
    }
    own
}

fn is_selected_host(selector: &PartSelector, host: &str, inventory: &Inventory) -> Result<bool, String> {
    let parsed = selector.text.parse::<Selector>().map_err(|error| error.to_string())?;
    let hosts = inventory.select_hosts(&parsed).map_err(|error| error.to_string())?;
    Ok(hosts.iter().any(|selected| selected.name == host))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const RECIPE: &str = r#"
service = "shop"
hosts = "all"
root = "/srv/shop"
ports = [80, 9100]
[[unit]]
name = "web.service"
src = "web.service"
hosts = "web"
[[unit]]
name = "worker.service"
src = "worker.service"
hosts = "worker"
[[unit]]
name = "both.timer"
src = "both.timer"
[[config]]
src = "worker.env"
dest = "/etc/worker.env"
hosts = "worker"
[health]
tcp = "127.0.0.1:80"
hosts = "web"
"#;
    const INVENTORY: &str = r#"
[groups.web]
hosts = ["a"]
[groups.worker]
hosts = ["b"]
[hosts.a]
address = "192.0.2.1"
[hosts.b]
address = "192.0.2.2"
"#;

    fn select(recipe: &str, host: &str) -> (Recipe, Diagnostics) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("hosts.toml"), INVENTORY).unwrap();
        let inventory = Inventory::load_folder(folder.path()).inventory.unwrap();
        let file = SourceFile::new("deploy-shop.toml", recipe);
        let mut found = Diagnostics::new();
        let own = select_parts(&Recipe::parse(recipe).unwrap(), host, &inventory, &file, &mut found);
        (own, found)
    }

    #[test]
    fn a_host_has_the_parts_of_its_roles() {
        let parts = |host: &str| {
            let (recipe, found) = select(RECIPE, host);
            assert!(!found.has_errors());
            let ports = recipe.listen_ports();
            let units: Vec<String> = recipe.units.into_iter().map(|unit| unit.name).collect();
            (units.join(" "), recipe.configs.len(), recipe.health.probe.is_some(), ports)
        };
        assert_eq!(parts("a"), ("web.service both.timer".to_owned(), 0, true, vec![80, 9100]));
        assert_eq!(parts("b"), ("worker.service both.timer".to_owned(), 1, false, Vec::new()));
    }

    #[test]
    fn an_unknown_group_is_an_error_at_its_table() {
        let (_, found) = select(&RECIPE.replace("hosts = \"web\"\n[[unit]]", "hosts = \"wbe\"\n[[unit]]"), "a");
        let text = found.render(false);
        assert!(text.contains("wbe") && text.contains("deploy-shop.toml:6"), "{text}");
    }
}
