use super::*;
use crate::store;
use crate::types::{Actor, Project, Store};

struct Desk {
    store: Arc<dyn Store>,
    _folder: tempfile::TempDir,
}

impl Desk {
    async fn open() -> (Self, Project) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/t.db", folder.path().display());
        let desk = Self {
            store: store::open(&url).await.unwrap(),
            _folder: folder,
        };
        let organisation = desk.store.find_organisation("default").await.unwrap().id;
        let project = desk
            .admin()
            .ensure_project(&organisation, "acme")
            .await
            .unwrap();
        (desk, project)
    }

    fn admin(&self) -> Admin<'_> {
        Admin {
            store: &*self.store,
            actor: Actor::Server,
        }
    }

    fn tenancy(&self, bootstrap: Option<(&str, Caller)>) -> Tenancy {
        Tenancy::new(Arc::clone(&self.store) as Arc<dyn TenantStore>, bootstrap)
    }
}

async fn caller(tenancy: &Tenancy, secret: &str) -> Option<Caller> {
    match tenancy.authenticate(secret).await {
        Ok(Identity::Tenant(access)) => Some(access.caller.clone()),
        _ => None,
    }
}

#[tokio::test]
async fn a_key_is_known_by_its_secret_alone() {
    let (desk, project) = Desk::open().await;
    let made = desk
        .admin()
        .create_key(&project, KeyWish::default())
        .await
        .unwrap();
    let secret = made.secret;
    assert!(secret.starts_with("fb-") && secret.len() == 51);

    let tenancy = desk.tenancy(None);
    for _ in 0..2 {
        let caller = caller(&tenancy, &secret).await.unwrap();
        assert_eq!(
            (caller.project, caller.key),
            (project.id.clone(), made.key.id.clone())
        );
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
    let (desk, project) = Desk::open().await;
    let local = Caller {
        organisation: project.organisation,
        project: project.id,
        key: "key_bootstrap".into(),
    };
    let with = desk.tenancy(Some(("fb-local", local.clone())));
    assert_eq!(caller(&with, "fb-local").await, Some(local));
    assert!(desk.tenancy(None).authenticate("fb-local").await.is_err());
}

#[tokio::test]
async fn an_administrators_key_is_no_tenants() {
    let (desk, project) = Desk::open().await;
    let wish = KeyWish::default();
    let made = desk
        .admin()
        .create_admin_key(&project.organisation, wish)
        .await
        .unwrap();
    let identity = desk.tenancy(None).authenticate(&made.secret).await.unwrap();
    assert!(matches!(identity, Identity::Administrator(admin) if admin.key == made.key.id));
}

#[tokio::test]
async fn a_key_that_ended_says_how() {
    let (desk, project) = Desk::open().await;
    let admin = desk.admin();
    let past = KeyWish {
        expires: Some(Timestamp::now() - SignedDuration::from_secs(1)),
        ..KeyWish::default()
    };
    let expired = admin.create_key(&project, past).await.unwrap();
    let revoked = admin
        .create_key(&project, KeyWish::default())
        .await
        .unwrap();
    admin.revoke_key(&revoked.key).await.unwrap();
    let kept = admin
        .create_key(&project, KeyWish::default())
        .await
        .unwrap();
    let tenancy = desk.tenancy(None);
    assert!(caller(&tenancy, &kept.secret).await.is_some());
    admin.archive_project(&project).await.unwrap();
    for (made, word) in [(&expired, "expired"), (&revoked, "taken back")] {
        let error = tenancy.authenticate(&made.secret).await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    // What was looked up once is good for 2 seconds more.
    tokio::time::sleep(CACHE_FOR).await;
    let error = tenancy.authenticate(&kept.secret).await.unwrap_err();
    assert!(error.to_string().contains("archived"), "{error}");
}
