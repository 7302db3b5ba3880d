//! Revisions of models, which of them serve, and how they did.

use async_trait::async_trait;

use super::rows::{foreign, ms, time};
use super::{Backend, Connection};
use crate::types::{
    Evaluation, EvaluationQuery, ModelStore, Page, Serving, StoreError, StoredRevision,
};

/// Names an evaluation as well as its whole id does.
const SHORT_ID: usize = 8;

#[async_trait]
impl ModelStore for Backend {
    async fn define(&self, revision: &StoredRevision) -> Result<(), StoreError> {
        let definition = written(&revision.definition, "definition")?;
        sqlx::query(
            "INSERT INTO revision (model, id, definition, made_ms) VALUES ($1, $2, $3, $4)
             ON CONFLICT (model, id) DO NOTHING",
        )
        .bind(&revision.model)
        .bind(&revision.id)
        .bind(definition)
        .bind(ms(revision.made))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn revisions(&self) -> Result<Vec<StoredRevision>, StoreError> {
        let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
            "SELECT model, id, definition, made_ms FROM revision ORDER BY made_ms, model, id",
        )
        .fetch_all(&self.readers)
        .await?;
        let revision = |(model, id, definition, made): (String, String, String, i64)| {
            Ok(StoredRevision {
                definition: serde_json::from_str(&definition).map_err(|_| foreign("revision"))?,
                made: time(made)?,
                model,
                id,
            })
        };
        rows.into_iter().map(revision).collect()
    }

    async fn serving(&self) -> Result<(u64, Vec<Serving>), StoreError> {
        let revisions: i64 = sqlx::query_scalar("SELECT count(*) FROM revision")
            .fetch_one(&self.readers)
            .await?;
        let rows: Vec<String> = sqlx::query_scalar("SELECT state FROM serving ORDER BY model")
            .fetch_all(&self.readers)
            .await?;
        let serving =
            |state: String| serde_json::from_str(&state).map_err(|_| foreign("state of a model"));
        let rows = rows.into_iter().map(serving).collect::<Result<_, _>>()?;
        Ok((u64::try_from(revisions).unwrap_or_default(), rows))
    }

    async fn evaluated(&self, one: &Evaluation) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO evaluation (id, at_ms, suite, suite_version, model, revision, score, low, high, items,
                failed, report)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(&one.id)
        .bind(ms(one.at))
        .bind(&one.suite)
        .bind(&one.suite_version)
        .bind(&one.model)
        .bind(&one.revision)
        .bind(one.score)
        .bind(one.low)
        .bind(one.high)
        .bind(i64::from(one.items))
        .bind(i64::from(one.failed))
        .bind(one.report.to_string())
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn evaluations(
        &self,
        query: &EvaluationQuery,
        page: &Page,
    ) -> Result<Vec<Evaluation>, StoreError> {
        let rows: Vec<EvaluationRow> = sqlx::query_as(
            "SELECT id, at_ms, suite, suite_version, model, revision, score, low, high, items, failed, 'null' AS report
             FROM evaluation
             WHERE ($1 = '' OR model = $1) AND ($2 = '' OR revision = $2) AND ($3 = '' OR suite_version = $3)
                AND ($4 = '' OR id < $4)
             ORDER BY id DESC LIMIT $5",
        )
        .bind(query.model.as_deref().unwrap_or_default())
        .bind(query.revision.as_deref().unwrap_or_default())
        .bind(query.suite_version.as_deref().unwrap_or_default())
        .bind(page.after.as_deref().unwrap_or_default())
        .bind(i64::from(page.limit))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(Evaluation::try_from).collect()
    }

    async fn find_evaluation(&self, id: &str) -> Result<Evaluation, StoreError> {
        let not_found = || StoreError::NotFound(format!("evaluation {id:?}"));
        let plain = id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if id.len() < SHORT_ID || !plain {
            return Err(not_found());
        }
        let row: Option<EvaluationRow> = sqlx::query_as(
            "SELECT id, at_ms, suite, suite_version, model, revision, score, low, high, items, failed, report
             FROM evaluation WHERE id = $1 OR substr(id, length(id) - length($1) + 1) = $1
             ORDER BY id DESC LIMIT 1",
        )
        .bind(id)
        .fetch_optional(&self.readers)
        .await?;
        row.ok_or_else(not_found)?.try_into()
    }
}

/// Which revisions serve, if they are still those that whoever decides it has seen.
pub(super) async fn serve(connection: &mut Connection, next: &Serving) -> Result<(), StoreError> {
    let state = written(next, "state of a model")?;
    let before = i64::try_from(next.version).unwrap_or(i64::MAX) - 1;
    let done = sqlx::query(
        "INSERT INTO serving (model, version, state) VALUES ($1, $2 + 1, $3)
         ON CONFLICT (model) DO UPDATE SET version = excluded.version, state = excluded.state
            WHERE serving.version = $2",
    )
    .bind(&next.model)
    .bind(before)
    .bind(state)
    .execute(connection)
    .await?;
    if done.rows_affected() == 0 {
        let model = &next.model;
        return Err(StoreError::InUse(format!(
            "somebody else has just changed what serves {model:?}: look again"
        )));
    }
    Ok(())
}

fn written(value: &impl serde::Serialize, what: &str) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|_| foreign(what))
}

#[derive(sqlx::FromRow)]
struct EvaluationRow {
    id: String,
    at_ms: i64,
    suite: String,
    suite_version: String,
    model: String,
    revision: String,
    score: f64,
    low: f64,
    high: f64,
    items: i64,
    failed: i64,
    report: String,
}

impl TryFrom<EvaluationRow> for Evaluation {
    type Error = StoreError;

    fn try_from(row: EvaluationRow) -> Result<Self, StoreError> {
        let count = |count: i64| u32::try_from(count).map_err(|_| foreign("evaluation"));
        Ok(Self {
            at: time(row.at_ms)?,
            items: count(row.items)?,
            failed: count(row.failed)?,
            report: serde_json::from_str(&row.report).map_err(|_| foreign("report"))?,
            id: row.id,
            suite: row.suite,
            suite_version: row.suite_version,
            model: row.model,
            revision: row.revision,
            score: row.score,
            low: row.low,
            high: row.high,
        })
    }
}
