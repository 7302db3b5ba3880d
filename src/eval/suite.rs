use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::score::Scorer;

/// What models are tried on: tasks, each over a file of items.
#[derive(Debug)]
pub struct Suite {
    /// Its name.
    pub name: String,
    /// A name for its content: another one where a byte of the suite or its items is another.
    pub version: String,
    /// In the order of the file.
    pub tasks: Vec<Task>,
}

/// Items of one kind.
#[derive(Debug)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// What is asked, and what for.
    pub items: Vec<Item>,
    /// The user's turn, with `{input}` where the item's own stands.
    pub(super) prompt: String,
    pub(super) max_tokens: u32,
    pub(super) scorer: Scorer,
}

/// One question.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Names it in reports.
    pub id: String,
    /// What is asked.
    pub input: String,
    /// What is right: a text, or what the scorer of the task takes.
    #[serde(default)]
    pub expected: Value,
    /// What may be chosen, where the task itself doesn't say.
    #[serde(default)]
    pub choices: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SuiteFile {
    name: String,
    task: Vec<TaskFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskFile {
    name: String,
    /// Seen from the suite's folder.
    items: PathBuf,
    #[serde(default = "input_alone")]
    prompt: String,
    #[serde(default = "usual_tokens")]
    max_tokens: u32,
    score: Scorer,
}

fn input_alone() -> String {
    "{input}".into()
}

fn usual_tokens() -> u32 {
    256
}

impl Suite {
    /// Reads a suite, a TOML file, with its items, a line of JSON each.
    ///
    /// # Errors
    /// One line that says what is wrong where.
    pub fn read(path: &Path) -> Result<Self, String> {
        let at = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| at(&error))?;
        let file: SuiteFile = figment::Figment::new()
            .merge(<figment::providers::Toml as figment::providers::Format>::string(&text))
            .extract()
            .map_err(|error| at(&error))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut hash = Sha256::new_with_prefix(&text);
        let tasks = file.task.into_iter();
        let tasks = tasks.map(|task| Task::read(task, folder, &mut hash));
        let tasks: Vec<_> = tasks.collect::<Result<_, _>>()?;
        if tasks.is_empty() {
            return Err(at(&"it has no task"));
        }
        Ok(Self {
            name: file.name,
            version: hex::encode(&hash.finalize()[..8]),
            tasks,
        })
    }
}

impl Suite {
    /// What its items ask, each once.
    #[must_use]
    pub fn inputs(&self) -> Vec<String> {
        let items = self.tasks.iter().flat_map(|task| &task.items);
        let mut inputs: Vec<_> = items.map(|item| item.input.clone()).collect();
        inputs.sort();
        inputs.dedup();
        inputs
    }
}

impl Task {
    fn read(file: TaskFile, folder: &Path, hash: &mut Sha256) -> Result<Self, String> {
        let path = folder.join(&file.items);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        hash.update(&text);
        let lines = (1..)
            .zip(text.lines())
            .filter(|(_, line)| !line.trim().is_empty());
        let item = |line: &str| {
            let item: Item = serde_json::from_str(line).map_err(|error| error.to_string())?;
            file.score.check(&item)?;
            Ok(item)
        };
        let items = lines.map(|(number, line)| {
            let at = |error: String| format!("{} line {number}: {error}", path.display());
            item(line).map_err(at)
        });
        let items: Vec<_> = items.collect::<Result<_, _>>()?;
        if items.is_empty() {
            return Err(format!("{} has no items", path.display()));
        }
        if !file.prompt.contains("{input}") {
            return Err(format!("task {}: the prompt has no {{input}}", file.name));
        }
        Ok(Self {
            name: file.name,
            items,
            prompt: file.prompt,
            max_tokens: file.max_tokens,
            scorer: file.score,
        })
    }

    pub(super) fn question(&self, item: &Item) -> String {
        self.prompt.replace("{input}", &item.input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_its_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let suite = folder.path().join("suite.toml");
        let task = r#"name = "s"
            [[task]]
            name = "t"
            items = "items.jsonl"
            score = { by = "choice", choices = ["a", "b"] }"#;
        std::fs::write(&suite, task).unwrap();
        let refused = |items: &str| {
            std::fs::write(folder.path().join("items.jsonl"), items).unwrap();
            Suite::read(&suite).err().unwrap()
        };
        let good = r#"{"id": "1", "input": "x", "expected": "a"}"#;
        for bad in [
            r#"{"id": "2", "input": "x", "output": "a"}"#,
            r#"{"input": "x", "expected": "a"}"#,
            r#"{"id": "2", "input": "x", "expected": "c"}"#,
        ] {
            let said = refused(&format!("{good}\n\n{bad}\n"));
            assert!(said.contains("items.jsonl line 3: "), "{said}");
        }
        assert!(refused("\n").contains("items.jsonl has no items"));
    }
}
