//! Merges of small made-up models, and of those in the shared folder.

mod adapters;
mod cancelling;
mod companions;
mod configurations;
mod fixtures;
mod float64;
mod forms;
mod golden;
mod hostile;
mod layers;
mod methods;
mod packed;
mod refusals;
mod runs;
mod stats;
mod tables;
mod vocabularies;
