//! Recipes of a deploy.
#![no_main]

use dunlin::deploy::recipe::Recipe;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(errors) = Recipe::parse(text) {
        assert!(!errors.is_empty(), "a recipe is rejected without a reason");
    }
});
