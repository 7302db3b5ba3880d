use proptest::prelude::*;
use serde_json::json;

use super::*;

fn guards(rules: serde_json::Value) -> Guards {
    let rules: Vec<GuardRule> = serde_json::from_value(rules).unwrap();
    Guards::new(&rules).unwrap()
}

fn refusal(rule: serde_json::Value) -> String {
    let rule: GuardRule = serde_json::from_value(rule).unwrap();
    Guards::new(&[rule]).unwrap_err()
}

/// What passes of a text, and what was found.
fn whole(guards: &Guards, text: &str) -> (String, Found) {
    let mut found = Found::default();
    let passes = guards.text(Side::Output, text, &mut found);
    (passes, found)
}

/// What passes of it by pieces, each with its text.
fn pieces(guards: &Guards, pieces: &[&str]) -> Vec<String> {
    let mut filter = guards.filter(Side::Output);
    let mut out: Vec<_> = pieces.iter().map(|piece| filter.push(piece)).collect();
    out.push(filter.finish());
    out
}

#[test]
fn each_kind_of_data_is_known_by_its_form_and_its_check_digits() {
    let masked = |kind: &str, text: &str| {
        let rule = json!([{"name": "r", "then": "mask", "pii": [kind]}]);
        whole(&guards(rule), text).0
    };
    for (kind, text, expected) in [
        (
            "email",
            "Write to jo.b+x@mail.example.org, soon",
            "Write to [email], soon",
        ),
        ("email", "a@b is none", "a@b is none"),
        ("phone", "call +49 (0)30 123456-78 now", "call [phone] now"),
        ("phone", "call 030/1234567.", "call [phone]."),
        (
            "phone",
            "1900 to 2000, 3.14159265",
            "1900 to 2000, 3.14159265",
        ),
        (
            "iban",
            "to DE89 3704 0044 0532 0130 00 please",
            "to [iban] please",
        ),
        (
            "iban",
            "to DE88 3704 0044 0532 0130 00 please",
            "to DE88 3704 0044 0532 0130 00 please",
        ),
        ("card", "pay 4111 1111 1111 1111!", "pay [card]!"),
        (
            "card",
            "pay 4111 1111 1111 1112!",
            "pay 4111 1111 1111 1112!",
        ),
        ("ip", "host 192.168.0.1:80", "host [ip]:80"),
        ("ip", "version 1.2.3.400", "version 1.2.3.400"),
    ] {
        assert_eq!(masked(kind, text), expected, "{kind}");
    }
}

#[test]
fn words_are_whole_whatever_their_case() {
    let guards =
        guards(json!([{"name": "rude", "then": "mask", "words": ["darn", "über uns", "a.b"]}]));
    for (text, expected) in [
        ("Darn it, DARN!", "[rude] it, [rude]!"),
        ("darned undarn", "darned undarn"),
        ("Über uns: a.b, axb", "[rude]: [rude], axb"),
    ] {
        assert_eq!(whole(&guards, text).0, expected);
    }
}

#[test]
fn what_is_hidden_never_leaves_in_part() {
    let guards = guards(json!([
        {"name": "mail", "then": "mask", "pii": ["email"]},
        {"name": "code", "then": "mask", "regex": "K[0-9]{3}(?:-[0-9]+)?"},
    ]));
    let out = pieces(
        &guards,
        &[
            "My mail is jo",
            "hn@ma",
            "il.org",
            " and K1",
            "23",
            "-4",
            "5 it is",
        ],
    );
    assert_eq!(
        out,
        [
            "My mail is ",
            "",
            "",
            "[email] and ",
            "",
            "",
            "[code] it ",
            "is"
        ]
    );
    // A beginning that comes to nothing passes as it is.
    let out = pieces(&guards, &["K12", " is short, K", "99"]);
    assert_eq!(out, ["", "K12 is short, ", "", "K99"]);
}

#[test]
fn an_answer_ends_before_what_is_refused() {
    let guards = guards(json!([{"name": "secret", "then": "block", "words": ["launch code"]}]));
    let out = pieces(&guards, &["The launch", " code is 1234", " and more"]);
    assert_eq!(out.concat(), "The ");
    let (_, found) = whole(&guards, "The launch code");
    assert_eq!(found.all().collect::<Vec<_>>(), [("secret", "block")]);
}

#[test]
fn what_is_only_told_passes_at_once() {
    let guards = guards(json!([{"name": "tell", "then": "flag", "words": ["abc"]}]));
    assert_eq!(pieces(&guards, &["x ab", "c y"]), ["x ab", "c y", ""]);
    let (_, found) = whole(&guards, "x abc");
    assert_eq!(found.all().collect::<Vec<_>>(), [("tell", "flag")]);
}

#[test]
fn what_is_too_long_is_cut_refused_or_told() {
    for (then, passes) in [("mask", "ünï"), ("block", "ünï"), ("flag", "ünïcödé")] {
        let guards = guards(json!([{"name": "long", "then": then, "max_chars": 3}]));
        let mut filter = guards.filter(Side::Output);
        let out = filter.push("ün") + &filter.push("ïcödé") + &filter.finish();
        assert_eq!(out, passes, "{then}");
        assert_eq!(filter.found().all().next(), Some(("long", then)));
        assert_eq!(filter.found().cut, then == "mask");
        assert!(whole(&guards, "abc").1.all().next().is_none());
    }
}

#[test]
fn rules_follow_each_other_and_look_their_way() {
    let guards = guards(json!([
        {"name": "a", "on": "input", "then": "block", "words": ["x"]},
        {"name": "b", "on": "output", "then": "mask", "words": ["y"]},
    ]));
    let mut found = Found::default();
    assert_eq!(guards.text(Side::Input, "y x", &mut found), "y ");
    assert_eq!(whole(&guards, "x y").0, "x [b]");
    assert!(guards.hold(Side::Output) && guards.look_at(Side::Input));
}

#[test]
fn arguments_are_read_as_their_reader_will_read_them() {
    let guards = guards(json!([{"name": "m", "then": "mask", "pii": ["email", "card"]}]));
    let mut found = Found::default();
    let mut arguments = |text: &str| guards.arguments(Side::Output, text, &mut found);
    assert_eq!(
        arguments(r#"{"to": "jo\u0040mail.org", "n": [4111111111111111, 1.50]}"#),
        r#"{"to":"[email]","n":["[card]",1.5]}"#
    );
    assert_eq!(arguments(r#"{"n": 1.50 }"#), r#"{"n": 1.50 }"#);
    assert_eq!(arguments("not json jo@mail.org"), "not json [email]");
}

#[test]
fn a_long_text_is_read_once() {
    let guards =
        guards(json!([{"name": "m", "then": "mask", "pii": ["email", "iban", "card", "phone"]}]));
    // By a way that starts anew at each letter of a word this would take hours.
    let text = "a".repeat(1 << 20) + " jo@mail.org";
    let (passes, _) = whole(&guards, &text);
    assert!(passes.ends_with("a [email]") && passes.len() == (1 << 20) + 8);
}

#[test]
fn many_finds_cost_no_more_than_their_number() {
    let guards = guards(
        json!([{"name": "m", "then": "mask", "pii": ["email", "iban", "card", "phone", "ip"]}]),
    );
    // Each kind searched anew to the end for each address would take hours.
    let (passes, _) = whole(&guards, &"a@b.c ".repeat(100_000));
    assert_eq!(passes.len(), "[email] ".len() * 100_000);
    // So it is where the text comes in one large piece.
    let mut filter = guards.filter(Side::Output);
    let out = filter.push(&("a".repeat(1 << 18) + " jo@mail.org ")) + &filter.finish();
    assert!(out.ends_with("a [email] "));
}

#[test]
fn of_words_that_begin_alike_the_longer_is_hidden() {
    let guards = guards(json!([{"name": "w", "then": "mask", "words": ["Anna", "Anna Schmidt"]}]));
    assert_eq!(whole(&guards, "Anna Schmidt and Anna").0, "[w] and [w]");
    assert!(
        refusal(json!({"name": "b", "then": "mask", "regex": r"\bsecret\b"}))
            .contains("word boundar")
    );
}

#[test]
fn what_stands_behind_a_name_that_stands_twice_is_seen() {
    let guards = guards(json!([{"name": "m", "then": "mask", "pii": ["email"]}]));
    let passes = guards.arguments(
        Side::Output,
        r#"{"to": "jo@mail.org", "to": "x"}"#,
        &mut Found::default(),
    );
    assert_eq!(passes, r#"{"to":"x"}"#);
}

#[test]
fn rules_that_can_not_be_kept_are_refused() {
    for (rule, word) in [
        (json!({"name": "a", "then": "mask"}), "one of"),
        (json!({"name": "a", "then": "mask", "words": []}), "one of"),
        (
            json!({"name": "a", "then": "mask", "words": [" "]}),
            "empty",
        ),
        (
            json!({"name": "a", "then": "mask", "regex": "("}),
            "unclosed",
        ),
        (
            json!({"name": "a", "then": "mask", "regex": "a*"}),
            "nothing",
        ),
        (
            json!({"name": "a b", "then": "mask", "max_chars": 1}),
            "name",
        ),
        (
            json!({"name": "a", "then": "mask", "max_chars": 1, "regex": "a"}),
            "one of",
        ),
    ] {
        let told = refusal(rule.clone());
        assert!(
            told.contains(word) && !told.contains('\n'),
            "{rule}: {told}"
        );
    }
}

proptest! {
    /// However a text is cut, the same passes, and at no time more than a beginning of that.
    #[test]
    fn pieces_do_not_matter(
        text in "[ab@. é1-9KDE]{0,60}|(ab@b\\.a |K12|4111 1111 1111 1111|DE89370400440532013000| é){0,8}",
        cuts in prop::collection::vec(0_usize..80, 0..10),
        then in prop::sample::select(vec!["mask", "block", "flag"]),
    ) {
        let guards = guards(json!([
            {"name": "p", "then": then, "pii": ["email", "card", "iban", "phone"]},
            {"name": "r", "then": then, "regex": "K[0-9]+|a.*?b"},
            {"name": "w", "then": then, "words": ["aa", "é"]},
        ]));
        let (expected, found) = whole(&guards, &text);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| text.floor_char_boundary(*cut)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let mut filter = guards.filter(Side::Output);
        let mut out = String::new();
        for ends in cuts.windows(2) {
            out += &filter.push(&text[ends[0]..ends[1]]);
            prop_assert!(expected.starts_with(&out), "{out:?} of {expected:?}");
        }
        out += &filter.finish();
        prop_assert_eq!(&out, &expected);
        prop_assert_eq!(filter.found(), found);
    }
}
