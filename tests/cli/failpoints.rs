//! Failpoints are for tests: no program that is shipped has them.

use std::path::Path;

/// The variable that names a failpoint; in two parts, so that this file is not found by a search for it.
const VARIABLE: &str = concat!("DUNLIN_CRASH", "_AT");

#[test]
fn only_the_build_for_tests_has_failpoints() {
    let has_failpoints = |program: &Path| {
        let bytes = std::fs::read(program).unwrap();
        bytes.windows(VARIABLE.len()).any(|part| part == VARIABLE.as_bytes())
    };
    // Proves that a search of the program's bytes finds them where they are.
    assert!(has_failpoints(Path::new(env!("CARGO_BIN_EXE_dunlin"))));
    // The program for the hosts, where script/test has made one.
    if let Some(program) = std::env::var_os("DUNLIN_BIN") {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(program);
        assert!(!has_failpoints(&program), "{} has failpoints", program.display());
    }
}

#[test]
fn nothing_but_tests_asks_for_failpoints() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    let features = manifest["features"].as_table().unwrap();
    assert_eq!(
        features.keys().collect::<Vec<_>>(),
        ["failpoints"],
        "another feature, or a default, could switch it on"
    );
    let parts = |name: &str| {
        manifest[name].as_table().unwrap().iter().map(|(name, of)| format!("{name} {of}")).collect::<Vec<String>>()
    };
    let all: Vec<String> = [parts("dependencies"), parts("dev-dependencies"), parts("workspace")].concat();
    let asking: Vec<&String> = all.iter().filter(|part| part.contains("failpoints")).collect();
    assert!(matches!(asking[..], [one] if one.starts_with("dunlin ")), "{asking:?}");
    assert!(manifest["dependencies"].get("dunlin").is_none());
}
