//! A report as a page of its own, with nothing from outside.

use minijinja::{Environment, context};

use super::report::Report;

const PAGE: &str = include_str!("page.html");

impl Report {
    /// A page of HTML that needs nothing else.
    ///
    /// # Errors
    /// Never with our own template, which the tests render.
    pub fn page(&self) -> Result<String, String> {
        let mut environment = Environment::new();
        environment
            .add_template("page.html", PAGE)
            .map_err(|error| error.to_string())?;
        let page = environment
            .get_template("page.html")
            .map_err(|error| error.to_string())?;
        page.render(context! { report => self })
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use crate::eval::{Report, Run, Suite, Tried};
    use crate::types::Money;

    fn tried(score: f64, said: &str) -> Tried {
        Tried {
            task: "t".into(),
            item: "one".into(),
            score,
            said: said.into(),
            error: None,
            prompt_tokens: 3,
            completion_tokens: 1,
            amount: Money::default(),
            took_ms: 2.0,
        }
    }

    #[test]
    fn a_page_shows_every_model_and_runs_nothing_that_a_model_wrote() {
        let suite = Suite {
            version: String::new(),
            name: "s".into(),
            tasks: Vec::new(),
        };
        let run = |model: &str, score, said| Run {
            model: model.into(),
            revision: String::new(),
            tried: vec![tried(score, said), tried(1.0, "b")],
        };
        let evil = "<script>alert(1)</script>";
        let runs = vec![run("base", 0.0, "a"), run("better", 1.0, evil)];
        let report = Report::new(&suite, jiff::Timestamp::UNIX_EPOCH, runs);
        let page = report.page().unwrap();
        for word in ["base", "better", "0.500", "1.000", "&lt;script&gt;"] {
            assert!(page.contains(word), "{word}: {page}");
        }
        assert!(!page.contains(evil) && !page.contains("http"), "{page}");
        assert_eq!(report.comparisons.len(), 1);
        assert_eq!(
            (report.comparisons[0].better, report.comparisons[0].worse),
            (1, 0)
        );
        assert!(
            report.table().contains("better beside base: +0.500"),
            "{}",
            report.table()
        );
    }
}
