//! The modules of fuselm that are fuzzed.
#![allow(dead_code, unused_imports)]

#[path = "../../src/error.rs"]
pub mod error;
#[path = "../../src/progress.rs"]
pub mod progress;
#[path = "../../src/tensors/mod.rs"]
pub mod tensors;
#[path = "../../src/units.rs"]
pub mod units;

#[path = "../../src/files"]
pub mod files {
    mod yaml;

    pub use yaml::read_yaml;
}

#[path = "../../src/lora"]
pub mod lora {
    mod split;

    pub use split::split;
}

#[path = "../../src/merge"]
pub mod merge {
    mod arithmetic;
    mod config;
    pub mod methods;

    pub use config::MergeConfig;
}
