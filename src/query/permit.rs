//! Which statements a session runs: those that only read.

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::{DdlStatement, LogicalPlan, Statement};

use super::session::sql_error;
use crate::error::{Error, Result};

/// Fails unless a statement only reads. A view lives as long as its session, and so do settings.
pub(super) fn permit(plan: &LogicalPlan) -> Result<()> {
    let mut refused = None;
    let look = |node: &LogicalPlan| {
        let what = match node {
            LogicalPlan::Ddl(DdlStatement::CreateView(_) | DdlStatement::DropView(_))
            | LogicalPlan::Statement(Statement::SetVariable(_) | Statement::ResetVariable(_)) => {
                None
            }
            LogicalPlan::Ddl(ddl) => Some(ddl.name().to_owned()),
            LogicalPlan::Dml(dml) => Some(dml.op.to_string()),
            LogicalPlan::Copy(_) => Some("Copy".to_owned()),
            LogicalPlan::Statement(statement) => Some(statement.name().to_owned()),
            _ => None,
        };
        refused = refused.take().or(what);
        Ok(TreeNodeRecursion::Continue)
    };
    plan.apply_with_subqueries(look).map_err(sql_error)?;
    match refused {
        None => Ok(()),
        Some(what) => Err(Error::usage(format!(
            "SQL: {what} is refused, statements only read the run"
        ))
        .remedy("select what you want, and write the result with `--output FILE`")),
    }
}
