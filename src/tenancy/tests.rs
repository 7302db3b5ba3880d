use crate::store::Sqlite;

use super::*;

async fn store() -> (tempfile::TempDir, Arc<Sqlite>) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/t.db", folder.path().display());
    (folder, Arc::new(Sqlite::open(&url).await.unwrap()))
}

#[tokio::test]
async fn a_key_is_known_by_its_secret_alone() {
    let (_folder, store) = store().await;
    let project = create_project(&*store, "acme").await.unwrap();
    let secret = create_key(&*store, &project).await.unwrap();
    assert!(secret.starts_with("fb-") && secret.len() == 51);

    let tenancy = Tenancy::new(store, None);
    for _ in 0..2 {
        let caller = tenancy.authenticate(&secret).await.unwrap();
        assert_eq!(caller.project, project.id);
    }
    for wrong in ["", "fb-", &secret[..50], &secret.to_lowercase()] {
        assert!(matches!(
            tenancy.authenticate(wrong).await,
            Err(Error::UnknownKey)
        ));
    }
}

#[tokio::test]
async fn the_bootstrap_key_is_good_only_where_it_is_set() {
    let (_folder, store) = store().await;
    let caller = Caller {
        project: "proj_local".into(),
        key: "key_bootstrap".into(),
    };
    let with = Tenancy::new(
        Arc::clone(&store) as Arc<dyn TenantStore>,
        Some(("fb-local", caller.clone())),
    );
    assert_eq!(with.authenticate("fb-local").await.unwrap(), caller);
    let without = Tenancy::new(store, None);
    assert!(without.authenticate("fb-local").await.is_err());
}

#[tokio::test]
async fn a_project_is_made_once_and_found_by_name_or_id() {
    let (_folder, store) = store().await;
    let made = ensure_project(&*store, "local").await.unwrap();
    assert_eq!(ensure_project(&*store, "local").await.unwrap(), made);
    assert_eq!(store.find_project(made.id.as_str()).await.unwrap(), made);
    assert!(matches!(
        create_project(&*store, "local").await,
        Err(StoreError::Exists(_))
    ));
}
