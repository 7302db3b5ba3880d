//! What one request gets.

use super::*;

#[test]
fn choices_share_the_prompt_and_have_numbers_of_their_own() {
    with_engine(settings(2), |handle| {
        // More choices than slots.
        let request = Generate {
            choices: 5,
            ..greedy(chat("Name a fruit."), 8)
        };
        let reading = handle.ask(request.clone());
        let prompt = reading.prompt.len() as u64;
        let (choices, usage) = reading.whole();
        assert_eq!(choices.len(), 5);
        assert_eq!(handle.metrics.prefill_tokens.get(), prompt);
        assert_eq!(u64::from(usage.prompt_tokens), prompt);
        assert_eq!(usage.completion_tokens, 40);
        for choice in &choices {
            assert_eq!(choice.tokens[0], choices[0].tokens[0]);
            assert_eq!(choice.finish, Some(Finish::Length));
        }

        let drawn = Generate {
            sampling: Sampling {
                temperature: 2.0,
                seed: Some(7),
                ..Sampling::default()
            },
            ..request
        };
        let (again, _) = handle.ask(drawn.clone()).whole();
        let (choices, _) = handle.ask(drawn).whole();
        assert_eq!(choices[0].tokens[0].id, again[0].tokens[0].id);
        assert!(choices.iter().any(|choice| choice.text != choices[0].text));
    });
}

#[test]
fn a_list_of_prompts_is_answered_in_its_order() {
    with_engine(settings(2), |handle| {
        let prompts = ["One, two,", "Monday, Tuesday,", "red, green,"];
        let alone: Vec<_> = prompts
            .iter()
            .map(|text| {
                let (mut choices, _) = handle.ask(greedy(Prompt::Text((*text).into()), 6)).whole();
                choices.swap_remove(0).tokens[0].id
            })
            .collect();
        let request = Generate {
            prompts: prompts
                .iter()
                .map(|text| Prompt::Text((*text).into()))
                .collect(),
            choices: 2,
            ..greedy(chat(""), 6)
        };
        let (choices, usage) = handle.ask(request).whole();
        let first: Vec<_> = choices.iter().map(|choice| choice.tokens[0].id).collect();
        let expected: Vec<_> = alone.iter().flat_map(|id| [*id, *id]).collect();
        assert_eq!(first, expected);
        assert_eq!(usage.completion_tokens, 36);
    });
}

#[test]
fn what_was_drafted_is_kept_only_where_it_would_have_been_chosen() {
    let verse = "One ring, two rings, three rings, four rings, five rings, six rings. ";
    let request = greedy(Prompt::Text(verse.repeat(6)), 60);
    let ask = |lookup: bool| {
        let mut settings = settings(2);
        settings.bank.lookup = lookup;
        with_engine(settings, |handle| {
            let (mut choices, usage) = handle.ask(request.clone()).whole();
            assert_eq!(usage.completion_tokens, 60);
            let drafts = (handle.metrics.drafted.get(), handle.metrics.accepted.get());
            (choices.swap_remove(0), drafts)
        })
    };
    let (plain, drafts) = ask(false);
    assert_eq!(drafts, (0, 0));
    let (drafted, (computed, accepted)) = ask(true);
    assert!(
        accepted > 0 && accepted <= computed,
        "{accepted} of {computed}"
    );
    assert_eq!(drafted.tokens.len(), 60);
    are_alike(&plain, &drafted);
}

/// Words enough for a prompt of a few hundred tokens.
fn lore(topic: &str) -> String {
    rules(topic, 36)
}

fn rules(topic: &str, count: usize) -> String {
    (0..count)
        .map(|index| format!("Rule {index} of {topic}: take care of the {index}th thing. "))
        .collect()
}

/// As [`settings`], with room for prefixes.
fn keeping(slots: usize) -> Settings {
    Settings {
        prefix_cache_bytes: 256 << 20,
        ..settings(slots)
    }
}

/// The answer, the tokens of the prompt, and those that were not computed for it.
fn asked(handle: &Handle, tenant: &str, prompt: Prompt) -> (Read, usize, usize) {
    let reading = handle.ask_as(tenant, Class::Standard, greedy(prompt, 6));
    let prompt = reading.prompt.len();
    let (mut choices, usage) = reading.whole();
    (choices.swap_remove(0), prompt, usage.cached_tokens as usize)
}

/// They may part where two tokens are as good as tied.
fn are_alike(cold: &Read, warm: &Read) {
    for (cold, warm) in cold.tokens.iter().zip(&warm.tokens) {
        if cold.id != warm.id {
            break;
        }
        assert!((cold.logprob.unwrap() - warm.logprob.unwrap()).abs() < 1.0);
    }
}

#[test]
fn a_prefix_is_reused_for_its_own_tenant_alone() {
    with_engine(keeping(2), |handle| {
        // A window of attention holds it.
        let house = rules("the house", 24);
        let ask = |tenant: &str, question: &str| {
            asked(handle, tenant, chat(&format!("{house}{question}")))
        };
        let (first, prompt, cached) = ask("proj_a", "What is rule 3?");
        assert_eq!(cached, 0);
        assert!(prompt > 256 && prompt + 6 <= model().cuttable_tokens());
        let (_, prompt, cached) = ask("proj_a", "And what would be rule 61?");
        assert!(cached + 64 > prompt, "{cached} of {prompt}");
        let (_, _, cached) = ask("proj_b", "What is rule 3?");
        assert_eq!(cached, 0, "another tenant's prompt shows");
        let (again, prompt, cached) = ask("proj_a", "What is rule 3?");
        assert!(cached + 64 > prompt, "{cached} of {prompt}");
        are_alike(&first, &again);
        assert!(handle.metrics.prefix_bytes.get() > 0);
    });
}

#[test]
fn a_verticals_own_words_are_read_once_for_all_its_tenants() {
    with_engine(keeping(2), |handle| {
        let orders = rules("the house", 12);
        let preface = Preface {
            turns: 1,
            system_bytes: Some(orders.len()),
        };
        let own = format!("{orders}{}", rules("the guests", 4));
        let conversation = Chat {
            messages: vec![
                turn(Role::System, &own),
                turn(Role::User, "What is rule 3?"),
            ],
            ..Chat::default()
        };
        let words = Prompt::Chat(conversation.cut(preface));
        let words = model().prepare(&words).unwrap().len();
        let ask = |tenant: &str, preface: Option<Preface>| {
            let beside = Beside {
                preface,
                ..Beside::default()
            };
            let request = greedy(Prompt::Chat(conversation.clone()), 6);
            let reading = handle.ask_of(tenant, Class::Standard, beside, request);
            let prompt = reading.prompt.len();
            let (mut choices, usage) = reading.whole();
            (choices.swap_remove(0), prompt, usage.cached_tokens as usize)
        };
        let (cold, prompt, cached) = ask("proj_a", Some(preface));
        assert_eq!(cached, 0);
        assert!(prompt > words + 32 && prompt + 6 <= model().cuttable_tokens());
        // To the other models on these weights the same words are a client's.
        let (_, _, cached) = ask("proj_b", None);
        assert_eq!(cached, 0, "another tenant's prompt shows");
        let (warm, _, cached) = ask("proj_c", Some(preface));
        assert!(
            cached <= words - 32 && cached + 48 > words,
            "{cached} of {words}"
        );
        are_alike(&cold, &warm);
        let (_, prompt, cached) = ask("proj_c", Some(preface));
        assert!(cached + 32 > prompt, "{cached} of {prompt}");
    });
}

#[test]
fn a_state_that_is_longer_than_the_window_serves_whole_or_not_at_all() {
    with_engine(keeping(1), |handle| {
        let ask = |tokens: &[u32]| asked(handle, "proj_a", Prompt::Tokens(tokens.to_vec()));
        let long = handle.ask(greedy(Prompt::Text(rules("the wood", 50)), 40));
        let mut tokens = long.prompt.clone();
        let prompt = tokens.len();
        let (choices, _) = long.whole();
        tokens.extend(choices[0].tokens.iter().map(|token| token.id));
        let cuts = tokens.len() <= model().cuttable_tokens();
        // Leaves the first one's state before its end.
        let mut other = tokens[..prompt].to_vec();
        other.extend([10, 20, 30]);
        let (cold, _, cached) = ask(&other);
        if cuts {
            assert!(cached + 64 > prompt, "{cached} of {prompt}");
        } else {
            assert_eq!(cached, 0);
        }
        // Goes on from all of it; the last token was never computed.
        let held = tokens.len() - 1;
        tokens.extend([10, 20, 30]);
        let (_, _, cached) = ask(&tokens);
        assert!(cached <= held && cached + 32 > held, "{cached} of {held}");
        // What was refused above has a state of its own by now.
        let known = other.len() + 5;
        other.extend(cold.tokens.iter().map(|token| token.id));
        let (_, _, cached) = ask(&other);
        assert!(
            cached <= known && cached + 64 > known,
            "{cached} of {known}"
        );
    });
}

#[test]
fn a_restored_state_answers_as_one_that_was_never_put_aside() {
    with_engine(keeping(1), |handle| {
        // Two windows long, where there is one; elsewhere the length is all the same.
        let window = model().cuttable_tokens();
        let (count, least) = if window < CONTEXT as usize {
            (84, 2 * window)
        } else {
            (12, 128)
        };
        let reading = handle.ask(greedy(Prompt::Text(rules("the hill", count)), 30));
        let mut tokens = reading.prompt.clone();
        assert!(tokens.len() > least, "{}", tokens.len());
        let (choices, _) = reading.whole();
        tokens.extend(choices[0].tokens.iter().map(|token| token.id));
        tokens.extend([10, 20, 30]);
        let (warm, _, cached) = asked(handle, "proj_a", Prompt::Tokens(tokens.clone()));
        assert!(cached > least, "{cached}");
        let (cold, _, cached) = asked(handle, "proj_b", Prompt::Tokens(tokens));
        assert_eq!(cached, 0);
        are_alike(&cold, &warm);
    });
}

#[test]
fn an_echo_scores_the_prompt_as_generating_it_did() {
    with_engine(settings(2), |handle| {
        let reading = handle.ask(greedy(Prompt::Text("The capital of France is".into()), 12));
        let mut tokens = reading.prompt.clone();
        let prompt = tokens.len();
        let (choices, _) = reading.whole();
        tokens.extend(choices[0].tokens.iter().map(|token| token.id));
        let request = Generate {
            echo: true,
            top_logprobs: Some(3),
            ..greedy(Prompt::Tokens(tokens.clone()), 2)
        };
        let (echoed, usage) = handle.ask(request).whole();
        let ids: Vec<_> = echoed[0].tokens.iter().map(|token| token.id).collect();
        assert_eq!(&ids[..tokens.len()], tokens);
        assert_eq!(ids.len(), tokens.len() + 2);
        assert_eq!(usage.completion_tokens, 2);
        assert!(echoed[0].text.starts_with("The capital of France is"));
        assert_eq!(
            (echoed[0].tokens[0].logprob, echoed[0].tokens[0].top.len()),
            (None, 0)
        );
        for (generated, scored) in choices[0].tokens.iter().zip(&echoed[0].tokens[prompt..]) {
            let moved = generated.logprob.unwrap() - scored.logprob.unwrap();
            assert!(moved.abs() < 0.5, "{generated:?} {scored:?}");
            assert_eq!(scored.top.len(), 3);
        }
    });
}

#[test]
fn the_batch_class_makes_way_in_mid_step_and_loses_nothing() {
    with_engine(settings(3), |handle| {
        // So long a prompt that its reading is broken off as well.
        let request = || greedy(Prompt::Text(rules("weirs", 40)), 60);
        let batch = || handle.ask_as("proj_a", Class::Batch, request());
        let (alone, _) = batch().whole();
        let (beside, usage) = std::thread::scope(|scope| {
            let reading = batch();
            let beside = scope.spawn(|| reading.whole());
            for _ in 0..100 {
                // Until a step of the batch class has begun: between two of them there is nothing to be broken off.
                let steps = handle.metrics.steps.get();
                while handle.metrics.steps.get() == steps && !beside.is_finished() {
                    std::thread::yield_now();
                }
                if beside.is_finished() {
                    break;
                }
                let (read, _) = handle.ask(greedy(chat("Name a fruit."), 2)).whole();
                assert_eq!(read[0].tokens.len(), 2);
            }
            beside.join().unwrap()
        });
        // What a sliding window has dropped can't be brought back: there it makes way between two steps.
        let breaks_off = model().cuttable_tokens() == usize::MAX;
        assert_eq!(handle.metrics.broken_off.get() > 0, breaks_off);
        assert_eq!(usage.completion_tokens, 60);
        are_alike(&alone[0], &beside[0]);
    });
}

#[test]
fn min_tokens_and_biases_are_kept() {
    with_engine(settings(1), |handle| {
        // Makes any model end its answer as soon as it may.
        let end = model().weights.vocab().eos().0.cast_unsigned();
        let mut asked = Generate {
            ignore_eos: false,
            ..greedy(chat("Answer with the one word yes."), 40)
        };
        asked.sampling.logit_bias = vec![(end, 100.0)];
        let (short, _) = handle.ask(asked.clone()).whole();
        assert_eq!(short[0].finish, Some(Finish::Stop));
        assert_eq!(short[0].text, "");
        let (long, usage) = handle
            .ask(Generate {
                min_tokens: 9,
                ..asked.clone()
            })
            .whole();
        assert_eq!(long[0].finish, Some(Finish::Stop));
        // Nine and the end.
        assert_eq!(usage.completion_tokens, 10);

        let mut forced = asked;
        forced.max_tokens = Some(5);
        forced.sampling.logit_bias = vec![(400, 100.0)];
        let (choices, _) = handle.ask(forced).whole();
        assert_eq!(choices[0].tokens.len(), 5);
        assert!(choices[0].tokens.iter().all(|token| token.id == 400));
    });
}

#[test]
fn cells_of_8_bits_answer_much_the_same() {
    let score = |cells| {
        let mut settings = settings(1);
        settings.bank.cells = cells;
        with_engine(settings, |handle| {
            let request = Generate {
                echo: true,
                ..greedy(Prompt::Text(lore("the sea")), 0)
            };
            let (choices, _) = handle.ask(request).whole();
            let scores = choices[0].tokens.iter().filter_map(|token| token.logprob);
            let scores: Vec<_> = scores.collect();
            scores.iter().sum::<f32>() / scores.len() as f32
        })
    };
    let (half, eight) = (score(KvCacheType::F16), score(KvCacheType::Q8_0));
    assert!((half - eight).abs() < 0.05, "{half} {eight}");
    assert!(
        half.to_bits() != eight.to_bits(),
        "the setting changes nothing"
    );
}

#[test]
fn a_reader_that_stops_pauses_its_own_answer_alone() {
    with_engine(settings(2), |handle| {
        let mut slow = handle.ask(greedy(chat("Count to a thousand."), 400));
        let (quick, _) = handle.ask(greedy(chat("Say hello."), 300)).whole();
        assert_eq!(quick[0].tokens.len(), 300);
        let paused = slow.progress.read().completion_tokens;
        assert!(paused < 300, "{paused}");
        let (choices, usage) = slow.read(usize::MAX).unwrap();
        assert_eq!(choices[0].tokens.len(), 400);
        assert_eq!(usage.unwrap().completion_tokens, 400);
    });
}

#[test]
fn what_a_model_thinks_is_told_apart_and_counted() {
    with_engine(settings(2), |handle| {
        // Any model goes on like this.
        let shown = "Q: one plus one?\nA: <think>one and one</think>2\n\
                     Q: two plus one?\nA: <think>two and one</think>3\n\
                     Q: one plus three?\nA: <think>one and three</think>4\nQ: one plus two?\nA:";
        let request = Generate {
            stop: vec!["\n".into()],
            ..greedy(Prompt::Text(shown.into()), 32)
        };
        let ask = |thoughts| {
            let beside = Beside {
                thoughts,
                ..Beside::default()
            };
            let (mut choices, usage) = handle
                .ask_of("proj_a", Class::Standard, beside, request.clone())
                .whole();
            (choices.swap_remove(0), usage)
        };
        let (plain, plain_usage) = ask(None);
        let (read, usage) = ask(Some(Thoughts::new(false)));
        assert_eq!(
            (plain.thought.as_str(), plain_usage.reasoning_tokens),
            ("", 0)
        );
        let spelled = format!("<think>{}</think>{}", read.thought, read.text);
        assert_eq!(spelled, plain.text.trim_start());
        assert!(
            !read.thought.is_empty() && !read.text.is_empty(),
            "{read:?}"
        );
        assert_eq!(usage.completion_tokens, plain_usage.completion_tokens);
        let thought = usage.reasoning_tokens;
        assert!(
            thought > 0 && thought < usage.completion_tokens,
            "{usage:?}"
        );
        // Of the answer's own tokens alone.
        let bytes = |tokens: &[crate::types::TokenLogprob]| {
            let all: Vec<u8> = tokens
                .iter()
                .flat_map(|token| token.bytes.clone())
                .collect();
            String::from_utf8(all).unwrap()
        };
        assert!(
            bytes(&read.tokens)
                .trim_end()
                .ends_with(read.text.trim_end())
        );
        assert!(!bytes(&read.tokens).contains("think>"), "{read:?}");
        assert!(read.tokens.len() < plain.tokens.len());
        let last = read.tokens.last().unwrap();
        assert_eq!(last.id, plain.tokens.last().unwrap().id);
    });
}
