//! Lines on standard error: the log, and why the program cannot start.

use std::fmt::Write as _;
use std::io::Write as _;

use crate::http::{AUDIT_TARGET, current_request_id};

/// Writes the log to standard error, a line each.
struct StandardError;

impl log::Log for StandardError {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        // Libraries below may log as well; theirs is worth a line only when it is a problem.
        metadata.target().starts_with("eyot") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            // A log that cannot be written must not take the request with it.
            let _ = writeln!(std::io::stderr(), "{}", line(record));
        }
    }

    fn flush(&self) {}
}

/// Lets the log be written to standard error, from `level` up. Only the first call in a process sets the place.
pub fn log_to_standard_error(level: log::LevelFilter) {
    // A program around us may have a logger of its own, which is then the one to use.
    if log::set_logger(&StandardError).is_ok() {
        log::set_max_level(level);
    }
}

/// Says an error whatever the log's level is, as when the settings cannot be read.
pub fn tell_error(error: &str) {
    let _ = writeln!(std::io::stderr(), "error: {}", visible(error));
}

fn line(record: &log::Record) -> String {
    let id = current_request_id().map(|id| format!("[{id}] ")).unwrap_or_default();
    let level = match record.target() {
        AUDIT_TARGET => "audit".to_owned(),
        _ => record.level().as_str().to_lowercase(),
    };
    format!("{level}: {id}{}", visible(&record.args().to_string()))
}

/// The text on one line, with control characters and changes of direction written as in Rust (`\u{1b}`, `\n`). Names and media
/// types come from clients, who could otherwise forge lines of the log or hide parts of them.
pub fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for character in text.chars() {
        if is_invisible(character) {
            // Writing to a string cannot fail.
            let _ = write!(visible, "{}", character.escape_default());
        } else {
            visible.push(character);
        }
    }
    visible
}

/// Control characters, ends of lines, and what changes the direction of text (Unicode's `Bidi_Control`).
fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_one_line_and_shows_all_of_it() {
        let record =
            |text: &str| line(&log::Record::builder().level(log::Level::Warn).args(format_args!("{text}")).build());
        for (text, expected) in [
            ("type text/\u{202e}lmth", "warn: type text/\\u{202e}lmth"),
            ("\u{1b}[2Jgone", "warn: \\u{1b}[2Jgone"),
            ("one\nerror: two\r\n", "warn: one\\nerror: two\\r\\n"),
            (
                "\u{2066}\u{2069}\u{200f}\u{61c}\u{2028}\u{9b}\0",
                "warn: \\u{2066}\\u{2069}\\u{200f}\\u{61c}\\u{2028}\\u{9b}\\u{0}",
            ),
            ("plain: \"ü 島\" 'a' \\", "warn: plain: \"ü 島\" 'a' \\"),
        ] {
            assert_eq!(record(text), expected);
        }
    }
}
