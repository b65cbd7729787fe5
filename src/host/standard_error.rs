//! Writes lines to standard error: the log, and why the program cannot start.

use std::fmt::Write as _;
use std::io::Write as _;

use crate::http::{AUDIT_TARGET, current_request_id};

/// A logger that writes one line per record to standard error.
struct StandardError;

impl log::Log for StandardError {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        // Libraries may log as well; their records are shown only from the level `warn` up.
        metadata.target().starts_with("eyot") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            // Ignore errors: a log that cannot be written must not make the request fail.
            let _ = writeln!(std::io::stderr(), "{}", line(record));
        }
    }

    fn flush(&self) {}
}

/// Sends the log to standard error, from `level` up. Only the first call in a process has an
/// effect.
pub fn log_to_standard_error(level: log::LevelFilter) {
    // A program that embeds eyot may have set its own logger, which then stays in use.
    if log::set_logger(&StandardError).is_ok() {
        log::set_max_level(level);
    }
}

/// Writes an error to standard error at every log level, as when the settings cannot be read.
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

/// Returns the text on one line, with control characters and changes of direction escaped as in
/// Rust (`\u{1b}`, `\n`). Names and media types come from clients, who could otherwise forge lines
/// of the log or hide parts of them.
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

/// Whether a character is a control character, ends a line, or changes the direction of text
/// (Unicode's `Bidi_Control`).
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
