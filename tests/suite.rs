//! Tests of the whole: the layering of the source, and the real binary on real files.

mod suite {
    pub mod layers;
    pub mod readme;
}
