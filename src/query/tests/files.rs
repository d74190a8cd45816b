use std::fs;
use std::path::Path;

use super::*;
use crate::artifact::Kind;

fn sql_folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sql")
}

#[test]
fn the_lists_of_all_distributions_are_decoded_alike() {
    let between = |file: &str, from: &str, to: &str| {
        let text = fs::read_to_string(sql_folder().join("views").join(file)).unwrap();
        let (_, rest) = text.split_once(from).unwrap();
        rest.split_once(to).unwrap().0.to_owned()
    };
    let row = |file| between(file, "\n    pos,", "\n    draws,");
    assert_eq!(row("00_topk.sql"), row("01_projected.sql"));
    let ids = |file| between(file, "\n    ids_of_gaps(", "AS ids,");
    assert_eq!(ids("00_topk.sql"), ids("02_targets.sql"));
}

#[test]
fn the_catalogue_is_up_to_date() {
    let text = catalogue_markdown().unwrap();
    let path = sql_folder().join("README.md");
    if std::env::var_os("FUSELM_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, text, "run the tests once with FUSELM_BLESS=1");
}

#[test]
fn headers_are_complete_and_names_agree() {
    let catalogue = Catalogue::load(None).unwrap();
    for group in Group::ALL {
        for script in catalogue.group(group) {
            let name = &script.name;
            assert!(
                !script.reads.is_empty() && !script.returns.is_empty(),
                "{name}"
            );
            for param in &script.params {
                assert!(script.sql.contains(&format!("${}", param.name)), "{name}");
            }
            let start = match group {
                Group::Views => format!("\nCREATE OR REPLACE VIEW {name} AS\n"),
                Group::Tables => format!("\nCREATE EXTERNAL TABLE {name} (\n"),
                Group::Checks => format!("'{name}' AS \"check\""),
                _ => continue,
            };
            assert!(script.sql.contains(&start), "{name}");
        }
    }
}

#[test]
fn tables_declare_the_columns_of_their_kind() {
    use arrow::datatypes::DataType;
    /// Names of strings and of list elements do not matter; widths do. Whole numbers of the files
    /// are unsigned, a table has the signed ones that hold them.
    fn shape(data_type: &DataType) -> String {
        match data_type {
            DataType::UInt8 | DataType::UInt16 => DataType::Int32.to_string(),
            DataType::UInt32 | DataType::UInt64 => DataType::Int64.to_string(),
            DataType::Dictionary(_, values) => shape(values),
            DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => "text".into(),
            DataType::Binary | DataType::BinaryView => "bytes".into(),
            DataType::List(element) => format!("[{}]", shape(element.data_type())),
            DataType::Struct(fields) => fields
                .iter()
                .map(|f| format!("{}:{} ", f.name(), shape(f.data_type())))
                .collect(),
            other => other.to_string(),
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path());
    let catalogue = Catalogue::load(None).unwrap();
    let scripts: Vec<&Script> = catalogue.group(Group::Tables).collect();
    assert_eq!(scripts.len(), Kind::ALL.len());
    for kind in Kind::ALL {
        let name = match kind.stored_schema() == kind.schema() {
            true => kind.name().to_owned(),
            false => format!("{kind}_stored"),
        };
        let script = scripts.iter().find(|s| s.name == name).unwrap();
        let statement = session.external_table(script).unwrap();
        let declared: Vec<(String, String)> = statement
            .schema
            .fields()
            .iter()
            .map(|f| (f.name().clone(), shape(f.data_type())))
            .collect();
        let mut expected: Vec<(String, String)> = kind
            .stored_schema()
            .fields()
            .iter()
            .map(|f| (f.name().clone(), shape(f.data_type())))
            .collect();
        for key in kind.partitions() {
            expected.push(((*key).to_owned(), "text".to_owned()));
        }
        assert_eq!(declared, expected, "{kind}");
        assert_eq!(statement.table_partition_cols, kind.partitions());
        let signed = declared.iter().all(|(_, shape)| !shape.contains("UInt"));
        assert!(signed, "{kind}: {declared:?}");
        // A missing folder is an empty table.
        let all = session.stream(&format!("SELECT * FROM {kind}"), &Params::new());
        assert!(rows(all.unwrap()).is_empty());
    }
}

#[test]
fn a_folder_replaces_and_adds_files() {
    let dir = tempfile::tempdir().unwrap();
    let sql = dir.path().join("mine");
    fs::create_dir_all(sql.join("queries")).unwrap();
    fs::create_dir_all(sql.join("views")).unwrap();
    fs::write(
        sql.join("queries/loss_curve.sql"),
        "-- about: mine\nSELECT 7 AS x",
    )
    .unwrap();
    fs::write(
        sql.join("queries/own.sql"),
        "-- about: own\n-- param: n = 2 — how many\nSELECT $n + 1 AS x, * FROM extra",
    )
    .unwrap();
    fs::write(
        sql.join("views/50_extra.sql"),
        "-- about: extra\nCREATE OR REPLACE VIEW extra AS SELECT count(*) AS c FROM token_ce",
    )
    .unwrap();
    let options = SessionOptions {
        sql_dir: Some(sql.clone()),
        ..Default::default()
    };
    let run = RunDir::new(dir.path());
    let session = Session::open(&run, &options).unwrap();
    let run_named =
        |name: &str, p: &[(&str, &str)]| session.stream_named(name, &params(p)).map(rows);
    assert_eq!(run_named("loss_curve", &[]).unwrap(), ["7"]);
    assert_eq!(run_named("own", &[]).unwrap(), ["3 0"]);
    assert_eq!(run_named("own", &[("n", "5")]).unwrap(), ["6 0"]);
    let error = |name, p: &[(&str, &str)]| run_named(name, p).err().unwrap().to_string();
    assert!(error("own", &[("n", "x")]).contains("expected a whole number"));
    assert!(
        error("own", &[("m", "1")]).contains("did you mean `n`?"),
        "{}",
        error("own", &[("m", "1")])
    );
    assert!(error("eval_scorebord", &[]).contains("did you mean `eval_scoreboard`?"));

    fs::write(sql.join("queries/own.sql"), "SELECT 1").unwrap();
    let error = Session::open(&run, &options).err().unwrap().to_string();
    assert!(
        error.contains("own.sql") && error.contains("-- about:"),
        "{error}"
    );
    let options = SessionOptions {
        sql_dir: Some(sql.join("queries")),
        ..Default::default()
    };
    assert!(Session::open(&run, &options).is_err());
}
