//! The recipe and templates that dunlin ships: read, rendered, and of a form that systemd takes.

use std::fs;
use std::path::{Path, PathBuf};

use dunlin::deploy::recipe::Recipe;

fn base() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn recipe() -> Recipe {
    let text = fs::read_to_string(base().join("playbooks/deploy-timeline.toml")).unwrap();
    Recipe::parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn render(src: &Path) -> String {
    let template = fs::read_to_string(base().join("templates").join(src)).unwrap();
    let mut context = tera::Context::new();
    context
        .insert("host", &serde_json::json!({"name": "app-1", "address": "10.99.0.21", "zone": "a", "groups": ["app"]}));
    context.insert("service", "timeline");
    context.insert("release", &serde_json::json!({"version": "1.0", "root": "/srv/timeline"}));
    context.insert("facts", &serde_json::json!({"cpus": 2}));
    context.insert("secrets", &serde_json::json!({}));
    tera::Tera::default()
        .render_str(&template, &context, false)
        .unwrap_or_else(|error| panic!("{}: {error:?}", src.display()))
}

#[test]
fn the_timeline_recipe_is_whole_and_its_templates_render() {
    let recipe = recipe();
    assert_eq!(recipe.service.as_str(), "timeline");
    assert!(recipe.health.probe.is_some());
    for src in recipe.units.iter().map(|unit| &unit.src).chain(recipe.configs.iter().map(|config| &config.src)) {
        let text = render(src);
        assert!(!text.contains("{{") && !text.contains("{%"), "{text}");
    }
}

#[test]
fn the_units_start_what_the_recipe_ships() {
    let recipe = recipe();
    let shipped: Vec<String> =
        recipe.files.iter().map(|file| format!("{}/current/{}", recipe.root.display(), file.dest)).collect();
    for unit in recipe.units.iter().filter(|unit| unit.name.ends_with(".service")) {
        let text = render(&unit.src);
        let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("it starts something");
        let program = start.split_ascii_whitespace().next().unwrap();
        assert!(shipped.iter().any(|path| path == program), "{program} is not among {shipped:?}");
    }
}
