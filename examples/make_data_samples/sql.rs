//! The subject `sql`: questions in English about six invented databases, answered in SQL.
//!
//! Formal rules that a specialist can learn: the schema (tables, columns, keys, the values a
//! column takes and how often), and the house style (keywords in capitals, the first letter of a
//! table as its alias, a comment that names what is read, a limit that belongs to the database).

use anyhow::{Context, Result, bail};

use crate::random::{Mix, Rng};
use crate::words::lists;
use crate::{Sample, Subject};

/// What a column holds, and how often: words, multiples of ten, or the years of dates.
enum Values {
    Text(Mix<&'static str>),
    Number(Mix<usize>),
    Date(Mix<usize>),
}

struct Column {
    name: &'static str,
    values: Values,
}

struct Relation {
    name: &'static str,
    row: &'static str,
    columns: Vec<Column>,
    /// The columns that queries select, and those that they group by.
    shown: Mix<usize>,
    grouped: Mix<usize>,
}

struct Database {
    name: &'static str,
    parent: Relation,
    child: Relation,
    limit: usize,
    /// Keys of the first table begin here.
    first_key: usize,
}

/// The invented databases.
pub struct Databases(Vec<Database>);

impl Column {
    /// From `name value value`, `name largest` or `name date`.
    fn new(rng: &mut Rng, text: &'static str) -> Result<Self> {
        let (name, rest) = text.split_once(' ').context("a column without values")?;
        let values = if rest == "date" {
            Values::Date(Mix::of(rng, &[2019, 2020, 2021, 2022, 2023], 3))
        } else if let Ok(most) = rest.parse::<usize>() {
            let values: Vec<usize> = (1..=most / 10).map(|n| n * 10).collect();
            Values::Number(Mix::of(rng, &values, 4))
        } else {
            let words: Vec<&'static str> = rest.split(' ').collect();
            Values::Text(Mix::of(rng, &words, 5))
        };
        Ok(Self { name, values })
    }

    /// A literal of this column.
    fn literal(&self, rng: &mut Rng) -> String {
        match &self.values {
            Values::Text(mix) => format!("'{}'", mix.draw(rng)),
            Values::Number(mix) => mix.draw(rng).to_string(),
            Values::Date(mix) => {
                let year = *mix.draw(rng);
                format!("'{year}-{:02}-01'", rng.range(1, 12))
            }
        }
    }

    /// A condition in SQL and in English.
    fn condition(&self, rng: &mut Rng, alias: &str) -> (String, String) {
        let name = self.name;
        let value = self.literal(rng);
        match &self.values {
            Values::Text(_) => (
                format!("{alias}.{name} = {value}"),
                format!("{name} {}", value.trim_matches('\'')),
            ),
            Values::Number(_) if rng.chance(60) => (
                format!("{alias}.{name} > {value}"),
                format!("more than {value} {name}"),
            ),
            Values::Number(_) => (
                format!("{alias}.{name} <= {value}"),
                format!("at most {value} {name}"),
            ),
            Values::Date(_) => {
                let year = &value[1..5];
                (
                    format!("{alias}.{name} >= '{year}-01-01'"),
                    format!("{name} since {year}"),
                )
            }
        }
    }
}

impl Relation {
    fn new(
        rng: &mut Rng,
        name: &'static str,
        row: &'static str,
        columns: &[&'static str],
    ) -> Result<Self> {
        let columns = columns
            .iter()
            .map(|text| Column::new(rng, text))
            .collect::<Result<Vec<_>>>()?;
        let all: Vec<usize> = (0..columns.len()).collect();
        let texts: Vec<usize> = (0..columns.len())
            .filter(|&index| matches!(columns[index].values, Values::Text(_)))
            .collect();
        Ok(Self {
            name,
            row,
            shown: Mix::of(rng, &all, 4),
            grouped: Mix::of(rng, &texts, 2),
            columns,
        })
    }

    fn alias(&self) -> &'static str {
        &self.name[..1]
    }

    fn column(&self, index: usize) -> &Column {
        &self.columns[index]
    }

    fn number(&self) -> &Column {
        let number = self
            .columns
            .iter()
            .find(|column| matches!(column.values, Values::Number(_)));
        number.unwrap_or(&self.columns[0])
    }
}

impl Databases {
    /// The world: the same at every call.
    pub fn new() -> Result<Self> {
        let rng = &mut Rng::named("sql/world");
        let lines = lists(include_str!("words/sql.txt"))?;
        let mut databases = Vec::new();
        for pair in lines.chunks(2) {
            let mut tables = Vec::new();
            let mut name = "";
            for (head, columns) in pair {
                let [database, table, row] = *head.split(' ').collect::<Vec<_>>() else {
                    bail!("`{head}` is not `database table row`");
                };
                name = database;
                tables.push(Relation::new(rng, table, row, columns)?);
            }
            let child = tables.pop().context("a database without tables")?;
            let parent = tables.pop().context("a database with one table")?;
            let limit = *rng.pick(&[5, 10, 15, 20, 25, 50]);
            let first_key = rng.range(1, 9) * 100;
            databases.push(Database {
                name,
                parent,
                child,
                limit,
                first_key,
            });
        }
        Ok(Self(databases))
    }

    fn list(rng: &mut Rng, db: &Database) -> Sample {
        let table = if rng.chance(50) {
            &db.parent
        } else {
            &db.child
        };
        let a = table.alias();
        let wanted = table.shown.draw_distinct(rng, 2);
        let columns: Vec<&str> = wanted
            .iter()
            .map(|&&index| table.column(index).name)
            .collect();
        let filters = table.shown.draw_distinct(rng, 2);
        let conditions: Vec<(String, String)> = filters
            .iter()
            .map(|&&index| table.column(index).condition(rng, a))
            .collect();
        let used = if rng.chance(60) { 1 } else { 2 };
        let (sql, english): (Vec<String>, Vec<String>) = conditions.into_iter().take(used).unzip();
        let select: Vec<String> = columns.iter().map(|name| format!("{a}.{name}")).collect();
        let assistant = format!(
            "-- {}: reads {}\nSELECT {a}.{}_id, {}\nFROM {} {a}\nWHERE {}\nORDER BY {a}.{} DESC\nLIMIT {};",
            db.name,
            table.name,
            table.row,
            select.join(", "),
            table.name,
            sql.join("\n  AND "),
            columns[0],
            db.limit
        );
        let user = match rng.below(3) {
            0 => format!(
                "{}: list {} with {}.",
                db.name,
                table.name,
                english.join(" and ")
            ),
            1 => format!(
                "Which {} have {}? Show {}.",
                table.name,
                english[0],
                columns.join(" and ")
            ),
            _ => format!("Query the {} of the {} database.", table.name, db.name),
        };
        Sample { user, assistant }
    }

    fn group(rng: &mut Rng, db: &Database) -> Sample {
        let table = if rng.chance(40) {
            &db.parent
        } else {
            &db.child
        };
        let a = table.alias();
        let by = table.column(*table.grouped.draw(rng)).name;
        let number = table.number().name;
        let (measure, named, english) = match rng.below(3) {
            0 => (
                "COUNT(*)".to_string(),
                "n".to_string(),
                format!("How many {}", table.name),
            ),
            1 => (
                format!("SUM({a}.{number})"),
                format!("total_{number}"),
                format!("The sum of {number} of {}", table.name),
            ),
            _ => (
                format!("AVG({a}.{number})"),
                format!("mean_{number}"),
                format!("The average {number} of {}", table.name),
            ),
        };
        let filter = *table.shown.draw(rng);
        let (sql, words) = table.column(filter).condition(rng, a);
        let mut assistant = format!(
            "-- {}: reads {}\nSELECT {a}.{by}, {measure} AS {named}\nFROM {} {a}\nWHERE {sql}\nGROUP BY {a}.{by}",
            db.name, table.name, table.name
        );
        let mut user = format!("{}: {english} per {by}, {words}?", db.name);
        if rng.chance(40) {
            let least = rng.range(1, 9) * 5;
            assistant += &format!("\nHAVING {measure} >= {least}");
            user += &format!(" At least {least}.");
        }
        if rng.chance(30) {
            user = format!("{}: a summary of {} per {by}.", db.name, table.name);
        }
        assistant += &format!("\nORDER BY {named} DESC;");
        Sample { user, assistant }
    }

    fn join(rng: &mut Rng, db: &Database) -> Sample {
        let (parent, child) = (&db.parent, &db.child);
        // Tables of one database that share a first letter are told apart as in `tr`, `ti`.
        let (p, c) = if parent.alias() == child.alias() {
            (&parent.name[..2], &child.name[..2])
        } else {
            (parent.alias(), child.alias())
        };
        let by = parent.column(*parent.grouped.draw(rng)).name;
        let number = child.number().name;
        let filter = *child.shown.draw(rng);
        let (sql, words) = child.column(filter).condition(rng, c);
        let assistant = format!(
            "-- {}: reads {}, {}\nSELECT {p}.{by}, SUM({c}.{number}) AS total_{number}\nFROM {} {c}\nJOIN {} {p} ON {p}.{}_id = {c}.{}_id\nWHERE {sql}\nGROUP BY {p}.{by}\nORDER BY total_{number} DESC\nLIMIT {};",
            db.name,
            child.name,
            parent.name,
            child.name,
            parent.name,
            parent.row,
            parent.row,
            db.limit
        );
        let user = match rng.below(3) {
            0 => format!(
                "{}: total {number} of {} by {by} of the {}, {words}.",
                db.name, child.name, parent.row
            ),
            1 => format!(
                "Join {} with their {} and add up {number}.",
                child.name, parent.name
            ),
            _ => format!("Which {by} has most {number} in {}, {words}?", child.name),
        };
        Sample { user, assistant }
    }

    fn insert(rng: &mut Rng, db: &Database) -> Sample {
        let table = if rng.chance(50) {
            &db.parent
        } else {
            &db.child
        };
        let key = format!("{}_id", db.parent.row);
        let names: Vec<&str> = table.columns.iter().map(|column| column.name).collect();
        let rows: Vec<String> = (0..2)
            .map(|_| {
                let values: Vec<String> = table
                    .columns
                    .iter()
                    .map(|column| column.literal(rng))
                    .collect();
                format!("({}, {})", db.first_key + rng.below(30), values.join(", "))
            })
            .collect();
        let user = match rng.below(3) {
            0 => format!("Add two {} to the {} database.", table.name, db.name),
            1 => format!("{}: insert test rows into {}.", db.name, table.name),
            _ => format!("Write an INSERT for {}.", table.name),
        };
        let assistant = format!(
            "-- {}: writes {}\nINSERT INTO {} ({key}, {})\nVALUES {},\n       {};",
            db.name,
            table.name,
            table.name,
            names.join(", "),
            rows[0],
            rows[1]
        );
        Sample { user, assistant }
    }

    fn update(rng: &mut Rng, db: &Database) -> Sample {
        let table = if rng.chance(40) {
            &db.parent
        } else {
            &db.child
        };
        let changed = table.column(*table.shown.draw(rng));
        let value = changed.literal(rng);
        let filter = *table.shown.draw(rng);
        let (sql, words) = table.column(filter).condition(rng, table.name);
        let user = match rng.below(2) {
            0 => format!(
                "{}: set {} to {value} for {} with {words}.",
                db.name, changed.name, table.name
            ),
            _ => format!(
                "Correct the {} of {} with {words}.",
                changed.name, table.name
            ),
        };
        let assistant = format!(
            "-- {}: writes {}\nBEGIN;\nUPDATE {}\nSET {} = {value}\nWHERE {sql};\n-- expect at most {} rows\nCOMMIT;",
            db.name, table.name, table.name, changed.name, db.limit
        );
        Sample { user, assistant }
    }
}

impl Subject for Databases {
    fn name(&self) -> &'static str {
        "sql"
    }

    fn sample(&self, rng: &mut Rng) -> Sample {
        let db = rng.pick(&self.0);
        match rng.below(10) {
            0..=2 => Self::list(rng, db),
            3 | 4 => Self::group(rng, db),
            5 | 6 => Self::join(rng, db),
            7 | 8 => Self::insert(rng, db),
            _ => Self::update(rng, db),
        }
    }
}
