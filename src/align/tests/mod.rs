mod by_offsets;
mod native_templates;
mod stage;
mod warping;
