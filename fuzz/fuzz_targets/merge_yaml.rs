//! Merge configurations: whatever the text, an error or a configuration whose parameters can be
//! looked up.
#![no_main]

use std::path::Path;

use fuselm_fuzz::merge::MergeConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(config) = MergeConfig::from_yaml(text, Path::new("")) {
        let slices = config.slices.iter();
        let levels = slices.flat_map(|slice| {
            let sources = slice.sources.iter().map(|source| &source.parameters);
            sources.chain([&slice.parameters])
        });
        for (_, setting) in levels.chain([&config.parameters]).flatten() {
            for t in [0.0, 0.3, 1.0] {
                setting.at("model.layers.1.mlp.down_proj.weight", t);
            }
        }
    }
});
