//! The files of `sql/` as parts of the program; a test walks the folder and compares.

use super::catalogue::Group;

/// Folder, file name without `.sql`, text.
#[rustfmt::skip]
pub(super) const FILES: &[(Group, &str, &str)] = &[
    (Group::Tables, "alignment", include_str!("../../sql/tables/alignment.sql")),
    (Group::Tables, "eval_items", include_str!("../../sql/tables/eval_items.sql")),
    (Group::Tables, "merge_stats", include_str!("../../sql/tables/merge_stats.sql")),
    (Group::Tables, "models", include_str!("../../sql/tables/models.sql")),
    (Group::Tables, "projected", include_str!("../../sql/tables/projected.sql")),
    (Group::Tables, "samples", include_str!("../../sql/tables/samples.sql")),
    (Group::Tables, "sequence_metrics", include_str!("../../sql/tables/sequence_metrics.sql")),
    (Group::Tables, "steps", include_str!("../../sql/tables/steps.sql")),
    (Group::Tables, "targets", include_str!("../../sql/tables/targets.sql")),
    (Group::Tables, "token_map", include_str!("../../sql/tables/token_map.sql")),
    (Group::Tables, "tokens", include_str!("../../sql/tables/tokens.sql")),
    (Group::Tables, "topk", include_str!("../../sql/tables/topk.sql")),
    (Group::Tables, "transcripts", include_str!("../../sql/tables/transcripts.sql")),
    (Group::Tables, "vocab", include_str!("../../sql/tables/vocab.sql")),
    (Group::Transforms, "token_map", include_str!("../../sql/transforms/token_map.sql")),
];
