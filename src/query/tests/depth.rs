//! Deep statements: the deepest run, deeper ones are refused.

use super::fixture::*;
use super::*;

fn outcome(statement: &str) -> Result<Vec<String>, String> {
    let dir = tempfile::tempdir().unwrap();
    write_run(&RunDir::new(dir.path()));
    let session = session(dir.path());
    let batches = session.stream(statement, &Params::new());
    batches.map(rows).map_err(|error| error.to_string())
}

fn chain(link: &str, links: usize) -> String {
    format!("SELECT {}1", link.repeat(links))
}

fn subqueries(queries: usize) -> String {
    let first = "WITH c0 AS (SELECT 1 AS x)".to_owned();
    let rest = (1..queries - 1).map(|n| format!(", c{n} AS (SELECT x FROM c{})", n - 1));
    format!(
        "{}{} SELECT x FROM c{}",
        first,
        rest.collect::<String>(),
        queries - 2
    )
}

#[test]
fn the_deepest_statements_run() {
    assert_eq!(outcome(&chain("1+", 2_000)).unwrap(), ["2001"]);
    let all = format!("SELECT {}true", "true AND ".repeat(2_000));
    assert_eq!(outcome(&all).unwrap(), ["true"]);
    let joined = format!("SELECT length({}'b')", "'a'||".repeat(2_000));
    assert_eq!(outcome(&joined).unwrap(), ["2001"]);
    let union = ["SELECT 1"; 500].join(" UNION ALL ");
    assert_eq!(outcome(&union).unwrap().len(), 500);
    assert_eq!(outcome(&subqueries(500)).unwrap(), ["1"]);
    // Long lists are not deep.
    let list = vec!["-1"; 50_000].join(", ");
    assert_eq!(
        outcome(&format!("SELECT -1 IN ({list})")).unwrap(),
        ["true"]
    );
}

#[test]
fn deeper_statements_are_refused() {
    let union = ["SELECT 1"; 501].join(" UNION ALL ");
    for (statement, what) in [
        (
            chain("1+", 20_000),
            "20000 operators, expected at most 2000",
        ),
        (chain("true AND ", 50_000), "50000 operators"),
        (
            format!("SELECT {}'a'", "'a'||".repeat(20_000)),
            "20000 operators",
        ),
        (
            format!("SELECT {}true", "NOT ".repeat(20_000)),
            "20000 operators",
        ),
        (union, "501 queries, expected at most 500"),
        (subqueries(2_000), "2000 queries"),
    ] {
        let error = outcome(&statement).unwrap_err();
        assert!(error.contains(what), "{error}");
    }
    let brackets = format!("SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000));
    let error = outcome(&brackets).unwrap_err();
    assert!(error.contains("recursion limit"), "{error}");
}
