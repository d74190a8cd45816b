//! The modules of fuselm that are fuzzed.
#![allow(dead_code, unused_imports)]

#[path = "../../src/error.rs"]
pub mod error;
#[path = "../../src/tensors/mod.rs"]
pub mod tensors;

#[path = "../../src/merge"]
pub mod merge {
    pub(crate) mod config;
    pub mod methods;
    mod vocabulary {
        pub mod settings;
        pub use settings::TokenizerConfig;
    }

    pub use config::MergeConfig;
}
