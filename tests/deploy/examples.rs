//! The recipe and templates that dunlin ships: read, rendered, and of a form that systemd takes.

use std::fs;
use std::path::{Path, PathBuf};

use dunlin::deploy::recipe::Recipe;

fn repository_root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn timeline_recipe() -> Recipe {
    let text = fs::read_to_string(repository_root().join("playbooks/deploy-timeline.toml")).unwrap();
    Recipe::parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

fn render_template(src: &Path) -> String {
    let template = fs::read_to_string(repository_root().join("templates").join(src)).unwrap();
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
fn the_timeline_recipe_renders() {
    let recipe = timeline_recipe();
    assert_eq!(recipe.service.as_str(), "timeline");
    assert!(recipe.health.probe.is_some());
    for src in recipe.units.iter().map(|unit| &unit.src).chain(recipe.configs.iter().map(|config| &config.src)) {
        let text = render_template(src);
        assert!(!text.contains("{{") && !text.contains("{%"), "{text}");
    }
}

#[test]
fn units_start_shipped_binaries() {
    let recipe = timeline_recipe();
    let shipped: Vec<String> =
        recipe.files.iter().map(|file| format!("{}/current/{}", recipe.root.display(), file.dest)).collect();
    for unit in recipe.units.iter().filter(|unit| unit.name.ends_with(".service")) {
        let text = render_template(&unit.src);
        let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("it starts something");
        let program = start.split_ascii_whitespace().next().unwrap();
        assert!(shipped.iter().any(|path| path == program), "{program} is not among {shipped:?}");
    }
}
