//! Distributions leave as plain Parquet and come back from the formats of other programs.

use std::fs::File;

use arrow::array::AsArray;
use arrow::datatypes::{Float32Type, UInt32Type};
use fuselm::artifact::{Artifact, Kind, tokens::read_part};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value, json};

use super::program::{Workshop, files, parts};
use super::rows::all_rows;

/// Writes what `export` left as JSONL of vLLM's log-probabilities, one line a sample.
pub fn as_vllm(workshop: &Workshop, exported: &str) -> Vec<String> {
    let tokens = workshop.path("run/tokens/vocab=market/template=pivot");
    let tokens = Artifact::open(&tokens, Kind::Tokens).unwrap();
    let mut lines = Vec::new();
    for (part, path) in tokens.parts().iter().zip(files(&workshop.path(exported))) {
        let samples = read_part(part).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap());
        let reader = reader.unwrap().with_batch_size(1).build().unwrap();
        for (sample, row) in samples.iter().zip(reader) {
            let row = row.unwrap();
            let list = |name: &str| row.column_by_name(name).unwrap().as_list::<i32>().value(0);
            let (positions, own) = (list("positions"), list("target_logprobs"));
            let own = own.as_primitive::<Float32Type>();
            let (ids, logprobs) = (list("ids"), list("logprobs"));
            let mut entries: Vec<Value> = vec![Value::Null];
            entries.extend(sample.ids[1..].iter().map(|id| {
                // Where nothing is supervised, only the token itself.
                json!({ id.to_string(): { "logprob": -1.0, "rank": 9 } })
            }));
            for (at, pos) in positions
                .as_primitive::<UInt32Type>()
                .values()
                .iter()
                .enumerate()
            {
                let ids = ids.as_list::<i32>().value(at);
                let logprobs = logprobs.as_list::<i32>().value(at);
                let ids = ids.as_primitive::<UInt32Type>().values();
                let logprobs = logprobs.as_primitive::<Float32Type>().values();
                assert!(logprobs.is_sorted_by(|a, b| a >= b));
                let mut entry = Map::new();
                for (rank, (id, logprob)) in ids.iter().zip(logprobs).enumerate() {
                    let value = json!({ "logprob": logprob, "rank": rank + 1 });
                    entry.insert(id.to_string(), value);
                }
                let next = sample.ids[*pos as usize + 1];
                // In a list, the token's own log-probability would take its place.
                if !ids.contains(&next) {
                    let value = json!({ "logprob": own.value(at), "rank": 99 });
                    entry.insert(next.to_string(), value);
                }
                entries[*pos as usize + 1] = entry.into();
            }
            let line = json!({ "prompt_token_ids": sample.ids, "prompt_logprobs": entries });
            lines.push(line.to_string());
        }
    }
    lines
}

#[test]
fn what_is_exported_can_be_imported() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml").exits(0);
    workshop
        .fuselm("export --run run --name market --out plain")
        .exits(0);
    workshop
        .fuselm("export --run run --name market --out plain")
        .exits(2)
        .says(&["plain/part-00000.parquet", "--force"]);
    let lines = as_vllm(&workshop, "plain");
    assert_eq!(lines.len(), 24);
    workshop.write("market.jsonl", &lines.join("\n"));
    let import = "import --run run --name again --tokenizer models/market --format vllm --from";
    workshop
        .fuselm(&format!("{import} market.jsonl"))
        .exits(0)
        .says(&["24 samples"]);
    let parts = |name: &str| parts(&workshop.path("run/topk").join(name));
    let before = parts("teacher=market");
    let after = parts("teacher=again");
    assert_eq!((before.len(), after.len()), (3, 3));
    for (before, after) in before.iter().zip(&after) {
        let (before, after) = (all_rows(before), all_rows(after));
        for name in ["sample_id", "pos", "id_gaps", "base_level", "levels"] {
            let (a, b) = (before.column_by_name(name), after.column_by_name(name));
            assert!(a.unwrap() == b.unwrap(), "`{name}` differs");
        }
    }
    workshop.fuselm("check run").exits(0);

    // In another order the samples are the same.
    let mut swapped = lines.clone();
    swapped.swap(20, 21);
    swapped.swap(0, 23);
    workshop.write("swapped.jsonl", &swapped.join("\n"));
    workshop
        .fuselm("import --run run --name swapped --tokenizer models/market --format vllm --from swapped.jsonl")
        .exits(0)
        .says(&["24 samples", "another order"]);
    workshop.has_no_leftovers();
    let again = parts("teacher=swapped");
    assert_eq!(again.len(), after.len());
    for (a, b) in again.iter().zip(&after) {
        assert!(all_rows(a) == all_rows(b), "{} differs", a.display());
    }
    workshop.fuselm("check run").exits(0);

    // Another tokenizer, a sample less or more: the last part is not written.
    let import = "import --run run --name other --tokenizer models/market --format vllm --from";
    let refused = |lines: &[String], words: &[&str]| {
        workshop.write("bad.jsonl", &lines.join("\n"));
        workshop
            .fuselm(&format!("{import} bad.jsonl --force"))
            .exits(1)
            .says(words);
        workshop.has_no_leftovers();
        assert!(
            !workshop
                .path("run/topk/teacher=other/part-00002.parquet")
                .exists()
        );
    };
    refused(
        &lines[..23],
        &[
            "bad.jsonl: has 23 samples",
            "has 24: none has the tokens of sample 23",
        ],
    );
    let mut more = lines.clone();
    more.insert(3, lines[7].clone());
    refused(&more, &["bad.jsonl line 9", "more often than the corpus"]);
    let twin = import.replace("models/market", "models/twin");
    workshop
        .fuselm(&format!("{twin} market.jsonl --force"))
        .exits(1)
        .says(&["market.jsonl line 1", "sample 0"]);
}
