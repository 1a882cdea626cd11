use super::health::DEFAULT_HEALTH_INTERVAL_MS;
use super::*;
use crate::protocol::deploy::TaskPhase;

const VALID_RECIPE: &str = r#"
service = "timeline"
hosts   = "app"
root    = "/srv/timeline"
keep_releases = 3
batches = ["1", "25%", "100%"]
rollback_batches = ["50%"]
user    = "timeline"

[[file]]
source = "target/release/timeline-api"
dest = "bin/timeline-api"
mode = "0755"

[[file]]
source = "keys"
dest = "keys"
mode = "0600"
owner = "timeline"

[[unit]]
name = "timeline-api.service"
src = "timeline/timeline-api.service"

[[unit]]
name = "timeline-api.socket"
src = "timeline/timeline-api.socket"

[[config]]
src = "timeline/timeline.env"
dest = "/etc/timeline/timeline.env"
owner = "timeline"
sensitive = true

[health]
http = "http://127.0.0.1:8080/readyz"
timeout = "10s"

[[task]]
name = "migrate"
command = ["bin/timeline-api", "migrate"]
run = "before_switch"

[hooks]
before_switch = ["systemctl stop lb-check", ["sleep", "1"]]
"#;

#[test]
fn a_recipe_is_parsed_with_defaults() {
    let recipe = Recipe::parse(VALID_RECIPE).unwrap();
    assert_eq!((recipe.service.as_str(), recipe.keep_releases), ("timeline", 3));
    assert_eq!(&VALID_RECIPE[recipe.host_selector_span.clone()], "\"app\"");
    assert_eq!(recipe.batches, [BatchSize::Count(1), BatchSize::Percent(25), BatchSize::Percent(100)]);
    assert_eq!(recipe.rollback_batches, [BatchSize::Percent(50)]);
    assert_eq!(recipe.units.iter().map(|unit| unit.restart).collect::<Vec<_>>(), [true, false]);
    let owners: Vec<_> =
        recipe.files.iter().map(|file| file.owner.as_ref().map(|owner| (&*owner.user, &*owner.group))).collect();
    assert_eq!(owners, [None, Some(("timeline", "timeline"))]);
    let config = &recipe.configs[0];
    assert_eq!((config.mode, config.group.as_str()), (0o600, "timeline"));
    let with_group = VALID_RECIPE.replace("owner = \"timeline\"\nsensitive", "group = \"timeline\"\nsensitive");
    let config = &Recipe::parse(&with_group).unwrap().configs[0];
    assert_eq!((config.mode, config.owner.as_str()), (0o640, "root"));
    assert_eq!((recipe.health.timeout_ms, recipe.health.interval_ms), (10_000, DEFAULT_HEALTH_INTERVAL_MS));
    assert_eq!(recipe.tasks[0].phase, TaskPhase::BeforeSwitch);
    assert_eq!(recipe.hooks.before[0], ["/bin/sh", "-c", "systemctl stop lb-check"]);
}

#[test]
fn all_errors_are_reported_at_once_with_positions() {
    let text = VALID_RECIPE
        .replace("\"/srv/timeline\"", "\"srv/../timeline\"")
        .replace("keep_releases = 3", "keep_releases = 0\nhostz = 1")
        .replace("mode = \"0755\"", "mode = 755")
        .replace("timeline-api.socket\"\nsrc", "../x.service\"\nsrc")
        .replace("http://127", "https://127")
        .replace("dest = \"/etc/timeline", "dest = \"etc/timeline");
    let errors = Recipe::parse(&text).unwrap_err();
    assert_eq!(errors.len(), 7, "{errors:#?}");
    let shown = errors.iter().map(|error| {
        let place = text.get(error.span.clone()).unwrap();
        (
            place,
            [Some(error.message.as_str()), error.help.as_deref()]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("\nhelp: "),
        )
    });
    crate::messages::check("recipe-mistakes", shown);
}

#[test]
fn missing_keys_are_named() {
    let errors = Recipe::parse("keep_releases = 1").unwrap_err();
    assert_eq!(errors.len(), 3, "{errors:?}");
    crate::messages::check("recipe-missing-keys", errors.iter().map(|error| ("missing", &error.message)));
}

#[test]
fn a_toml_syntax_error_has_a_position() {
    let errors = Recipe::parse("service = \n").unwrap_err();
    assert!(!errors.is_empty() && errors[0].span.start <= 11, "{errors:?}");
}
