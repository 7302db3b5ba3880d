use super::*;

fn router() -> Router {
    let config = Config::parse(
        "[[worker]]\nname = \"a\"\nengine = \"llama\"\nmodel = \"base\"\n
         [[worker]]\nname = \"b\"\nengine = \"bert\"\nmodel = \"vectors\"\n
         [[model]]\nname = \"legal\"\nbase = \"base\"\nprice = { prompt = \"1\", completion = \"2\", batch_percent = 50 }\n",
    )
    .unwrap();
    Router::new(&config).unwrap()
}

#[test]
fn a_vertical_runs_on_its_base_at_its_own_price() {
    let router = router();
    let plan = router
        .resolve("legal", Kind::Generate, Class::Standard)
        .unwrap();
    assert_eq!((&*plan.model, &*plan.pool), ("legal", "base"));
    assert_eq!(plan.price.completion_pico, 2_000_000);
    let batch = router.resolve("legal", Kind::Generate, Class::Batch);
    assert_eq!(batch.unwrap().price.completion_pico, 1_000_000);
    assert_eq!(
        router
            .resolve("base", Kind::Generate, Class::Standard)
            .unwrap()
            .price
            .completion_pico,
        0
    );
    assert_eq!(router.names(), ["base", "legal", "vectors"]);
}

#[test]
fn a_model_has_other_names_and_is_billed_by_its_own() {
    let config = Config::parse(
        "[[worker]]\nname = \"a\"\nengine = \"llama\"\nmodel = \"base\"\n
         [[model]]\nname = \"base\"\naliases = [\"gpt-4o-mini\"]\n",
    )
    .unwrap();
    let router = Router::new(&config).unwrap();
    let plan = router.resolve("gpt-4o-mini", Kind::Generate, Class::Standard);
    assert_eq!(&*plan.unwrap().model, "base");
    assert_eq!(&*router.label("gpt-4o-mini"), "base");
    let choice = router.choose("gpt-4o-mini", || None);
    assert!(choice.unwrap().speech().decoded);
    assert_eq!(router.names(), ["base", "gpt-4o-mini"]);
}

#[test]
fn a_price_holds_from_its_time_until_the_next() {
    let config = Config::parse(
        "[[worker]]\nname = \"a\"\nengine = \"llama\"\nmodel = \"base\"\n
         [[model]]\nname = \"base\"\nprice = [{ prompt = \"1\" }, { from = \"2027-01-01T00:00:00Z\", prompt = \"2\" }]\n",
    )
    .unwrap();
    let router = Router::new(&config).unwrap();
    let table = router.table();
    let served = &table.models["base"];
    let at = |time: &str| {
        let price = served.price_at(time.parse().unwrap(), Class::Standard);
        price.prompt_pico
    };
    assert_eq!(at("1970-01-01T00:00:00Z"), 1_000_000);
    assert_eq!(at("2026-12-31T23:59:59.999Z"), 1_000_000);
    assert_eq!(at("2027-01-01T00:00:00Z"), 2_000_000);
}

#[test]
fn what_does_not_exist_or_can_not_do_it_is_refused_by_name() {
    let router = router();
    assert!(matches!(
        router.resolve("x", Kind::Generate, Class::Standard),
        Err(Error::UnknownModel(_))
    ));
    let error = router
        .resolve("vectors", Kind::Generate, Class::Standard)
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "the model \"vectors\" makes embeddings, not text"
    );
    assert_eq!(
        (&*router.label("legal"), &*router.label("anything\n")),
        ("legal", "")
    );
}
