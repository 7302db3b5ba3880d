use jiff::SignedDuration;

use super::*;
use crate::types::{FileId, FileQuery, ProjectId, Purpose, StoredFile, Upload, UploadStatus};

pub(super) fn file(project: &str) -> StoredFile {
    StoredFile {
        id: FileId::mint(),
        project: project.into(),
        filename: "f".into(),
        purpose: Purpose::Batch,
        bytes: 0,
        // As fine as it is kept.
        created: Timestamp::from_second(Timestamp::now().as_second()).unwrap(),
        expires: None,
    }
}

fn later(hours: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_hours(hours)
}

async fn put(desk: &Desk, file: &StoredFile, pieces: &[&[u8]]) {
    desk.store.begin_file(file, None, later(1)).await.unwrap();
    for (index, piece) in (0..).zip(pieces) {
        desk.store.append(file, index, piece, 100).await.unwrap();
    }
    desk.store.finish_file(file).await.unwrap();
}

/// Sweeps until there is nothing left, as at this time.
async fn sweep(desk: &Desk, at: Timestamp) {
    while desk.store.sweep(at).await.unwrap() {}
}

on_both! {
    async fn a_file_is_seen_once_it_is_finished_by_its_project_alone(desk: Desk) {
        let store = &desk.store;
        let mut file = file("proj_a");
        store.begin_file(&file, None, later(1)).await.unwrap();
        store.append(&file, 0, b"abc", 100).await.unwrap();
        store.append(&file, 1, b"de", 100).await.unwrap();
        assert!(store.find_file(&file.project, file.id.as_str()).await.is_err());
        file.filename = "renamed".into();
        store.finish_file(&file).await.unwrap();
        file.bytes = 5;
        let found = store.find_file(&file.project, file.id.as_str()).await.unwrap();
        assert_eq!(found, file);
        let other: ProjectId = "proj_b".into();
        assert!(store.find_file(&other, file.id.as_str()).await.is_err());
        assert!(store.remove_file(&other, file.id.as_str()).await.is_err());
        assert_eq!(store.contents(&file.id).await.unwrap(), [file.id.clone()]);
        assert_eq!(store.piece(&file.id, 1).await.unwrap().unwrap(), b"de");
        assert!(store.piece(&file.id, 2).await.unwrap().is_none());
        let all = FileQuery { purpose: None, ascending: true, after: None, limit: 9 };
        assert_eq!(store.files(&other, &all).await.unwrap(), []);
        store.remove_file(&file.project, file.id.as_str()).await.unwrap();
        sweep(&desk, Timestamp::now()).await;
        assert!(store.piece(&file.id, 0).await.unwrap().is_none());
        assert_eq!(desk.number("SELECT count(*) FROM file").await, 0);
    }

    async fn a_projects_files_take_no_more_than_they_may(desk: Desk) {
        let store = &desk.store;
        put(&desk, &file("proj_a"), &[&[0; 60]]).await;
        let coming = file("proj_a");
        store.begin_file(&coming, None, later(1)).await.unwrap();
        store.append(&coming, 0, &[0; 30], 100).await.unwrap();
        // What is coming counts as well, and others' don't.
        let another = file("proj_a");
        store.begin_file(&another, None, later(1)).await.unwrap();
        let full = store.append(&another, 0, &[0; 11], 100).await.unwrap_err();
        assert!(matches!(full, StoreError::Full(_)), "{full}");
        store.append(&another, 0, &[0; 10], 100).await.unwrap();
        put(&desk, &file("proj_b"), &[&[0; 100]]).await;
        store.abandon_file(&coming.id).await.unwrap();
        store.append(&another, 1, &[0; 30], 100).await.unwrap();
    }

    async fn what_has_expired_or_was_never_finished_goes(desk: Desk) {
        let store = &desk.store;
        let mut short = file("proj_a");
        short.expires = Some(later(2));
        put(&desk, &short, &[b"x"]).await;
        put(&desk, &file("proj_a"), &[b"y"]).await;
        let coming = file("proj_a");
        store.begin_file(&coming, None, later(1)).await.unwrap();
        store.append(&coming, 0, b"z", 100).await.unwrap();
        sweep(&desk, Timestamp::now()).await;
        assert_eq!(desk.number("SELECT count(*) FROM file").await, 3);
        sweep(&desk, later(1)).await;
        assert_eq!(desk.number("SELECT count(*) FROM file").await, 2);
        sweep(&desk, later(2)).await;
        assert_eq!(desk.number("SELECT count(*) FROM file").await, 1);
        assert_eq!(desk.number("SELECT count(*) FROM file_piece").await, 1);
    }

    async fn an_upload_is_completed_once_and_its_parts_go_with_it(desk: Desk) {
        let store = &desk.store;
        let mut whole = file("proj_a");
        whole.bytes = 2;
        let upload = Upload {
            id: crate::types::UploadId::mint(),
            file: whole.clone(),
            mime_type: "text/plain".into(),
            status: UploadStatus::Pending,
            until: later(1),
            keep_s: Some(7),
        };
        store.create_upload(&upload).await.unwrap();
        let found = store.find_upload(&whole.project, upload.id.as_str()).await.unwrap();
        assert_eq!((found.status, found.keep_s), (UploadStatus::Pending, Some(7)));
        let mut parts = Vec::new();
        for content in [b"b", b"a", b"c"] {
            let part = file("proj_a");
            store.begin_file(&part, Some(&upload.id), later(1)).await.unwrap();
            store.append(&part, 0, content, 100).await.unwrap();
            store.finish_file(&part).await.unwrap();
            parts.push(part.id);
        }
        assert_eq!(store.parts(&upload.id).await.unwrap().len(), 3);
        // No part is a file of its own.
        assert!(store.find_file(&whole.project, parts[0].as_str()).await.is_err());
        let chosen = [parts[1].clone(), parts[0].clone()];
        assert!(store.complete_upload(&upload.id, &whole, &chosen).await.unwrap());
        assert!(!store.complete_upload(&upload.id, &whole, &chosen).await.unwrap());
        assert!(!store.cancel_upload(&upload.id).await.unwrap());
        assert_eq!(store.contents(&whole.id).await.unwrap(), chosen);
        sweep(&desk, Timestamp::now()).await;
        assert_eq!(desk.number("SELECT count(*) FROM file_piece").await, 2);
        store.remove_file(&whole.project, whole.id.as_str()).await.unwrap();
        sweep(&desk, Timestamp::now()).await;
        assert_eq!(desk.number("SELECT count(*) FROM file").await, 0);

        let late = Upload { id: crate::types::UploadId::mint(), until: Timestamp::now(), ..upload };
        store.create_upload(&late).await.unwrap();
        let found = store.find_upload(&whole.project, late.id.as_str()).await.unwrap();
        assert_eq!(found.status, UploadStatus::Expired);
        assert!(!store.complete_upload(&late.id, &whole, &[]).await.unwrap());
    }
}
