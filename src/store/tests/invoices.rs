use super::*;
use crate::types::{Period, UsageQuery};

fn ended(time: &str, amount: i128) -> LedgerBatch {
    let flown = flown_by("proj_a", "key_a", "m");
    let row = charge(&flown, usage(10, 1), Money(amount), State::Settled);
    book(Charge {
        ended: time.parse().unwrap(),
        ..row
    })
}

fn month(text: &str) -> Period {
    Period::month(text).unwrap()
}

/// Half a hundredth.
const HALF: i128 = 5_000_000_000;

on_both! {
    async fn an_invoice_close_with_a_late_event(desk: Desk) {
        desk.commit(ended("2026-10-01T00:00:00Z", 3 * HALF)).await;
        desk.commit(ended("2026-10-31T23:59:59.999Z", 2 * HALF)).await;
        desk.commit(ended("2026-11-01T00:00:00Z", 7)).await;
        let october = desk.store.close_period(&month("2026-10")).await.unwrap();
        assert_eq!(october.len(), 1);
        assert_eq!(october[0].exact(), Money(5 * HALF));
        assert_eq!(october[0].total().with_digits(2), "0.03", "rounded once, from the exact sum");

        // One of October comes late.
        desk.commit(ended("2026-10-15T12:00:00Z", HALF)).await;
        let again = desk.store.close_period(&month("2026-10")).await;
        assert!(matches!(again, Err(StoreError::Exists(_))));
        let november = desk.store.close_period(&month("2026-11")).await.unwrap();
        let lines: Vec<_> = november[0].lines.iter().map(|line| (line.late, line.requests, line.amount)).collect();
        assert_eq!(lines, [(false, 1, Money(7)), (true, 1, Money(HALF))]);
        assert_eq!(november[0].total().with_digits(2), "0.01");

        assert_eq!(desk.store.find_invoice(&october[0].id).await.unwrap(), october[0]);
        let all = desk.store.invoices(Some(&"proj_a".into())).await.unwrap();
        assert_eq!(all, [october, november].concat());
        // All invoices together are the ledger.
        let ledger = desk.store.usage(&UsageQuery::default()).await.unwrap();
        let invoiced: i128 = all.iter().map(|invoice| invoice.exact().0).sum();
        assert_eq!(ledger[0].amount.0, invoiced);
        let error = desk.refusal("DELETE FROM invoiced").await;
        assert!(error.contains("append-only"), "{error}");
    }

    async fn periods_are_closed_in_their_order(desk: Desk) {
        desk.commit(ended("2026-11-01T00:00:00Z", 7)).await;
        assert!(desk.store.close_period(&month("2026-12")).await.unwrap()[0].lines[0].late);
        assert!(desk.store.close_period(&month("2026-11")).await.is_err());
        assert!(desk.store.close_period(&month("2027-01")).await.unwrap().is_empty());
    }
}
