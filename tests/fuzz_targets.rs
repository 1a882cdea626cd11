//! The fuzz targets on their corpus and on damaged copies of it: quick, and without libFuzzer. `script/fuzz` searches
//! for inputs that reach new code.

// The targets import their macro from a crate of this name.
extern crate self as libfuzzer_sys;

use std::fs;
use std::path::Path;

use proptest::prelude::{Strategy, any, prop};
use proptest::prop_oneof;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Damaged inputs per target, the same in each run: `script/fuzz` searches for others.
const DAMAGED_INPUTS: u32 = 2000;

/// Takes what libFuzzer's macro of this name takes: a closure over bytes or a text.
#[macro_export]
macro_rules! fuzz_target {
    (|$input:ident: $kind:ty| $body:block) => {
        pub(super) fn run(bytes: &[u8]) {
            let Some($input) = <$kind as $crate::FuzzInput>::from_bytes(bytes) else { return };
            $body
        }
    };
}

trait FuzzInput<'a>: Sized {
    fn from_bytes(bytes: &'a [u8]) -> Option<Self>;
}

impl<'a> FuzzInput<'a> for &'a [u8] {
    fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        Some(bytes)
    }
}

impl<'a> FuzzInput<'a> for &'a str {
    fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        str::from_utf8(bytes).ok()
    }
}

/// A change of an input. Positions are fractions of its length.
#[derive(Clone, Debug)]
enum Damage {
    Set { at: Index, byte: u8 },
    Remove { at: Index, length: usize },
    Repeat { from: Index, length: usize, to: Index },
    Truncate { at: Index },
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let end = |start: usize, length: usize| (start + length).min(bytes.len());
        match self {
            Self::Set { at, byte } => *at.get_mut(bytes) = *byte,
            Self::Remove { at, length } => {
                let start = at.index(bytes.len());
                bytes.drain(start..end(start, *length));
            }
            Self::Repeat { from, length, to } => {
                let start = from.index(bytes.len());
                let part = bytes[start..end(start, *length)].to_vec();
                let to = to.index(bytes.len());
                bytes.splice(to..to, part);
            }
            Self::Truncate { at } => bytes.truncate(at.index(bytes.len())),
        }
    }
}

fn any_damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        6 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set { at, byte }),
        3 => (any::<Index>(), 1..64_usize).prop_map(|(at, length)| Damage::Remove { at, length }),
        3 => (any::<Index>(), 1..64_usize, any::<Index>()).prop_map(|(from, length, to)| Damage::Repeat { from, length, to }),
        1 => any::<Index>().prop_map(|at| Damage::Truncate { at }),
    ]
}

fn read_corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).expect("a folder of inputs");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an input").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("an input")).collect()
}

fn check_target(target: &str, run: fn(&[u8])) {
    let corpus = read_corpus(target);
    assert!(!corpus.is_empty(), "fuzz/corpus/{target} has no inputs");
    corpus.iter().for_each(|input| run(input));
    let damaged =
        (prop::sample::select(corpus), prop::collection::vec(any_damage(), 1..6)).prop_map(|(mut bytes, edits)| {
            edits.iter().for_each(|edit| edit.apply(&mut bytes));
            bytes
        });
    let config = Config { cases: DAMAGED_INPUTS, failure_persistence: None, ..Config::default() };
    let outcome =
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha)).run(&damaged, |input| {
            run(&input);
            Ok(())
        });
    outcome.unwrap_or_else(|error| panic!("{target}: {error}"));
}

macro_rules! check_targets {
    ($($name:ident $path:literal),* $(,)?) => {
        $(
            // As a program of its own it imports the macro, and leaves `main` to libFuzzer.
            #[allow(unused_attributes, unused_imports)]
            #[path = $path]
            mod $name;
        )*

        const TARGETS: &[&str] = &[$(stringify!($name)),*];

        mod damaged {
            $(
                #[test]
                fn $name() {
                    super::check_target(stringify!($name), super::$name::run);
                }
            )*
        }
    };
}

check_targets! {
    acl "../fuzz/fuzz_targets/acl.rs",
    aof "../fuzz/fuzz_targets/aof.rs",
    artifact "../fuzz/fuzz_targets/artifact.rs",
    dynamic_inventory "../fuzz/fuzz_targets/dynamic_inventory.rs",
    frames "../fuzz/fuzz_targets/frames.rs",
    inventory "../fuzz/fuzz_targets/inventory.rs",
    playbook "../fuzz/fuzz_targets/playbook.rs",
    rdb "../fuzz/fuzz_targets/rdb.rs",
    recipe "../fuzz/fuzz_targets/recipe.rs",
    redis_conf "../fuzz/fuzz_targets/redis_conf.rs",
    shard_map "../fuzz/fuzz_targets/shard_map.rs",
}

#[test]
fn all_targets_are_checked() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.map(|name| name.trim_end_matches(".rs").to_owned()).collect();
    names.sort();
    assert_eq!(names, TARGETS);
}
