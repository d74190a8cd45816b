//! Division of whole numbers.
//!
//! DataFusion cuts off the remainder, as PostgreSQL does: `sum(tokens) / sum(bytes)` was 0. The
//! files of a run are read by DuckDB and Polars as well, where `/` is exact and `//` cuts, and
//! statements are written in DuckDB's dialect: so it is here.

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, Operator, binary_expr, cast};
use datafusion::sql::sqlparser::ast::BinaryOperator;

/// Plans `/` between whole numbers as a division of doubles, and `//` as one of whole numbers.
#[derive(Debug)]
pub(super) struct Division;

impl ExprPlanner for Division {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let whole = |expr: &Expr| may_be_whole(expr, schema);
        let applies = |expr: &RawBinaryExpr| whole(&expr.left) && whole(&expr.right);
        Ok(match expr.op {
            BinaryOperator::Divide if applies(&expr) => PlannerResult::Planned(binary_expr(
                cast(expr.left, DataType::Float64),
                Operator::Divide,
                cast(expr.right, DataType::Float64),
            )),
            BinaryOperator::DuckIntegerDivide if applies(&expr) => {
                PlannerResult::Planned(binary_expr(expr.left, Operator::Divide, expr.right))
            }
            _ => PlannerResult::Original(expr),
        })
    }
}

/// Whether the value is a whole number, or may be one: a parameter has no type yet.
fn may_be_whole(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema)
        .map_or(true, |kind| kind.is_integer() || kind.is_null())
}
