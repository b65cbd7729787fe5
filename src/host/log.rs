//! The log: lines on standard error, one for each event of `tracing`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{Debug, Write as _};
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::{LookupSpan, Registry};

use crate::http::{AUDIT_TARGET, REQUEST_SPAN};
use crate::platform::{Platform as _, SystemPlatform};

/// Writes one line per event to standard error: time, level, id of the request, text.
struct StandardError {
    level: LevelFilter,
}

/// The id of a request, kept with the span of the request.
struct RequestId(String);

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for StandardError {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        // Libraries log as well. Their events are shown only from the level `warn` up.
        let is_ours = metadata.target().starts_with("eyot");
        *metadata.level() <= self.level && (is_ours || *metadata.level() <= Level::WARN)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id).filter(|span| span.name() == REQUEST_SPAN) {
            let mut text = Text::of("id");
            attributes.record(&mut text);
            span.extensions_mut().insert(RequestId(text.value));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut text = Text::of("message");
        event.record(&mut text);
        let mut spans = context.event_scope(event).into_iter().flatten();
        let id = spans.find_map(|span| Some(span.extensions().get::<RequestId>()?.0.clone()));
        let line = line(SystemPlatform.now_ms(), level_name(event.metadata()), id.as_deref(), &text.value);
        // Ignore errors: a log that cannot be written must not make the request fail.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// The value of one field of a span or an event, as text.
struct Text {
    field: &'static str,
    value: String,
}

impl Text {
    fn of(field: &'static str) -> Self {
        Self { field, value: String::new() }
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == self.field {
            self.value.push_str(value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == self.field {
            // Writing to a string cannot fail.
            let _ = write!(self.value, "{value:?}");
        }
    }
}

/// Sends the log to standard error, from `level` up. Only the first call in a process has an
/// effect.
pub fn log_to_standard_error(level: LevelFilter) {
    // A program that embeds eyot may have set a subscriber of its own, which then stays in use.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(StandardError { level }));
}

/// Writes panics to standard error with control characters escaped: the text of a panic may contain
/// texts of clients. A backtrace follows if `RUST_BACKTRACE` asks for one.
pub fn escape_panics() {
    std::panic::set_hook(Box::new(|panic| {
        write_error(&panic.to_string());
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            let _ = writeln!(std::io::stderr(), "{trace}");
        }
    }));
}

/// Writes an error to standard error at every log level, as when the settings cannot be read.
pub fn write_error(error: &str) {
    let _ = writeln!(std::io::stderr(), "error: {}", visible(error));
}

/// The name of an event's level in the log.
fn level_name(metadata: &Metadata<'_>) -> &'static str {
    match *metadata.level() {
        _ if metadata.target() == AUDIT_TARGET => "audit",
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn line(now_ms: u64, level: &str, id: Option<&str>, text: &str) -> String {
    let time = jiff::Timestamp::from_millisecond(now_ms as i64).unwrap_or_default();
    let id = id.map(|id| format!("[{id}] ")).unwrap_or_default();
    format!("{time:.3} {level}: {id}{}", visible(text))
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
        for (text, expected) in [
            ("type text/\u{202e}lmth", "type text/\\u{202e}lmth"),
            ("\u{1b}[2Jgone", "\\u{1b}[2Jgone"),
            ("one\nerror: two\r\n", "one\\nerror: two\\r\\n"),
            (
                "\u{2066}\u{2069}\u{200f}\u{61c}\u{2028}\u{9b}\0",
                "\\u{2066}\\u{2069}\\u{200f}\\u{61c}\\u{2028}\\u{9b}\\u{0}",
            ),
            ("plain: \"ü 島\" 'a' \\", "plain: \"ü 島\" 'a' \\"),
        ] {
            let expected = format!("1970-01-02T00:00:00.007Z warn: [id-1] {expected}");
            assert_eq!(line(24 * 60 * 60 * 1000 + 7, "warn", Some("id-1"), text), expected);
        }
    }
}
