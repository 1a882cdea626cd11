//! The recipe and templates that dunlin ships: read, rendered, and of a form that systemd takes.

use std::fs;
use std::path::{Path, PathBuf};

use dunlin::deploy::recipe::Recipe;

fn repository_root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The shipped recipes: the whole timeline service, and its mode without Postgres.
fn shipped_recipes() -> [Recipe; 2] {
    ["deploy-timeline.toml", "deploy-timeline-entries.toml"].map(|name| {
        let text = fs::read_to_string(repository_root().join("playbooks").join(name)).unwrap();
        Recipe::parse(&text).unwrap_or_else(|errors| panic!("{name}: {errors:#?}"))
    })
}

/// Renders a template for a service whose folder is `root`.
fn render_template(src: &Path, root: &Path) -> String {
    let template = fs::read_to_string(repository_root().join("templates").join(src)).unwrap();
    let mut context = tera::Context::new();
    context
        .insert("host", &serde_json::json!({"name": "app-1", "address": "10.99.0.21", "zone": "a", "groups": ["app"]}));
    context.insert("service", "timeline");
    context.insert("release", &serde_json::json!({"version": "1.0", "root": root}));
    context.insert("facts", &serde_json::json!({"cpus": 2}));
    context.insert("secrets", &serde_json::json!({}));
    tera::Tera::default()
        .render_str(&template, &context, false)
        .unwrap_or_else(|error| panic!("{}: {error:?}", src.display()))
}

#[test]
fn recipes_render() {
    for recipe in shipped_recipes() {
        assert!(recipe.health.probe.is_some());
        for src in recipe.units.iter().map(|unit| &unit.src).chain(recipe.configs.iter().map(|config| &config.src)) {
            let text = render_template(src, &recipe.root);
            assert!(!text.contains("{{") && !text.contains("{%"), "{text}");
        }
    }
}

#[test]
fn units_start_shipped_binaries() {
    for recipe in shipped_recipes() {
        let shipped: Vec<String> =
            recipe.files.iter().map(|file| format!("{}/current/{}", recipe.root.display(), file.dest)).collect();
        for unit in recipe.units.iter().filter(|unit| unit.name.ends_with(".service")) {
            let text = render_template(&unit.src, &recipe.root);
            let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("it starts something");
            let program = start.split_ascii_whitespace().next().unwrap();
            assert!(shipped.iter().any(|path| path == program), "{program} is not among {shipped:?}");
        }
    }
}

/// The exposure of each shipped service, as systemd rates it: 0 is the least, 10 the most.
#[test]
fn units_are_hardened() {
    const THRESHOLD: &str = "--threshold=20";
    let folder = tempfile::tempdir().unwrap();
    let mut units = vec![("redis-shard@.service".to_owned(), PathBuf::from("redis/redis-shard@.service"))];
    for recipe in shipped_recipes() {
        let services = recipe.units.iter().filter(|unit| unit.name.ends_with(".service"));
        units.extend(services.map(|unit| (unit.name.clone(), unit.src.clone())));
    }
    assert_eq!(units.len(), 4, "{units:?}");
    for (name, src) in units {
        let path = folder.path().join(&name);
        fs::write(&path, render_template(&src, Path::new("/srv/service"))).unwrap();
        let analysis = std::process::Command::new("systemd-analyze")
            .args(["security", "--no-pager", "--offline=true", THRESHOLD])
            .arg(&path)
            .output()
            .expect("systemd-analyze runs");
        let text = String::from_utf8_lossy(&analysis.stdout).into_owned();
        assert!(analysis.status.success(), "{name}: {text}{}", String::from_utf8_lossy(&analysis.stderr));
        assert!(text.contains("Overall exposure level"), "{name}: {text}");
    }
}
