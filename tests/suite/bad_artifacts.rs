//! Artifacts that are damaged, or belong to something else: one clear message that names the file and
//! the place in it, the right exit code, and what was there stays as it was.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, PrimitiveArray, UInt32Array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, UInt32Type};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;

use super::bad_input::refused;
use super::program::Workshop;

/// Runs the recipe of a new workshop.
fn finished_run() -> Workshop {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml").exits(0);
    workshop
}

const PROJECT: &str = "project --run run --teacher market --model models/market \
    --pivot-model models/pivot --out x";
const FUSE: &str = "fuse --run run --member pivot --member market --name x";
const TRAIN: &str =
    "train --run run --model models/pivot --fusion market --name x --max-steps 1 --lr 0.001";
const ALIGN: &str = "align --run run --teacher market --out x";
const MAP: &str = "map --run run --teacher market --model models/market \
    --pivot-model models/pivot --method ms --out x";
const SCORE: &str = "score --name market --model models/market --topk x --sequence-metrics y \
    --transcripts run/transcripts/template=pivot --vocab run/vocab/vocab=market \
    --tokens run/tokens/vocab=market/template=pivot";

const TOKENS: &str = "tokens/vocab=market/template=pivot";
const PIVOT_TOKENS: &str = "tokens/vocab=pivot/template=pivot";

/// Replaces the rows of a part, and leaves what its footer says; it then has no record of what was
/// written, like parts from before that was kept.
fn rewrite(part: &Path, change: impl FnOnce(RecordBatch) -> RecordBatch) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(part).unwrap()).unwrap();
    let metadata = builder.metadata().file_metadata().key_value_metadata();
    let footer = metadata.unwrap().iter().filter(|pair| pair.key == "fuselm");
    let footer = footer.cloned().collect();
    let schema = builder.schema().clone();
    let batches: Vec<RecordBatch> = builder.build().unwrap().map(Result::unwrap).collect();
    let rows = change(concat_batches(&schema, &batches).unwrap());
    let properties = WriterProperties::builder().set_key_value_metadata(Some(footer));
    let out = File::create(part).unwrap();
    let mut writer = ArrowWriter::try_new(out, rows.schema(), Some(properties.build())).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    let name = part.file_stem().unwrap().to_string_lossy();
    let _ = fs::remove_file(part.with_file_name(format!("_{name}.json")));
}

/// The rows at these places.
fn rows_at(rows: &RecordBatch, places: impl Iterator<Item = u32>) -> RecordBatch {
    take_record_batch(rows, &UInt32Array::from_iter_values(places)).unwrap()
}

/// The second row before the first.
fn swap(rows: RecordBatch) -> RecordBatch {
    rows_at(&rows, [1, 0].into_iter().chain(2..rows.num_rows() as u32))
}

/// The second row twice.
fn double(rows: RecordBatch) -> RecordBatch {
    rows_at(&rows, [0, 1].into_iter().chain(1..rows.num_rows() as u32))
}

/// An id that no vocabulary has, in the first place of the column: of numbers, or of lists.
fn strange_id(rows: RecordBatch, column: &str) -> RecordBatch {
    let at = rows.schema().index_of(column).unwrap();
    let strange = |ids: &PrimitiveArray<UInt32Type>| -> ArrayRef {
        let others = ids.values().iter().skip(1).copied();
        Arc::new(UInt32Array::from_iter_values(
            [1_000_000].into_iter().chain(others),
        ))
    };
    let array = rows.column(at);
    let changed: ArrayRef = match array.data_type() {
        DataType::List(element) => {
            let lists = array.as_list::<i32>();
            let ids = strange(lists.values().as_primitive());
            let ends = OffsetBuffer::new(lists.value_offsets().to_vec().into());
            Arc::new(ListArray::new(element.clone(), ends, ids, None))
        }
        _ => strange(array.as_primitive()),
    };
    let mut columns = rows.columns().to_vec();
    columns[at] = changed;
    RecordBatch::try_new(rows.schema(), columns).unwrap()
}

/// The command is refused with a part of an artifact of the run changed; the message has the
/// artifact's path and `words`. Nothing is left, and the part is put back.
#[track_caller]
fn refused_with(
    workshop: &Workshop,
    (artifact, part): (&str, u32),
    change: impl FnOnce(RecordBatch) -> RecordBatch,
    command: &str,
    code: i32,
    words: &[&str],
) {
    let part = format!("{artifact}/part-{part:05}.parquet");
    let path = workshop.path("run").join(&part);
    let whole = fs::read(&path).unwrap();
    rewrite(&path, change);
    let mut all = vec![artifact];
    all.extend(words);
    refused(workshop, command, code, &all);
    fs::write(&path, whole).unwrap();
    leave_nothing(workshop);
}

/// Removes the parts that were complete before the damaged one was reached.
#[track_caller]
fn leave_nothing(workshop: &Workshop) {
    for out in ["x", "y", "run/targets/fusion=x"] {
        if let Ok(files) = fs::read_dir(workshop.path(out)) {
            let is_part = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("part-");
            let parts = files.flatten().filter(|entry| is_part(&entry.file_name()));
            assert!(parts.count() < 3, "{out} is complete");
            fs::remove_dir_all(workshop.path(out)).unwrap();
        }
    }
    assert!(!workshop.path("run/checkpoints/x").exists());
}

#[test]
fn artifacts_of_another_tokenizer() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml --only corpus").exits(0);
    let score = "score --name atlas --model models/atlas --topk t --sequence-metrics s \
        --transcripts run/transcripts/template=pivot";
    // Tokens of `market` with the vocabulary of `atlas`, then both of `market` for `atlas`.
    for vocab in ["atlas", "market"] {
        let arguments = format!(
            "{score} --tokens run/tokens/vocab=market/template=pivot --vocab run/vocab/vocab={vocab}"
        );
        refused(&workshop, &arguments, 1, &["vocab", "tokenizer"]);
        assert!(!workshop.path("t").exists() && !workshop.path("s").exists());
    }
    let train = "train --model models/pivot --name x --out x --steps xs \
        --tokens run/tokens/vocab=market/template=pivot";
    refused(&workshop, train, 1, &["vocab=market", "tokenizer"]);
    assert!(!workshop.path("x").exists() && !workshop.path("xs").exists());

    // A source whose tokenizer is replaced after the corpus was made.
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let atlas = workshop.path("models/atlas").join(file);
        fs::copy(atlas, workshop.path("models/market").join(file)).unwrap();
    }
    let words = ["market", "2047", "1536"];
    refused(&workshop, "run recipe.yml", 1, &words);
}

#[test]
fn damaged_artifacts() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml").exits(0);
    let part = "run/topk/teacher=market/part-00001.parquet";
    let whole = fs::read(workshop.path(part)).unwrap();
    let fuse = "fuse --run run --member pivot --member market --name x";
    let project =
        "project --run run --teacher market --model models/market --pivot-model models/pivot";
    let project = format!("{project} --out x");
    // Without its end, with a wrong footer, empty.
    let mut footer = whole.clone();
    let at = footer.len() - 40;
    footer[at..at + 20].fill(0xff);
    let mut pages = whole.clone();
    pages[8..64].fill(0xff);
    let words = ["topk/teacher=market/part-00001.parquet"];
    for bytes in [&whole[..whole.len() / 2], &footer, &[]] {
        fs::write(workshop.path(part), bytes).unwrap();
        refused(&workshop, &project, 3, &words);
        assert!(!workshop.path("x").exists());
    }
    // Pages are only read when their turn comes.
    fs::write(workshop.path(part), &pages).unwrap();
    refused(&workshop, &project, 3, &words);
    assert!(!workshop.path("x/part-00001.parquet").exists());
    fs::remove_dir_all(workshop.path("x")).unwrap();
    fs::write(workshop.path(part), &whole[..100]).unwrap();
    refused(
        &workshop,
        "inspect run/topk/teacher=market",
        3,
        &["part-00001.parquet"],
    );
    // A part of another artifact under the name of this one.
    fs::copy(
        workshop.path("run/topk/teacher=atlas/part-00001.parquet"),
        workshop.path(part),
    )
    .unwrap();
    refused(&workshop, &project, 3, &["part-00001.parquet", "written"]);
    // The same with its record.
    for name in ["part-00001.parquet", "_part-00001.json"] {
        let from = workshop.path("run/topk/teacher=atlas").join(name);
        fs::copy(from, workshop.path("run/topk/teacher=market").join(name)).unwrap();
    }
    let words = ["part-00001.parquet", "another result"];
    refused(&workshop, &project, 1, &words);
    fs::remove_file(workshop.path(part)).unwrap();
    refused(
        &workshop,
        &project,
        1,
        &["topk/teacher=market", "part 1 is missing"],
    );
    // A run makes good what is damaged.
    fs::write(workshop.path(part), &whole[..100]).unwrap();
    workshop.fuselm("run recipe.yml").exits(0);
    assert!(fs::read(workshop.path(part)).unwrap() == whole);
    workshop.fuselm(fuse).exits(0);
}

#[test]
fn ids_beyond_a_vocabulary() {
    let workshop = finished_run();
    for (part, column, command, words) in [
        (TOKENS, "ids", SCORE, ["sample 0", "1000000"]),
        (PIVOT_TOKENS, "ids", TRAIN, ["sample 0", "1000000"]),
        (
            "topk/teacher=market",
            "id_gaps",
            PROJECT,
            ["sample 0 pos", "1000"],
        ),
        (
            "token_map/teacher=market",
            "pivot_id",
            PROJECT,
            ["source token", "1000000"],
        ),
        (
            "alignment/teacher=market",
            "source_ids",
            MAP,
            ["token 1000000", "beyond"],
        ),
        (
            "alignment/teacher=market",
            "pivot_id",
            MAP,
            ["1000000", "beyond"],
        ),
        (
            "targets/fusion=market",
            "id_gaps",
            TRAIN,
            ["sample 0 pos", "1000"],
        ),
    ] {
        refused_with(
            &workshop,
            (part, 0),
            |rows| strange_id(rows, column),
            command,
            1,
            &words,
        );
    }
}

#[test]
fn rows_that_are_not_sorted_or_come_twice() {
    let workshop = finished_run();
    for (part, command, code) in [
        (TOKENS, SCORE, 3),
        (PIVOT_TOKENS, ALIGN, 3),
        ("transcripts/template=pivot", SCORE, 1),
        ("vocab/vocab=market", SCORE, 1),
        ("topk/teacher=market", PROJECT, 3),
        ("topk/teacher=pivot", FUSE, 3),
        ("projected/teacher=market", FUSE, 3),
        ("sequence_metrics/teacher=market", FUSE, 1),
        ("alignment/teacher=market", PROJECT, 1),
        ("alignment/teacher=market", MAP, 3),
        ("token_map/teacher=market", PROJECT, 1),
        ("targets/fusion=market", TRAIN, 3),
    ] {
        let last = u32::from(!part.starts_with("vocab") && !part.starts_with("token_map"));
        for change in [swap, double] {
            refused_with(&workshop, (part, last), change, command, code, &[]);
        }
    }
}

#[test]
fn a_stored_transcript_that_is_no_utf8() {
    let workshop = finished_run();
    let name = "transcripts/template=pivot/part-00001.parquet";
    let part = workshop.path("run").join(name);
    let mut text = String::new();
    rewrite(&part, |rows| {
        text = rows.column(1).as_string::<i32>().value(1).to_owned();
        rows
    });
    // Now it is not compressed. The footer has the beginnings of texts as well.
    let inside = &text.as_bytes()[80..120];
    let mut bytes = fs::read(&part).unwrap();
    let at = bytes
        .windows(inside.len())
        .position(|window| window == inside);
    bytes[at.unwrap()] = 0xff;
    fs::write(&part, bytes).unwrap();
    refused(&workshop, SCORE, 3, &[name, "sample 9", "`text`", "UTF-8"]);
    leave_nothing(&workshop);
}

#[test]
fn an_empty_corpus() {
    let workshop = finished_run();
    for (text, words) in [
        ("", ["chat.jsonl", "no sample in 0 records"]),
        ("\n\n", ["chat.jsonl", "no sample in 0 records"]),
        ("[]", ["chat.jsonl", "no sample in 0 records"]),
    ] {
        workshop.write("chat.jsonl", text);
        refused(&workshop, "run recipe.yml", 1, &words);
        let corpus = "corpus --run other --model pivot=models/pivot --input chat.jsonl";
        refused(&workshop, corpus, 1, &words);
        assert!(!workshop.path("other/samples").exists());
    }
    // Artifacts without samples.
    refused(
        &workshop,
        "eval --model models/pivot --data chat.jsonl",
        1,
        &["chat.jsonl"],
    );
}
