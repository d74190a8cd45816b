//! Models with different tokenizers are merged into one that works.

use std::fs;

use super::program::{Workshop, data_samples, tiny_model};

#[test]
fn a_union_of_two_tokenizers_is_a_model_that_works() {
    let workshop = Workshop::new();
    let atlas = tiny_model(&data_samples().join("models/atlas"), 2);
    atlas.save(&workshop.path("other"), 7);
    let config = |tokenizer: &str| {
        format!(
            "merge_method: ties\nbase_model: models/pivot\nmodels:\n  - {{ model: other, \
             parameters: {{ weight: 0.5, density: 0.5 }} }}\n{tokenizer}"
        )
    };
    workshop.write("merge.yml", &config(""));
    workshop.fuselm("merge merge.yml merged").exits(1).says(&[
        "[2048, 32]",
        "[1024, 32]",
        "tokenizer_source",
    ]);
    let union = "tokenizer: { source: union, pad_to_multiple_of: 64, \
                 tokens: { <|tool|>: { source: { kind: zero } } } }\n";
    workshop.write("merge.yml", &config(union));
    let plan = workshop.fuselm("merge merge.yml merged --dry-run").exits(0);
    for part in [
        "1,024 of `models/pivot`",
        "more of `other`",
        "1 more of `tokens`",
    ] {
        assert!(plan.stdout.contains(part), "{}", plan.stdout);
    }
    workshop.fuselm("merge merge.yml merged").exits(0);
    for arguments in [
        "generate --model merged --prompt Hello --max-new-tokens 4",
        "eval --model merged --data v=valid.jsonl --json",
    ] {
        assert!(!workshop.fuselm(arguments).exits(0).stdout.is_empty());
    }
    // The same bytes from one thread and small chunks.
    let other = "merge merge.yml again --threads 1 --chunk 65536";
    workshop.fuselm(other).exits(0);
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        let bytes = |folder: &str| fs::read(workshop.path(folder).join(name)).unwrap();
        assert!(bytes("merged") == bytes("again"), "{name} differs");
    }
}
