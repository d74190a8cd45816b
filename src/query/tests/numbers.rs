//! What people compute with whole numbers: they are signed, and `/` is exact.

use arrow::datatypes::{DataType, SchemaRef};

use super::fixture::*;
use super::*;

/// Names of the columns that are unsigned, or hold something that is.
fn unsigned(schema: &SchemaRef) -> Vec<String> {
    fn holds(data_type: &DataType) -> bool {
        match data_type {
            DataType::List(item) | DataType::LargeList(item) => holds(item.data_type()),
            DataType::Struct(fields) => fields.iter().any(|field| holds(field.data_type())),
            DataType::Dictionary(_, values) => holds(values),
            other => other.is_unsigned_integer(),
        }
    }
    let fields = schema.fields().iter();
    let found = fields.filter(|field| holds(field.data_type()));
    found.map(|field| field.name().clone()).collect()
}

fn with_run(test: impl FnOnce(&Session)) {
    let dir = tempfile::tempdir().unwrap();
    write_run(&RunDir::new(dir.path()));
    test(&session(dir.path()));
}

fn sql(session: &Session, statement: &str, pairs: &[(&str, &str)]) -> Vec<String> {
    rows(session.stream(statement, &params(pairs)).unwrap())
}

#[test]
fn no_column_is_unsigned() {
    with_run(|s| {
        for table in s.tables() {
            let all = format!("SELECT * FROM {table}");
            let found = s.stream(&all, &Params::new()).unwrap();
            assert_eq!(unsigned(&found.schema()), [""; 0], "{table}");
            // The values arrive in these types too.
            for batch in found {
                assert_eq!(unsigned(&batch.unwrap().schema()), [""; 0], "{table}");
            }
        }
        for query in s.catalogue().group(Group::Queries) {
            let found = s.stream_script(query, &Params::new()).unwrap();
            assert_eq!(unsigned(&found.schema()), [""; 0], "{}", query.name);
        }
    });
}

#[test]
fn differences_may_be_negative() {
    with_run(|s| {
        let tokens = "SELECT b.tokens - a.tokens FROM sequence_metrics AS a \
                      JOIN sequence_metrics AS b ON b.sample_id = a.sample_id \
                      WHERE a.teacher = 'p' AND b.teacher = 's' ORDER BY a.sample_id";
        assert_eq!(sql(s, tokens, &[]), ["-1", "0"]);
        let places = "SELECT avg(source_pos - pos), min(source_pos - pos) FROM alignment";
        assert_eq!(sql(s, places, &[]), ["-0.333333 -1"]);
        let ends = "SELECT byte_end[2] - byte_end[3] FROM tokens \
                    WHERE vocab = 'pv' AND sample_id = 0";
        assert_eq!(sql(s, ends, &[]), ["-2"]);
        let spans = "SELECT spans[1]['byte_start'] - spans[1]['byte_end'] FROM transcripts \
                     ORDER BY sample_id";
        assert_eq!(sql(s, spans, &[]), ["-2", "-1"]);
        let ids = "SELECT ids[1] - ids[2], -target_id FROM topk WHERE teacher = 's' ORDER BY pos";
        assert_eq!(sql(s, ids, &[])[0], "-1 -1");
        let stored = "SELECT -target_nll, levels[2] - levels[1], -tail_level FROM topk_stored \
                      WHERE teacher = 's' AND sample_id = 0";
        assert_eq!(sql(s, stored, &[]), ["-710 -58 -305"]);
        let ranks = "SELECT by_bpb - 3 FROM sample_rank WHERE teacher = 'p' ORDER BY 1";
        assert_eq!(sql(s, ranks, &[]), ["-2", "-1"]);
        let counts = "SELECT source_id - pivot_id, count - 7, rank - 2 FROM token_map \
                      ORDER BY source_id, rank";
        assert_eq!(sql(s, counts, &[])[2], "-1 -5 0");
        let steps = "SELECT step - 5, -tokens FROM steps ORDER BY step";
        assert_eq!(sql(s, steps, &[])[0], "-4 -10");
    });
}

#[test]
fn quotients_of_whole_numbers_are_exact() {
    with_run(|s| {
        let sums = "SELECT sum(tokens) / sum(bytes), sum(tokens) / count(*), avg(tokens / bytes) \
                    FROM sequence_metrics WHERE teacher = 'p'";
        assert_eq!(sql(s, sums, &[]), ["0.75 1.5 0.833333"]);
        let literals = "SELECT 7 / 2 AS a, -7 / 2 AS b, 7 // 2 AS c, 7 / 2.0 AS d, 7 % 2 AS e";
        assert_eq!(sql(s, literals, &[]), ["3.5 -3.5 3 3.5 1"]);
        let params = [("n", "2"), ("x", "0.5")];
        let given = "SELECT 7 / $n AS a, $n / 4 AS b, $n / $n AS c, 7 / $x AS d, 7 // $n AS e";
        assert_eq!(sql(s, given, &params), ["3.5 0.5 1 14 3"]);
        let nested = "WITH a AS (SELECT teacher, sum(tokens) AS t, sum(bytes) AS b \
                      FROM sequence_metrics GROUP BY teacher HAVING sum(tokens) / sum(bytes) > 0.6) \
                      SELECT teacher, t / b, (t - b) / b FROM a ORDER BY t / b";
        assert_eq!(sql(s, nested, &[]), ["p 0.75 -0.25"]);
        let lists = "SELECT array_transform([1, 2], x -> x / 2)";
        assert_eq!(sql(s, lists, &[]), ["[0.5, 1.0]"]);
    });
}

/// Casting to signed numbers keeps parts and row groups from being read.
#[test]
fn filters_still_prune() {
    with_run(|s| {
        for table in ["alignment", "topk", "topk_stored"] {
            let statement = format!("SELECT teacher FROM {table} WHERE pos > 7 AND sample_id = 3");
            let plan = s.explain(&statement, &Params::new()).unwrap();
            let pruning = plan.split("pruning_predicate=").nth(1);
            let pruning = pruning.unwrap_or_else(|| panic!("{table}: {plan}"));
            assert!(
                pruning.contains("pos_max") && pruning.contains("sample_id_min"),
                "{table}: {plan}"
            );
        }
    });
}
