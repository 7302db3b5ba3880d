//! An item as requests, and what comes back as a score.

use serde_json::{Value, json};

use super::score::{Per, Scored, Scorer, call};
use super::suite::{Item, Task};

impl Task {
    /// The bodies that an item is asked with, at `/v1/chat/completions`: as many answers are needed to score it.
    #[must_use]
    pub fn requests(&self, item: &Item, model: &str) -> Vec<Value> {
        let question = json!({"role": "user", "content": self.question(item)});
        let body =
            |messages: Value| json!({"model": model, "messages": messages, "temperature": 0});
        match &self.scorer {
            Scorer::Choice { choices, .. } => {
                let choices = item.choices.as_ref().unwrap_or(choices);
                let scored = |choice: &String| {
                    let opening = json!({"role": "assistant", "content": choice});
                    let mut body = body(json!([question, opening]));
                    // As vLLM names it.
                    body["continue_final_message"] = true.into();
                    body["add_generation_prompt"] = false.into();
                    body["echo"] = true.into();
                    body["logprobs"] = true.into();
                    body["max_tokens"] = 1.into();
                    body
                };
                choices.iter().map(scored).collect()
            }
            scorer => {
                let mut body = body(json!([question]));
                body["max_tokens"] = self.max_tokens.into();
                if let Scorer::ToolCall { tools } = scorer {
                    body["tools"] = json!(tools);
                }
                vec![body]
            }
        }
    }

    /// What the answers to an item's requests, in their order, are worth.
    ///
    /// # Errors
    /// An answer lacks what the score is of.
    pub fn score(&self, item: &Item, answers: &[Value]) -> Result<Scored, String> {
        if let Scorer::Choice { choices, per } = &self.scorer {
            return chosen(
                item.choices.as_ref().unwrap_or(choices),
                *per,
                item,
                answers,
            );
        }
        let message = &answers.first().ok_or("there is no answer")?["choices"][0]["message"];
        if let Scorer::ToolCall { .. } = &self.scorer {
            let function = &message["tool_calls"][0]["function"];
            let text = |name| function[name].as_str().unwrap_or_default();
            return Ok(Scored {
                score: call(text("name"), text("arguments"), item),
                said: match text("name") {
                    "" => message["content"].as_str().unwrap_or_default().to_owned(),
                    name => format!("{name}({})", text("arguments")),
                },
            });
        }
        let said = message["content"].as_str().unwrap_or_default();
        Ok(Scored {
            score: self.scorer.text(said, item),
            said: said.trim().to_owned(),
        })
    }
}

/// The likeliest choice.
fn chosen(choices: &[String], per: Per, item: &Item, answers: &[Value]) -> Result<Scored, String> {
    let mut best: Option<(f64, &String)> = None;
    for (choice, answer) in choices.iter().zip(answers) {
        let mut likely = logprob_of(choice, answer)?;
        if per == Per::Byte {
            #[expect(clippy::cast_precision_loss, reason = "a text's length")]
            let bytes = choice.len().max(1) as f64;
            likely /= bytes;
        }
        if best.is_none_or(|(most, _)| likely > most) {
            best = Some((likely, choice));
        }
    }
    let (_, said) = best.ok_or("there is no answer")?;
    Ok(Scored {
        score: f64::from(u8::from(item.expected.as_str() == Some(said))),
        said: said.clone(),
    })
}

/// The sum of the log-probabilities of the tokens that an answer had to begin with.
fn logprob_of(choice: &str, answer: &Value) -> Result<f64, String> {
    let unknown =
        || "the server doesn't tell the log-probabilities of what an answer begins with".to_owned();
    let tokens = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .ok_or_else(unknown)?;
    let (mut sum, mut read) = (0.0, Vec::new());
    for token in tokens {
        if read.len() >= choice.len() {
            break;
        }
        let bytes = token["bytes"].as_array().into_iter().flatten();
        read.extend(bytes.filter_map(Value::as_u64));
        sum += token["logprob"].as_f64().ok_or_else(unknown)?;
    }
    // Servers that don't repeat what they were given tell of something else.
    let is_it = read.into_iter().eq(choice.bytes().map(u64::from));
    if is_it { Ok(sum) } else { Err(unknown()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(scorer: Value) -> (Task, Item) {
        let item: Item =
            serde_json::from_value(json!({"id": "a", "input": "Q", "expected": "yes"})).unwrap();
        let task = Task {
            name: "t".into(),
            items: vec![item.clone()],
            prompt: "Say: {input}".into(),
            max_tokens: 9,
            scorer: serde_json::from_value(scorer).unwrap(),
        };
        (task, item)
    }

    fn scored(tokens: &[(&str, f64)]) -> Value {
        let token =
            |(text, logprob): &(&str, f64)| json!({"bytes": text.as_bytes(), "logprob": logprob});
        let content: Vec<_> = tokens.iter().map(token).collect();
        json!({"choices": [{"logprobs": {"content": content}}]})
    }

    #[test]
    fn a_choice_is_asked_for_as_the_beginning_of_an_answer() {
        let (task, item) = task(json!({"by": "choice", "choices": ["yes", "no"]}));
        let bodies = task.requests(&item, "m");
        assert_eq!(bodies.len(), 2);
        let messages = json!([
            {"role": "user", "content": "Say: Q"},
            {"role": "assistant", "content": "no"},
        ]);
        assert_eq!(bodies[1]["messages"], messages);
        assert_eq!(bodies[1]["echo"], true);
        // What is generated behind the choice doesn't count.
        let answers = [
            scored(&[("y", -1.0), ("es", -0.5), (".", -9.0)]),
            scored(&[("no", -2.0), (".", 0.0)]),
        ];
        let said = |answers: &[Value]| task.score(&item, answers).unwrap();
        assert_eq!(
            said(&answers),
            Scored {
                score: 1.0,
                said: "yes".into()
            }
        );
        let answers = [scored(&[("yes", -3.0)]), answers[1].clone()];
        assert_eq!(
            said(&answers),
            Scored {
                score: 0.0,
                said: "no".into()
            }
        );
        for broken in [
            json!({}),
            scored(&[("y", -1.0)]),
            scored(&[("yess", -1.0)]),
            scored(&[("Yes", -1.0)]),
        ] {
            assert!(task.score(&item, &[broken, answers[1].clone()]).is_err());
        }
    }

    #[test]
    fn long_choices_are_as_likely_as_short_ones_by_the_byte() {
        let (task, item) = task(json!({"by": "choice", "choices": ["yes", "no"], "per": "byte"}));
        let answers = [scored(&[("yes", -3.0)]), scored(&[("no", -2.5)])];
        assert_eq!(task.score(&item, &answers).unwrap().said, "yes");
    }

    #[test]
    fn a_text_is_the_messages_content() {
        let (task, item) = task(json!({"by": "exact"}));
        assert_eq!(task.requests(&item, "m")[0]["max_tokens"], 9);
        let answer = json!({"choices": [{"message": {"content": "yes\n"}}]});
        assert_eq!(task.score(&item, &[answer]).unwrap().score, 1.0);
        assert_eq!(
            task.score(&item, &[json!({"error": {}})]).unwrap().score,
            0.0
        );
    }
}
