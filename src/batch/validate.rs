use std::collections::HashSet;

use serde::Deserialize;

use super::{Halt, LONGEST_LINE, Work};
use crate::files::{FileReader, Lines};
use crate::types::{BatchFault, BatchStatus, BatchStep};

/// So many faults are told of.
const MOST_FAULTS: usize = 100;
const MOST_NAME_BYTES: usize = 512;

/// All that is needed of a line to name what comes of it.
#[derive(Deserialize)]
struct Named {
    custom_id: Option<String>,
}

/// What is found in a file.
#[derive(Default)]
struct Found {
    lines: u64,
    names: HashSet<String>,
    faults: Vec<BatchFault>,
}

impl Work {
    /// Reads the file through. False where it can't be run.
    pub(super) async fn validate(&mut self) -> Result<bool, Halt> {
        let found = self.read_through().await?;
        let runs = found.faults.is_empty();
        let step = BatchStep {
            from: &[BatchStatus::Validating],
            to: Some(if runs {
                BatchStatus::InProgress
            } else {
                BatchStatus::Failed
            }),
            faults: found.faults,
            total: Some(found.lines),
            ..BatchStep::default()
        };
        let store = &self.runner.store;
        let stepped = store.step_batch(&self.batch.id, &step).await?;
        let batch = store.hold_batch(&self.batch.id, &self.runner.hold).await?;
        self.batch = batch.ok_or(Halt::Lost)?;
        // One that was given up in between is to be ended as such.
        Ok(runs || !stepped)
    }

    async fn read_through(&self) -> Result<Found, Halt> {
        let store = self.runner.store.clone();
        let reader = FileReader::open(store, &self.batch.input).await?;
        let mut lines = Lines::of(reader, LONGEST_LINE);
        let mut found = Found::default();
        let mut number = 0;
        while let Some(line) = lines.next().await? {
            number += 1;
            if self.close.is_cancelled() && self.runner.batches.stop.is_cancelled() {
                return Err(Halt::Stopped);
            }
            let Some(line) = line else {
                found.fault(number, "line_too_long", None, "This line is too long.");
                break;
            };
            if is_blank(&line) {
                continue;
            }
            found.line(number, &line);
            if found.lines > self.runner.batches.options.max_lines {
                let most = self.runner.batches.options.max_lines;
                let message = format!("The file has more than {most} lines.");
                found.fault(number, "too_many_lines", None, &message);
            }
            if found.faults.len() >= MOST_FAULTS
                || found.lines > self.runner.batches.options.max_lines
            {
                break;
            }
        }
        if found.lines == 0 && found.faults.is_empty() {
            found.faults.push(BatchFault {
                code: "empty_file".into(),
                message: "The file has no requests.".into(),
                line: None,
                param: None,
            });
        }
        Ok(found)
    }
}

impl Found {
    fn line(&mut self, number: u64, line: &[u8]) {
        self.lines += 1;
        let Ok(named) = serde_json::from_slice::<Named>(line) else {
            let message = "This line is not parseable as valid JSON of a request.";
            return self.fault(number, "invalid_json_line", None, message);
        };
        match named.custom_id {
            None => {
                let message = "This line has no custom_id.";
                self.fault(number, "missing_custom_id", Some("custom_id"), message);
            }
            Some(name) if name.len() > MOST_NAME_BYTES || name.contains('\0') => {
                let message = format!(
                    "A custom_id may have {MOST_NAME_BYTES} bytes at most, and no NUL character."
                );
                self.fault(number, "invalid_custom_id", Some("custom_id"), &message);
            }
            Some(name) => {
                if !self.names.insert(name) {
                    let message = "This custom_id stands in an earlier line.";
                    self.fault(number, "duplicate_custom_id", Some("custom_id"), message);
                }
            }
        }
    }

    fn fault(&mut self, line: u64, code: &str, param: Option<&str>, message: &str) {
        self.faults.push(BatchFault {
            code: code.into(),
            message: message.into(),
            line: Some(line),
            param: param.map(str::to_owned),
        });
    }
}

/// Such lines are none.
pub(super) fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_needs_a_name_of_its_own() {
        let mut found = Found::default();
        for (line, text) in [
            r#"{"custom_id":"a","body":{}}"#,
            "{",
            "[]",
            r#"{"body":{}}"#,
            r#"{"custom_id":"a"}"#,
            r#"{"custom_id":7}"#,
            r#"{"custom_id":"a\u0000"}"#,
        ]
        .into_iter()
        .enumerate()
        {
            found.line(line as u64 + 1, text.as_bytes());
        }
        let faults: Vec<_> = found
            .faults
            .iter()
            .map(|fault| (fault.line.unwrap(), fault.code.as_str()))
            .collect();
        assert_eq!(
            faults,
            [
                (2, "invalid_json_line"),
                (3, "invalid_json_line"),
                (4, "missing_custom_id"),
                (5, "duplicate_custom_id"),
                (6, "invalid_json_line"),
                (7, "invalid_custom_id")
            ]
        );
        assert_eq!(found.lines, 7);
    }
}
