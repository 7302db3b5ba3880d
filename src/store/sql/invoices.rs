//! Periods, and which charge is in which invoice.

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use super::rows::{ms, time};
use super::{BEGIN, Backend, Connection};
use crate::types::{Invoice, InvoiceLine, InvoiceStore, Money, Period, ProjectId, StoreError};

macro_rules! invoice_columns {
    () => {
        "id, project_id, project_name, start_ms, end_ms, closed_ms"
    };
}

#[async_trait]
impl InvoiceStore for Backend {
    async fn close_period(&self, period: &Period) -> Result<Vec<Invoice>, StoreError> {
        // As fine as it is kept.
        let closed = time(ms(Timestamp::now()))?;
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        let later: i64 =
            sqlx::query_scalar("SELECT count(*) FROM billing_period WHERE end_ms > $1")
                .bind(ms(period.start))
                .fetch_one(&mut *transaction)
                .await?;
        if later > 0 {
            return Err(StoreError::Exists(
                "an invoice of this period or a later one".into(),
            ));
        }
        sqlx::query("INSERT INTO billing_period (start_ms, end_ms, closed_ms) VALUES ($1, $2, $3)")
            .bind(ms(period.start))
            .bind(ms(period.end))
            .bind(ms(closed))
            .execute(&mut *transaction)
            .await?;
        let projects: Vec<(String, String)> = sqlx::query_as(
            "SELECT DISTINCT c.project_id, coalesce(p.name, c.project_id)
             FROM charge c LEFT JOIN project p ON p.id = c.project_id
             WHERE c.ended_ms < $1 AND c.state <> 'absorbed'
                AND NOT EXISTS (SELECT 1 FROM invoiced i WHERE i.event_id = c.event_id)
             ORDER BY 1",
        )
        .bind(ms(period.end))
        .fetch_all(&mut *transaction)
        .await?;
        let mut invoices = Vec::with_capacity(projects.len());
        for (project, project_name) in projects {
            let mut invoice = Invoice {
                id: format!("inv_{}", Uuid::now_v7().simple()),
                project,
                project_name,
                period: *period,
                closed,
                lines: Vec::new(),
            };
            fill(&mut transaction, &invoice).await?;
            invoice.lines = lines(&mut transaction, &invoice).await?;
            invoices.push(invoice);
        }
        transaction.commit().await?;
        Ok(invoices)
    }

    async fn invoices(&self, project: Option<&ProjectId>) -> Result<Vec<Invoice>, StoreError> {
        let rows: Vec<InvoiceRow> = sqlx::query_as(concat!(
            "SELECT ",
            invoice_columns!(),
            " FROM invoice WHERE $1 = '' OR project_id = $1 ORDER BY id"
        ))
        .bind(project.map_or("", ProjectId::as_str))
        .fetch_all(&self.readers)
        .await?;
        let mut connection = self.readers.acquire().await?;
        let mut invoices = Vec::with_capacity(rows.len());
        for row in rows {
            invoices.push(row.whole(&mut connection).await?);
        }
        Ok(invoices)
    }

    async fn find_invoice(&self, id: &str) -> Result<Invoice, StoreError> {
        let row: Option<InvoiceRow> = sqlx::query_as(concat!(
            "SELECT ",
            invoice_columns!(),
            " FROM invoice WHERE id = $1"
        ))
        .bind(id)
        .fetch_optional(&self.readers)
        .await?;
        let row = row.ok_or_else(|| StoreError::NotFound(format!("invoice {id:?}")))?;
        let mut connection = self.readers.acquire().await?;
        row.whole(&mut connection).await
    }
}

/// What is in an invoice is in it by name: what commits a moment later is in the next.
async fn fill(connection: &mut Connection, invoice: &Invoice) -> Result<(), sqlx::Error> {
    sqlx::query(concat!(
        "INSERT INTO invoice (",
        invoice_columns!(),
        ") VALUES ($1, $2, $3, $4, $5, $6)"
    ))
    .bind(&invoice.id)
    .bind(&invoice.project)
    .bind(&invoice.project_name)
    .bind(ms(invoice.period.start))
    .bind(ms(invoice.period.end))
    .bind(ms(invoice.closed))
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "INSERT INTO invoiced (event_id, invoice_id)
         SELECT c.event_id, $1 FROM charge c
         WHERE c.project_id = $2 AND c.ended_ms < $3 AND c.state <> 'absorbed'
            AND NOT EXISTS (SELECT 1 FROM invoiced i WHERE i.event_id = c.event_id)",
    )
    .bind(&invoice.id)
    .bind(&invoice.project)
    .bind(ms(invoice.period.end))
    .execute(connection)
    .await?;
    Ok(())
}

async fn lines(
    connection: &mut Connection,
    invoice: &Invoice,
) -> Result<Vec<InvoiceLine>, StoreError> {
    let rows: Vec<LineRow> = sqlx::query_as(
        "SELECT c.model, c.price_version, CAST(CASE WHEN c.ended_ms < $2 THEN 1 ELSE 0 END AS BIGINT) AS late,
            count(*) AS requests, CAST(sum(c.prompt_tokens) AS BIGINT) AS prompt_tokens,
            CAST(sum(c.cached_tokens) AS BIGINT) AS cached_tokens,
            CAST(sum(c.completion_tokens) AS BIGINT) AS completion_tokens,
            CAST(sum(c.amount_pico >> 32) AS BIGINT) AS high,
            CAST(sum(c.amount_pico & 4294967295) AS BIGINT) AS low
         FROM invoiced i JOIN charge c ON c.event_id = i.event_id
         WHERE i.invoice_id = $1 GROUP BY 1, 2, 3 ORDER BY 3, 1, 2",
    )
    .bind(&invoice.id)
    .bind(ms(invoice.period.start))
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(InvoiceLine::from).collect())
}

#[derive(sqlx::FromRow)]
struct InvoiceRow {
    id: String,
    project_id: String,
    project_name: String,
    start_ms: i64,
    end_ms: i64,
    closed_ms: i64,
}

impl InvoiceRow {
    async fn whole(self, connection: &mut Connection) -> Result<Invoice, StoreError> {
        let mut invoice = Invoice {
            id: self.id,
            project: self.project_id,
            project_name: self.project_name,
            period: Period {
                start: time(self.start_ms)?,
                end: time(self.end_ms)?,
            },
            closed: time(self.closed_ms)?,
            lines: Vec::new(),
        };
        invoice.lines = lines(connection, &invoice).await?;
        Ok(invoice)
    }
}

#[derive(sqlx::FromRow)]
struct LineRow {
    model: String,
    price_version: String,
    late: i64,
    requests: i64,
    prompt_tokens: i64,
    cached_tokens: i64,
    completion_tokens: i64,
    high: i64,
    low: i64,
}

impl From<LineRow> for InvoiceLine {
    fn from(row: LineRow) -> Self {
        Self {
            model: row.model,
            price_version: row.price_version,
            late: row.late != 0,
            requests: row.requests,
            prompt_tokens: row.prompt_tokens,
            cached_tokens: row.cached_tokens,
            completion_tokens: row.completion_tokens,
            amount: Money((i128::from(row.high) << 32) + i128::from(row.low)),
        }
    }
}
