use std::fmt::Write;
use std::time::Duration;

/// In OpenAI's form: `6m0s`, `1.5s`, `120ms`.
#[must_use]
pub fn seconds(time: Duration) -> String {
    let (whole, ms) = (time.as_secs(), time.subsec_millis());
    let mut text = String::with_capacity(16);
    // To write to a text can't fail.
    let _done = written(&mut text, whole, ms);
    text
}

fn written(text: &mut String, whole: u64, ms: u32) -> std::fmt::Result {
    if whole == 0 {
        return write!(text, "{ms}ms");
    }
    if whole >= 3600 {
        write!(text, "{}h", whole / 3600)?;
    }
    if whole >= 60 {
        write!(text, "{}m", whole % 3600 / 60)?;
    }
    write!(text, "{}", whole % 60)?;
    // Without zeros at the end.
    match ms {
        0 => {}
        ms if ms % 100 == 0 => write!(text, ".{}", ms / 100)?,
        ms if ms % 10 == 0 => write!(text, ".{:02}", ms / 10)?,
        ms => write!(text, ".{ms:03}")?,
    }
    text.write_char('s')
}
