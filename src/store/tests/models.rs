//! Revisions, which of them serve, and how they did.

use serde_json::json;

use super::*;
use crate::types::{
    Act, Actor, Definition, Evaluation, EvaluationQuery, Organisation, Page, Serving,
    StoredRevision,
};

fn revision(model: &str, base: &str) -> StoredRevision {
    let definition = Definition {
        base: base.into(),
        adapter: None,
        adapter_name: None,
        profile: None,
    };
    StoredRevision {
        model: model.into(),
        id: definition.id(),
        definition,
        made: Timestamp::from_millisecond(1_000).unwrap(),
    }
}

fn serving(model: &str, version: u64, revision: &str) -> Serving {
    Serving {
        model: model.into(),
        version,
        configured: revision.into(),
        revision: revision.into(),
        previous: None,
        canary: None,
        shadow: None,
    }
}

fn evaluation(id: &str, revision: &str, version: &str, score: f64) -> Evaluation {
    Evaluation {
        id: id.into(),
        at: Timestamp::from_millisecond(5_000).unwrap(),
        suite: "s".into(),
        suite_version: version.into(),
        model: "m".into(),
        revision: revision.into(),
        score,
        low: 0.25,
        high: 0.75,
        items: 4,
        failed: 1,
        report: json!({"tried": [1, 2]}),
    }
}

fn page(limit: u32) -> Page {
    Page { after: None, limit }
}

on_both! {
    async fn a_revision_is_kept_as_it_was_first(desk: Desk) {
        let (one, other) = (revision("m", "a"), revision("m", "b"));
        desk.store.define(&one).await.unwrap();
        let later = StoredRevision { made: Timestamp::now(), ..one.clone() };
        desk.store.define(&later).await.unwrap();
        desk.store.define(&other).await.unwrap();
        let all = desk.store.revisions().await.unwrap();
        assert_eq!(all.len(), 2);
        assert!(all.contains(&one) && all.contains(&other));
        assert_eq!(desk.store.serving().await.unwrap(), (2, Vec::new()));
    }

    async fn of_two_who_decide_at_once_one_looks_again(desk: Desk) {
        let act = async |next: Serving| {
            let act = Act::Serve { event: "model.promoted", next };
            desk.store.act(&Actor::CommandLine, &Organisation::DEFAULT.into(), &act).await
        };
        act(serving("m", 1, "a")).await.unwrap();
        act(serving("m", 2, "b")).await.unwrap();
        for version in [1, 2, 4] {
            let late = act(serving("m", version, "c")).await;
            assert!(matches!(late, Err(StoreError::InUse(_))), "{version}: {late:?}");
        }
        act(serving("n", 1, "c")).await.unwrap();
        let (_, all) = desk.store.serving().await.unwrap();
        assert_eq!(all, [serving("m", 2, "b"), serving("n", 1, "c")]);
        let audit = desk.store.audit(&Organisation::DEFAULT.into(), &page(10)).await.unwrap();
        let lines = audit.iter().filter(|line| line.action == "model.promoted");
        assert_eq!(lines.count(), 3, "what came to nothing stands in no log");
    }

    async fn evaluations_are_found_by_what_they_are_of(desk: Desk) {
        let all = [
            evaluation("eval_00000001", "a#1", "x", 0.5),
            evaluation("eval_00000002", "a#1", "y", 0.75),
            evaluation("eval_00000003", "a#2", "x", 1.0),
        ];
        for one in &all {
            desk.store.evaluated(one).await.unwrap();
        }
        let found = async |revision: Option<&str>, suite: Option<&str>, limit| {
            let query = EvaluationQuery {
                model: Some("m".into()),
                revision: revision.map(str::to_owned),
                suite_version: suite.map(str::to_owned),
            };
            let rows = desk.store.evaluations(&query, &page(limit)).await.unwrap();
            rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
        };
        assert_eq!(found(None, None, 2).await, ["eval_00000003", "eval_00000002"]);
        assert_eq!(found(Some("a#1"), Some("x"), 9).await, ["eval_00000001"]);
        assert!(found(Some("a#3"), None, 9).await.is_empty());
        assert_eq!(desk.store.find_evaluation("00000002").await.unwrap(), all[1]);
        for id in ["2", "%0000002", "10000002"] {
            let none = desk.store.find_evaluation(id).await;
            assert!(matches!(none, Err(StoreError::NotFound(_))), "{id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_store_may_be_opened_by_several_at_once() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/t.db", folder.path().display());
        let opens = (0..6).map(|_| {
            let url = url.clone();
            tokio::spawn(async move { open(&url).await.map(drop) })
        });
        for opened in futures_util::future::join_all(opens).await {
            opened.unwrap().unwrap();
        }
    }
}
