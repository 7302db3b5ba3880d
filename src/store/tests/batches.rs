use std::time::Duration;

use super::*;
use crate::types::{
    Batch, BatchCounts, BatchHold, BatchId, BatchLine, BatchStatus, BatchStep, BatchTimes, FileId,
    LineOutcome, Page,
};

fn batch() -> Batch {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    Batch {
        id: BatchId::mint(),
        caller: flown().caller.clone(),
        endpoint: Endpoint::Chat,
        input: FileId::mint(),
        metadata: Some(serde_json::json!({"a": "b"})),
        keep_s: Some(3600),
        status: BatchStatus::Validating,
        faults: Vec::new(),
        counts: BatchCounts::default(),
        output: None,
        errors: None,
        created: now,
        expires: now,
        times: BatchTimes::default(),
    }
}

/// A batch needs its file.
async fn make(desk: &Desk, batch: &Batch) {
    let mut file = super::files::file(batch.caller.project.as_str());
    file.id = batch.input.clone();
    let until = Timestamp::now() + MINUTE;
    desk.store.begin_file(&file, None, until).await.unwrap();
    desk.store.finish_file(&file).await.unwrap();
    desk.store.create_batch(batch).await.unwrap();
}

fn hold(lasts: Duration) -> BatchHold {
    BatchHold {
        replica: ReplicaId::mint(),
        lasts,
        alone: false,
    }
}

fn line(number: u64) -> BatchLine {
    BatchLine {
        line: number,
        request: RequestId::mint(),
        custom_id: format!("c{number}"),
        paid: false,
        outcome: None,
    }
}

fn runs() -> BatchStep {
    BatchStep {
        from: &[BatchStatus::Validating],
        to: Some(BatchStatus::InProgress),
        total: Some(2),
        ..BatchStep::default()
    }
}

const MINUTE: Duration = Duration::from_secs(60);

on_both! {
    async fn one_replica_works_on_a_batch_until_it_leaves_or_is_silent(desk: Desk) {
        let store = &desk.store;
        let batch = batch();
        make(&desk, &batch).await;
        let (one, two) = (hold(Duration::from_millis(50)), hold(MINUTE));
        assert_eq!(store.take_batch(&one).await.unwrap().unwrap(), batch);
        // Who has it doesn't get it twice.
        assert!(store.take_batch(&one).await.unwrap().is_none());
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(store.take_batch(&two).await.unwrap().unwrap().id, batch.id);
        assert!(store.hold_batch(&batch.id, &one).await.unwrap().is_none());
        assert!(store.hold_batch(&batch.id, &two).await.unwrap().is_some());
        assert_eq!(store.begin_line(&batch.id, &one.replica, &line(1)).await.unwrap(), None);
        assert!(store.take_batch(&one).await.unwrap().is_none());
        // Who was silent has nothing to leave.
        store.leave_batch(&batch.id, &one.replica).await.unwrap();
        assert!(store.take_batch(&one).await.unwrap().is_none());
        let alone = BatchHold { alone: true, ..hold(MINUTE) };
        assert!(store.take_batch(&alone).await.unwrap().is_some());
        store.leave_batch(&batch.id, &alone.replica).await.unwrap();
        assert!(store.take_batch(&one).await.unwrap().is_some());
    }

    async fn a_line_has_one_outcome_and_it_is_counted_once(desk: Desk) {
        let store = &desk.store;
        let batch = batch();
        make(&desk, &batch).await;
        let hold = hold(MINUTE);
        store.take_batch(&hold).await.unwrap().unwrap();
        assert!(store.step_batch(&batch.id, &runs()).await.unwrap());
        assert!(!store.step_batch(&batch.id, &runs()).await.unwrap(), "it runs already");
        let (first, second) = (line(1), line(2));
        let begin = async |line: &BatchLine| store.begin_line(&batch.id, &hold.replica, line).await.unwrap();
        assert_eq!((begin(&first).await, begin(&second).await), (Some(false), Some(false)));
        // Begun anew, it is another request, and what comes of the first is nothing. What was charged of it is known.
        let mut charged = (*flown()).clone();
        charged.request = first.request;
        desk.commit(book(charge(&Arc::new(charged), usage(1, 1), Money(101), State::Settled))).await;
        let again = BatchLine { request: RequestId::mint(), ..first.clone() };
        assert_eq!(begin(&again).await, Some(true));
        let again = BatchLine { request: RequestId::mint(), ..first.clone() };
        assert_eq!(begin(&again).await, Some(true), "however often it is begun");
        let again = BatchLine { paid: true, ..again };
        let outcome = |status| LineOutcome { status, body: "{}".into() };
        store.end_line(&batch.id, &first, &outcome(500)).await.unwrap();
        store.end_line(&batch.id, &again, &outcome(200)).await.unwrap();
        store.end_line(&batch.id, &again, &outcome(200)).await.unwrap();
        store.end_line(&batch.id, &second, &outcome(400)).await.unwrap();
        assert_eq!(begin(&line(1)).await, None, "it has an answer");
        let lines = store.batch_lines(&batch.id, 0, 9, true).await.unwrap();
        assert_eq!(lines[0], BatchLine { outcome: Some(outcome(200)), ..again });
        assert_eq!(lines[1].outcome, Some(outcome(400)));
        let rest = store.batch_lines(&batch.id, 1, 9, false).await.unwrap();
        assert_eq!((rest.len(), rest[0].outcome.as_ref().unwrap().body.as_str()), (1, ""));
        let found = store.find_batch(&batch.caller.project, batch.id.as_str()).await.unwrap();
        assert_eq!(found.counts, BatchCounts { total: 2, completed: 1, failed: 1 });
        assert!(found.times.in_progress.is_some() && found.times.ended.is_none());
        while store.forget_lines(&batch.id).await.unwrap() {}
        assert_eq!(store.batch_lines(&batch.id, 0, 9, true).await.unwrap(), []);
    }

    async fn the_files_of_a_batch_are_seen_at_its_end(desk: Desk) {
        let store = &desk.store;
        let batch = batch();
        make(&desk, &batch).await;
        store.step_batch(&batch.id, &runs()).await.unwrap();
        let mut file = super::files::file("proj_a");
        file.project = batch.caller.project.clone();
        store.begin_file(&file, None, Timestamp::now() + MINUTE).await.unwrap();
        let end = |from: &'static [BatchStatus]| BatchStep {
            from,
            to: Some(BatchStatus::Completed),
            files: (Some(file.id.clone()), None),
            ..BatchStep::default()
        };
        assert!(!store.step_batch(&batch.id, &end(&[BatchStatus::Cancelling])).await.unwrap());
        assert!(store.find_file(&file.project, file.id.as_str()).await.is_err());
        assert!(store.step_batch(&batch.id, &end(&[BatchStatus::InProgress])).await.unwrap());
        let seen = store.find_file(&file.project, file.id.as_str()).await.unwrap();
        let kept = seen.expires.unwrap().duration_since(Timestamp::now()).as_secs();
        assert!((3500..=3600).contains(&kept), "{kept}");
        assert!(store.take_batch(&hold(MINUTE)).await.unwrap().is_none(), "it is over");
        let page = Page { after: None, limit: 9 };
        let listed = store.batches(&batch.caller.project, &page).await.unwrap();
        assert_eq!((listed.len(), listed[0].output.as_ref()), (1, Some(&file.id)));
        assert_eq!(store.batches(&"proj_b".into(), &page).await.unwrap(), []);
    }

    async fn a_batch_and_its_file_stay_together(desk: Desk) {
        let store = &desk.store;
        let batch = batch();
        let orphan = store.create_batch(&batch).await.unwrap_err();
        assert!(matches!(orphan, StoreError::NotFound(_)), "{orphan}");
        make(&desk, &batch).await;
        let (project, input) = (&batch.caller.project, batch.input.as_str());
        let kept = store.remove_file(project, input).await.unwrap_err();
        assert!(matches!(kept, StoreError::InUse(_)), "{kept}");
        let over = BatchStep {
            from: &[BatchStatus::Validating],
            to: Some(BatchStatus::Failed),
            ..BatchStep::default()
        };
        store.step_batch(&batch.id, &over).await.unwrap();
        store.remove_file(project, input).await.unwrap();
    }

    async fn a_request_is_paid_once_a_charge_of_it_stands(desk: Desk) {
        let flown = flown();
        assert!(!desk.store.is_paid(&flown.request).await.unwrap());
        desk.commit(book(charge(&flown, usage(1, 1), Money(0), State::Absorbed))).await;
        assert!(!desk.store.is_paid(&flown.request).await.unwrap());
        let mut again = (*flown).clone();
        again.attempt = 2;
        let again = Arc::new(again);
        desk.commit(book(charge(&again, usage(1, 1), Money(101), State::Settled))).await;
        assert!(desk.store.is_paid(&flown.request).await.unwrap());
    }
}
