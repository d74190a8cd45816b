//! A session over a run: its artifacts as tables, the views, statements with parameters.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::MemorySchemaProvider;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{
    ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl,
};
use datafusion::error::DataFusionError;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::{CreateExternalTable, DdlStatement, LogicalPlan};
use datafusion::physical_plan::displayable;
use datafusion::prelude::{SessionConfig, SessionContext};
use parquet::errors::ParquetError;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use url::Url;

use super::catalogue::{Catalogue, Group, Param, Script};
use super::depth::{self, deeply};
use super::division::Division;
use super::files::RunFiles;
use super::functions;
use super::permit::permit;
use super::stream::Batches;
use crate::artifact::{Kind, RunDir};
use crate::error::{Context, Error, Result, did_you_mean, system_error};

/// Values of parameters by name, as text.
pub type Params = BTreeMap<String, String>;

/// How a session runs its statements.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionOptions {
    /// Memory for sorting, grouping and joining, in bytes; beyond it they spill to the system's
    /// temporary folder. 0 sets no limit. Default 2 GiB.
    pub memory_limit: u64,
    /// Threads; 0 (the default) takes one per core.
    pub threads: usize,
    /// Folder whose `views/`, `queries/` and `checks/` replace or add files. Default none.
    pub sql_dir: Option<PathBuf>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            memory_limit: 2 << 30,
            threads: 0,
            sql_dir: None,
        }
    }
}

impl SessionOptions {
    /// Fails if a value makes no sense.
    pub fn validate(&self) -> Result<()> {
        if self.memory_limit != 0 && self.memory_limit < 16 << 20 {
            return Err(Error::usage(format!(
                "`memory_limit` is {} bytes, expected at least 16 MiB",
                self.memory_limit
            )));
        }
        Ok(())
    }

    fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }
}

/// The artifacts of a run as tables, with the views over them. All calls block.
pub struct Session {
    context: SessionContext,
    catalogue: Catalogue,
    /// Kinds that no statement must read, and why.
    unusable: BTreeMap<Kind, String>,
    runtime: Option<Runtime>,
}

impl Session {
    /// Opens a session over `run`. Artifacts are listed and read only when a statement needs
    /// them, so this takes milliseconds for any number of parts.
    ///
    /// # Errors
    /// If the folder does not exist, or a file in `sql_dir` is wrong.
    pub fn open(run: &RunDir, options: &SessionOptions) -> Result<Self> {
        if !run.root().is_dir() {
            return Err(Error::file(run.root(), "no run folder here")
                .remedy("name the folder that `fuselm run` wrote with `--run`"));
        }
        let session = Self::bare(options)?;
        for table in session.catalogue.group(Group::Tables) {
            session.create_table(table, &table.name, run.root())?;
        }
        session.create_variant_view(run.root())?;
        for view in session.catalogue.group(Group::Views) {
            session
                .frame(&view.sql, &Params::new(), &[])
                .map_err(|error| {
                    Error::usage(format!("view `{}` does not fit: {error}", view.name))
                })?;
        }
        Ok(session)
    }

    /// [`Session::open`], for a run of which nothing must be missing: it looks at the footers of
    /// all parts.
    ///
    /// # Errors
    /// Also if a file of the run is missing or was changed. An artifact that is still being written,
    /// or was when its stage was stopped, is an error of the statements that read it.
    pub fn open_whole(run: &RunDir, options: &SessionOptions) -> Result<Self> {
        let unusable = RunFiles::of(run)?.unusable()?;
        let mut session = Self::open(run, options)?;
        session.unusable = unusable
            .into_iter()
            .map(|(kind, why)| (kind, why.to_string()))
            .collect();
        Ok(session)
    }

    /// A session without tables.
    pub(super) fn bare(options: &SessionOptions) -> Result<Self> {
        options.validate()?;
        let threads = options.threads();
        let mut config = SessionConfig::new()
            .with_target_partitions(threads)
            .with_information_schema(true);
        let settings = config.options_mut();
        // Lambdas, as in array_transform(xs, x -> x + 1), parse only in this dialect.
        settings.sql_parser.dialect = datafusion::config::Dialect::DuckDB;
        let mut environment = RuntimeEnvBuilder::new();
        if options.memory_limit > 0 {
            let limit = usize::try_from(options.memory_limit).unwrap_or(usize::MAX);
            environment = environment.with_memory_pool(Arc::new(FairSpillPool::new(limit)));
            let reserve = limit / threads / 16;
            settings.execution.sort_spill_reservation_bytes =
                reserve.min(settings.execution.sort_spill_reservation_bytes);
        }
        let environment = environment.build_arc().map_err(sql_error)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("fuselm-sql")
            .thread_stack_size(depth::STACK)
            .build()
            .during(|| "starting the threads of a SQL session".into())?;
        // A file in quotes is a table: `FROM 'others.parquet'`.
        let mut context =
            SessionContext::new_with_config_rt(config, environment).enable_url_table();
        context
            .register_expr_planner(Arc::new(Division))
            .map_err(sql_error)?;
        functions::all()
            .into_iter()
            .for_each(|function| context.register_udf(function));
        Ok(Self {
            context,
            catalogue: Catalogue::load(options.sql_dir.as_deref())?,
            unusable: BTreeMap::new(),
            runtime: Some(runtime),
        })
    }

    /// The SQL files in use.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Runs one statement and collects its result.
    ///
    /// # Errors
    /// [`Error::Usage`] if the statement is wrong, with the nearest known name.
    ///
    /// # Memory
    /// The whole result.
    pub fn query(&self, sql: &str, params: &Params) -> Result<Vec<RecordBatch>> {
        self.stream(sql, params)?.collect()
    }

    /// Runs the file called `name` (a query, check or transform) and collects its result.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no such file or parameter, with the nearest known name.
    pub fn named(&self, name: &str, params: &Params) -> Result<Vec<RecordBatch>> {
        self.stream_named(name, params)?.collect()
    }

    /// Runs one statement; `$name` in it stands for the parameter `name`.
    pub fn stream(&self, sql: &str, params: &Params) -> Result<Batches> {
        Batches::start(self.runtime()?, self.frame(sql, params, &[])?)
    }

    /// Runs the file called `name`, with the defaults of its parameters where `params` lacks
    /// them.
    pub fn stream_named(&self, name: &str, params: &Params) -> Result<Batches> {
        let script = self.catalogue.named(name)?;
        self.stream_script(script, params)
    }

    pub(super) fn stream_script(&self, script: &Script, params: &Params) -> Result<Batches> {
        Batches::start(self.runtime()?, self.script_frame(script, params)?)
    }

    /// The plan of one statement, as text; nothing is computed.
    pub fn explain(&self, sql: &str, params: &Params) -> Result<String> {
        deeply(|| self.plan_text(&self.plan(sql, params, &[])?))
    }

    /// [`Session::explain`] for the file called `name`.
    pub fn explain_named(&self, name: &str, params: &Params) -> Result<String> {
        let frame = self.script_frame(self.catalogue.named(name)?, params)?;
        deeply(|| self.plan_text(&frame))
    }

    fn plan_text(&self, frame: &DataFrame) -> Result<String> {
        let plan = self
            .runtime()?
            .block_on(frame.clone().create_physical_plan())
            .map_err(|error| self.statement_error(error))?;
        Ok(displayable(plan.as_ref()).indent(false).to_string())
    }

    fn script_frame(&self, script: &Script, params: &Params) -> Result<DataFrame> {
        for given in params.keys() {
            let known = || script.params.iter().map(|p| p.name.as_str());
            if !known().any(|name| name == given) {
                let remedy = did_you_mean(given, known()).unwrap_or_else(|| {
                    match known().collect::<Vec<_>>().join("`, `") {
                        names if names.is_empty() => "it has no parameters".to_owned(),
                        names => format!("it has `{names}`"),
                    }
                });
                return Err(
                    Error::usage(format!("`{}` has no parameter `{given}`", script.name))
                        .remedy(remedy),
                );
            }
        }
        self.frame(&script.sql, params, &script.params)
    }

    /// Plans one statement. Its parameters have the types of their defaults where `declared`
    /// has them, else the types that their values look like.
    fn frame(&self, sql: &str, params: &Params, declared: &[Param]) -> Result<DataFrame> {
        deeply(|| self.plan(sql, params, declared))
    }

    fn plan(&self, sql: &str, params: &Params, declared: &[Param]) -> Result<DataFrame> {
        depth::check(sql)?;
        let mut values: Vec<(String, ScalarValue)> = Vec::new();
        for param in declared {
            let text = params.get(&param.name).unwrap_or(&param.default);
            values.push((param.name.clone(), typed(param, text)?));
        }
        for (name, text) in params {
            if !declared.iter().any(|param| &param.name == name) {
                values.push((name.clone(), guessed(text)));
            }
        }
        let context = &self.context;
        let runtime = self.runtime()?;
        let state = context.state();
        let plan = runtime
            .block_on(state.create_logical_plan(sql))
            .map_err(|error| self.statement_error(error))?;
        permit(&plan)?;
        self.check_usable(&plan)?;
        runtime
            .block_on(async move {
                let frame = context.execute_logical_plan(plan).await?;
                match values.is_empty() {
                    true => Ok(frame),
                    false => frame.with_param_values(values),
                }
            })
            .map_err(|error| self.statement_error(error))
    }

    /// Fails if a statement reads an artifact that is not whole.
    fn check_usable(&self, plan: &LogicalPlan) -> Result<()> {
        let mut found = None;
        let read = |node: &LogicalPlan| {
            if let LogicalPlan::TableScan(scan) = node {
                let table = scan.table_name.table();
                let kind = table.strip_suffix("_stored").unwrap_or(table);
                found = found.or(self.unusable.iter().find(|(known, _)| known.name() == kind));
            }
            Ok(TreeNodeRecursion::Continue)
        };
        plan.apply_with_subqueries(read).map_err(sql_error)?;
        match found {
            None => Ok(()),
            Some((kind, why)) => Err(Error::input(
                format!("`{kind}`"),
                format!("this statement reads it, and it is not whole: {why}"),
            )),
        }
    }

    fn runtime(&self) -> Result<&Runtime> {
        self.runtime
            .as_ref()
            .ok_or_else(|| Error::usage("this SQL session has ended"))
    }

    /// Names of all tables and views.
    pub fn tables(&self) -> Vec<String> {
        let catalog = self.context.catalog("datafusion");
        let schema = catalog.and_then(|catalog| catalog.schema("public"));
        let mut names = schema.map(|s| s.table_names()).unwrap_or_default();
        names.sort();
        names
    }

    /// Names of all functions.
    pub(super) fn functions(&self) -> Vec<String> {
        let state = self.context.state();
        let scalar = state.scalar_functions().keys();
        let names = scalar.chain(state.aggregate_functions().keys());
        let mut names: Vec<String> = names
            .chain(state.window_functions().keys())
            .cloned()
            .collect();
        names.sort();
        names.dedup();
        names
    }

    fn statement_error(&self, error: DataFusionError) -> Error {
        let message = plain(&error);
        let missing = message
            .strip_prefix("table '")
            .and_then(|rest| rest.split_once('\''))
            .map(|(name, _)| name.strip_prefix("datafusion.public.").unwrap_or(name));
        match missing {
            None => sql_error(error),
            Some(name) if is_file_name(name) => Error::usage(format!(
                "`{name}` is no file that can be read as a table"
            ))
            .remedy(
                "Parquet, CSV and JSON lines are, by the endings `.parquet`, `.csv` and `.json`",
            ),
            Some(name) => {
                let name = name.rsplit('.').next().unwrap_or(name);
                let tables = self.tables();
                let remedy = did_you_mean(name, tables.iter().map(String::as_str))
                    .unwrap_or_else(|| format!("there are `{}`", tables.join("`, `")));
                Error::usage(format!("no table or view is called `{name}`")).remedy(remedy)
            }
        }
    }

    /// Adds an empty schema.
    pub(super) fn create_schema(&self, name: &str) -> Result<()> {
        let catalog = self.context.catalog("datafusion");
        let catalog = catalog.ok_or_else(|| Error::usage("this SQL session has no catalogue"))?;
        let schema = Arc::new(MemorySchemaProvider::new());
        catalog.register_schema(name, schema).map_err(sql_error)?;
        Ok(())
    }

    /// Registers the table of an artifact kind over the run folder `root` as `name`.
    pub(super) fn create_kind_table(&self, kind: &str, name: &str, root: &Path) -> Result<()> {
        self.create_table(self.table_script(kind)?, name, root)
    }

    fn table_script(&self, kind: &str) -> Result<&Script> {
        let mut tables = self.catalogue.group(Group::Tables);
        tables
            .find(|script| script.name == kind)
            .ok_or_else(|| Error::usage(format!("no artifact kind is called `{kind}`")))
    }

    fn create_table(&self, script: &Script, name: &str, root: &Path) -> Result<()> {
        let statement = self.external_table(script)?;
        let location = statement.locations.first().map_or("", String::as_str);
        let folder = location.replace("${RUN}", "");
        let dir = root.join(folder.trim_matches('/'));
        self.register(&statement, name, &dir)
    }

    /// Registers one artifact's folder as `name`, with the columns of its files, in their types.
    pub(super) fn create_artifact_table(&self, kind: Kind, name: &str, dir: &Path) -> Result<()> {
        self.list(name, dir, kind.stored_schema(), Vec::new())
    }

    pub(super) fn external_table(&self, script: &Script) -> Result<CreateExternalTable> {
        let plan = self
            .runtime()?
            .block_on(self.context.state().create_logical_plan(&script.sql))
            .map_err(sql_error)?;
        match plan {
            LogicalPlan::Ddl(DdlStatement::CreateExternalTable(statement)) => Ok(*statement),
            _ => Err(Error::input(
                &script.file,
                "is not a CREATE EXTERNAL TABLE statement",
            )),
        }
    }

    /// The statement is taken apart here, not executed, because a location in SQL cannot be a
    /// folder with `*` in its name, and only parts must be listed: other files lie beside them.
    fn register(&self, statement: &CreateExternalTable, name: &str, dir: &Path) -> Result<()> {
        let is_partition = |name: &str| statement.table_partition_cols.iter().any(|p| p == name);
        let (partitions, columns): (Vec<_>, Vec<_>) = statement
            .schema
            .fields()
            .iter()
            .cloned()
            .partition(|field| is_partition(field.name()));
        let partitions = partitions
            .iter()
            .map(|field| (field.name().clone(), field.data_type().clone()))
            .collect();
        self.list(name, dir, Arc::new(Schema::new(columns)), partitions)
    }

    fn list(
        &self,
        name: &str,
        dir: &Path,
        columns: SchemaRef,
        partitions: Vec<(String, DataType)>,
    ) -> Result<()> {
        let options = ListingOptions::new(Arc::new(ParquetFormat::default()))
            .with_file_extension(".parquet")
            .with_table_partition_cols(partitions);
        // Parts only: nothing that is hidden, and no file of another program.
        let url = ListingTableUrl::try_new(folder_url(dir)?, None)
            .and_then(|url| url.with_glob("part-*.parquet"))
            .map_err(sql_error)?;
        let config = ListingTableConfig::new(url)
            .with_listing_options(options)
            .with_schema(columns);
        let table = ListingTable::try_new(config).map_err(sql_error)?;
        self.context
            .register_table(name, Arc::new(table))
            .map_err(sql_error)?;
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A statement that was given up may still be computing: do not wait for it.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The URL of a folder, whatever its name holds.
fn folder_url(dir: &Path) -> Result<Url> {
    let path = std::path::absolute(dir).at(dir)?;
    Url::from_directory_path(&path)
        .map_err(|()| Error::file(&path, "is no folder that a URL can name"))
}

/// A value of the type that the parameter's default has.
fn typed(param: &Param, text: &str) -> Result<ScalarValue> {
    let wrong = |expected: &str| {
        Error::usage(format!(
            "parameter `{}` is `{text}`, expected {expected}",
            param.name
        ))
    };
    if param.text {
        return Ok(ScalarValue::from(text));
    }
    if param.default.parse::<i64>().is_ok() {
        let value: i64 = text.parse().map_err(|_| wrong("a whole number"))?;
        return Ok(ScalarValue::from(value));
    }
    let value: f64 = text.parse().map_err(|_| wrong("a number"))?;
    Ok(ScalarValue::from(value))
}

/// A value of the type that it looks like: `007`, `+1` and `inf` are text.
fn guessed(text: &str) -> ScalarValue {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let whole = digits.split(['.', 'e', 'E']).next().unwrap_or_default();
    let is_number = whole.bytes().all(|b| b.is_ascii_digit())
        && (whole.len() < 2 || !whole.starts_with('0'))
        && digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let number = || match text.parse::<i64>() {
        Ok(value) => Some(ScalarValue::from(value)),
        Err(_) => text.parse::<f64>().ok().map(ScalarValue::from),
    };
    is_number
        .then(number)
        .flatten()
        .unwrap_or_else(|| ScalarValue::from(text))
}

/// Whether a table's name is that of a file.
fn is_file_name(name: &str) -> bool {
    let ends = [".parquet", ".csv", ".json", ".jsonl"];
    name.contains('/') || ends.iter().any(|end| name.ends_with(end))
}

/// DataFusion's message without its category.
fn plain(error: &DataFusionError) -> String {
    let root = error.find_root();
    match root {
        DataFusionError::SQL(parser, _) => parser.to_string(),
        DataFusionError::SchemaError(schema, _) => schema.to_string(),
        _ => root.message().into_owned(),
    }
}

/// Whether an error is about the pages of a Parquet file.
fn is_unreadable(root: &DataFusionError) -> bool {
    match root {
        DataFusionError::ParquetError(_) => true,
        DataFusionError::ArrowError(error, _) => match &**error {
            ArrowError::ParquetError(_) => true,
            ArrowError::ExternalError(inner) => inner.is::<ParquetError>(),
            _ => false,
        },
        _ => false,
    }
}

/// Our error for one of DataFusion's: what the statement says is the user's, the rest is not.
pub(super) fn sql_error(error: DataFusionError) -> Error {
    if let Some(of_system) = system_error(&error.find_root().to_string()) {
        return Error::io("an artifact that the statement reads", of_system);
    }
    match error.find_root() {
        DataFusionError::SQL(..)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Diagnostic(..)
        | DataFusionError::Configuration(_) => Error::usage(format!("SQL: {}", plain(&error))),
        DataFusionError::Execution(message) if message.starts_with("Placeholder") => {
            Error::usage(format!("SQL: {message}")).remedy("give it with `--param NAME=VALUE`")
        }
        DataFusionError::ResourcesExhausted(message) => Error::usage(format!(
            "the statement needs more memory than it may use: {message}"
        ))
        .remedy("raise `memory_limit`"),
        root if is_unreadable(root) => Error::damaged_at(
            "an artifact that the statement reads",
            format!("damaged: {}", plain(&error)),
        )
        .remedy("`fuselm check` looks for the file"),
        _ => Error::Compute {
            during: "running a SQL statement".into(),
            source: error.into(),
        },
    }
}
