//! Merge configurations: whatever the text, an error or a configuration.
#![no_main]

use std::path::Path;

use fuselm::merge::MergeConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = MergeConfig::from_yaml(text, Path::new(""));
});
