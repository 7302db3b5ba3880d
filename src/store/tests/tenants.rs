use jiff::SignedDuration;

use super::*;
use crate::tenancy::{Admin, KeyWish};
use crate::types::{Actor, KeysOf, LimitSet, Limits, Organisation, Page, Scope};

const ALL: Page = Page {
    after: None,
    limit: 1000,
};

fn admin(desk: &Desk) -> Admin<'_> {
    Admin {
        store: &*desk.store,
        actor: Actor::CommandLine,
    }
}

async fn default(desk: &Desk) -> Organisation {
    desk.store.find_organisation("default").await.unwrap()
}

fn per_minute(requests: u64) -> Limits {
    Limits {
        requests_per_minute: Some(requests),
        ..Limits::default()
    }
}

on_both! {
    async fn a_project_is_made_once_and_found_by_name_or_id(desk: Desk) {
        let (admin, organisation) = (admin(&desk), default(&desk).await.id);
        let made = admin.ensure_project(&organisation, "local").await.unwrap();
        assert_eq!(admin.ensure_project(&organisation, "local").await.unwrap().id, made.id);
        assert_eq!(desk.store.find_project(made.id.as_str()).await.unwrap().name, "local");
        let twice = admin.create_project(&organisation, "local", Limits::default()).await;
        assert!(matches!(twice, Err(StoreError::Exists(_))));
        let other = admin.create_project(&organisation, "other", Limits::default()).await.unwrap();
        assert!(matches!(admin.rename_project(&other, "local").await, Err(StoreError::Exists(_))));
        admin.rename_project(&other, "another").await.unwrap();
        assert!(desk.store.find_project("other").await.is_err());
    }

    async fn an_archived_project_is_in_no_list_and_its_keys_say_so(desk: Desk) {
        let (admin, organisation) = (admin(&desk), default(&desk).await.id);
        let project = admin.create_project(&organisation, "p", Limits::default()).await.unwrap();
        let made = admin.create_key(&project, KeyWish::default()).await.unwrap();
        admin.archive_project(&project).await.unwrap();
        assert!(desk.store.projects(None, false, &ALL).await.unwrap().is_empty());
        assert_eq!(desk.store.projects(Some(&organisation), true, &ALL).await.unwrap().len(), 1);
        let hash = <sha2::Sha256 as sha2::Digest>::digest(made.secret.as_bytes()).into();
        assert!(desk.store.holder(&hash).await.unwrap().unwrap().archived);
    }

    async fn a_key_carries_its_limits_from_its_first_moment(desk: Desk) {
        let (admin, organisation) = (admin(&desk), default(&desk).await.id);
        let project = admin.create_project(&organisation, "p", per_minute(9)).await.unwrap();
        let wish = KeyWish {
            models: Some(vec!["m".into()]),
            limits: per_minute(3),
            ..KeyWish::default()
        };
        let made = admin.create_key(&project, wish).await.unwrap();
        let whole = LimitSet { scope: Scope::Organisation, id: organisation.as_str().into(), model: Some("m".into()), limits: per_minute(100) };
        admin.set_limits(&organisation, whole).await.unwrap();
        let hash = <sha2::Sha256 as sha2::Digest>::digest(made.secret.as_bytes()).into();
        let holder = desk.store.holder(&hash).await.unwrap().unwrap();
        let limits: Vec<_> = holder.limits.iter().map(|set| (set.scope, set.limits.requests_per_minute)).collect();
        assert_eq!(limits, [(Scope::Key, Some(3)), (Scope::Organisation, Some(100)), (Scope::Project, Some(9))]);
        assert_eq!(holder.key.models, Some(vec!["m".to_owned()]));
        assert_eq!(desk.store.limits(&project.id).await.unwrap().len(), 2);

        let set = LimitSet { scope: Scope::Key, id: made.key.id.as_str().into(), model: None, limits: Limits::default() };
        admin.set_limits(&organisation, set.clone()).await.unwrap();
        assert!(desk.store.limits_of(Scope::Key, &set.id).await.unwrap().is_empty());
        let nobody = LimitSet { id: "key_none".into(), limits: per_minute(1), ..set };
        assert!(matches!(admin.set_limits(&organisation, nobody).await, Err(StoreError::NotFound(_))));
    }

    async fn rotation_with_overlap(desk: Desk) {
        let (admin, organisation) = (admin(&desk), default(&desk).await.id);
        let project = admin.create_project(&organisation, "p", Limits::default()).await.unwrap();
        let wish = KeyWish { name: "app".into(), limits: per_minute(3), ..KeyWish::default() };
        let old = admin.create_key(&project, wish).await.unwrap();
        let until = Timestamp::now() + SignedDuration::from_hours(1);
        let new = admin.rotate_key(&old.key, until).await.unwrap();
        assert_ne!(new.secret, old.secret);
        assert_eq!((new.key.name.as_str(), new.key.expires), ("app", None));
        let old_key = desk.store.find_key(&old.key.id).await.unwrap();
        assert_eq!(old_key.expires.unwrap().as_millisecond(), until.as_millisecond());
        assert_eq!(desk.store.limits_of(Scope::Key, new.key.id.as_str()).await.unwrap().len(), 1);
        // A second rotation can shorten what is left, never lengthen it.
        admin.rotate_key(&old.key, until + SignedDuration::from_hours(9)).await.unwrap();
        let unchanged = desk.store.find_key(&old.key.id).await.unwrap();
        assert_eq!(unchanged.expires, old_key.expires);
    }

    async fn an_audit_row_per_administrative_act(desk: Desk) {
        let (admin, organisation) = (admin(&desk), default(&desk).await.id);
        let project = admin.create_project(&organisation, "p", Limits::default()).await.unwrap();
        let made = admin.create_key(&project, KeyWish::default()).await.unwrap();
        let until = Timestamp::now() + SignedDuration::from_hours(1);
        admin.rotate_key(&made.key, until).await.unwrap();
        admin.revoke_key(&made.key).await.unwrap();
        assert!(admin.revoke_key(&made.key).await.is_err(), "what fails leaves no row");
        admin.rename_project(&project, "q").await.unwrap();
        let set = LimitSet { scope: Scope::Project, id: project.id.as_str().into(), model: None, limits: per_minute(1) };
        admin.set_limits(&organisation, set).await.unwrap();
        admin.archive_project(&project).await.unwrap();
        let rows = desk.store.audit(&organisation, &ALL).await.unwrap();
        let actions: Vec<_> = rows.iter().rev().map(|row| row.action.as_str()).collect();
        assert_eq!(actions, [
            "project.created", "api_key.created", "api_key.rotated", "api_key.deleted",
            "project.updated", "rate_limit.updated", "project.archived",
        ]);
        assert!(rows.iter().all(|row| row.actor == "cli"));
        let told = format!("{rows:?}");
        assert!(!told.contains(&made.secret) && !told.contains("hash"));
        let page = Page { after: Some(rows[4].id.clone()), limit: 1 };
        assert_eq!(desk.store.audit(&organisation, &page).await.unwrap()[0], rows[5]);
        let error = desk.refusal("DELETE FROM audit").await;
        assert!(error.contains("append-only"), "{error}");
    }

    async fn keys_are_listed_by_whose_they_are(desk: Desk) {
        let (admin, organisation) = (admin(&desk), default(&desk).await.id);
        let project = admin.create_project(&organisation, "p", Limits::default()).await.unwrap();
        let key = admin.create_key(&project, KeyWish::default()).await.unwrap().key;
        let own = admin.create_admin_key(&organisation, KeyWish::default()).await.unwrap().key;
        let ids = async |of: KeysOf| {
            let keys = desk.store.keys(&of, &ALL).await.unwrap();
            keys.into_iter().map(|key| key.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(KeysOf::Project(project.id.clone())).await, std::slice::from_ref(&key.id));
        assert_eq!(ids(KeysOf::Administrators(organisation.clone())).await, std::slice::from_ref(&own.id));
        assert_eq!(ids(KeysOf::All).await.len(), 2);
        admin.revoke_key(&key).await.unwrap();
        assert_eq!(ids(KeysOf::All).await, [own.id]);
        desk.store.used(&key.id).await.unwrap();
        let used = desk.store.find_key(&key.id).await.unwrap().last_used;
        assert!(used.is_some());
        desk.store.used(&key.id).await.unwrap();
        assert_eq!(desk.store.find_key(&key.id).await.unwrap().last_used, used, "once a minute");
    }
}
