use std::time::Duration;

/// In OpenAI's form: `6m0s`, `1.5s`, `120ms`.
#[must_use]
pub fn seconds(time: Duration) -> String {
    let (whole, ms) = (time.as_secs(), time.subsec_millis());
    let part = |seconds: u64| {
        if ms == 0 {
            format!("{seconds}s")
        } else {
            let digits = format!("{ms:03}");
            format!("{seconds}.{}s", digits.trim_end_matches('0'))
        }
    };
    match whole {
        0 => format!("{ms}ms"),
        1..60 => part(whole),
        60..3600 => format!("{}m{}", whole / 60, part(whole % 60)),
        _ => format!(
            "{}h{}m{}",
            whole / 3600,
            whole % 3600 / 60,
            part(whole % 60)
        ),
    }
}
