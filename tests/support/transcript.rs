//! The transcript format: requests and expected replies as text, as described in
//! `tests/transcripts/README.md`.
//!
//! The code here only parses. `value.rs` makes bodies and fills in variables, `runner.rs` talks to
//! a server.

use super::value::Value;

#[derive(Debug)]
pub struct Transcript {
    /// The file name as given to `parse`, for messages.
    pub file: String,
    pub cases: Vec<Case>,
}

#[derive(Debug)]
pub struct Case {
    pub title: String,
    /// Rows of the specification checklist that this case proves.
    pub rows: Vec<u32>,
    pub steps: Vec<Step>,
}

#[derive(Debug)]
pub enum Step {
    Let { line: usize, name: String, value: Value },
    Exchange(Exchange),
}

#[derive(Debug)]
pub struct Exchange {
    pub line: usize,
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<Value>,
    /// Send the body in chunked transfer coding, without a Content-Length.
    pub streamed: bool,
    pub expectations: Vec<(usize, Expectation)>,
}

#[derive(Debug, PartialEq)]
pub enum Expectation {
    Status(Vec<u16>),
    Header(String, HeaderCheck),
    Body(Value),
    NoBody,
    /// Every member is present. The elements of an array appear in this order, with other elements
    /// allowed between them.
    JsonContains(String),
    JsonExactly(String),
    /// The specification's error body, with one of these codes.
    Error(Vec<String>),
}

#[derive(Debug, PartialEq)]
pub enum HeaderCheck {
    Equals(String),
    Differs(String),
    Matches(String),
    Present,
    Absent,
    Capture(String),
}

/// A line that does not start with white space, with the indented lines below it.
struct Entry<'a> {
    line: usize,
    text: &'a str,
    block: Option<String>,
}

pub fn parse(file: &str, text: &str) -> Result<Transcript, String> {
    let mut cases = vec![Case { title: "before the first case".into(), rows: Vec::new(), steps: Vec::new() }];
    for entry in entries(text).map_err(|(line, why)| format!("{file}:{line}: {why}"))? {
        let case = cases.last_mut().expect("there is always a case");
        match statement(case, &entry) {
            Ok(None) => {}
            Ok(Some(next)) => cases.push(next),
            Err(why) => return Err(format!("{file}:{}: {why}", entry.line)),
        }
    }
    for step in cases.iter().flat_map(|case| &case.steps) {
        if let Step::Exchange(exchange) = step
            && !exchange.expectations.iter().any(|(_, e)| matches!(e, Expectation::Status(_)))
        {
            return Err(format!("{file}:{}: no status is expected", exchange.line));
        }
    }
    Ok(Transcript { file: file.into(), cases })
}

fn entries(text: &str) -> Result<Vec<Entry<'_>>, (usize, &'static str)> {
    let mut entries: Vec<Entry> = Vec::new();
    // A blank line or a comment ends a block, so that a stray indented line is not added to the
    // block above.
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if line.trim().is_empty() || line.starts_with('#') {
            open = false;
        } else if line.starts_with(char::is_whitespace) {
            let owner = entries.last_mut().filter(|_| open);
            let owner = owner.ok_or((number, "an indented line must follow a statement"))?;
            let line = line.strip_prefix("  ").unwrap_or(line.trim_start());
            match &mut owner.block {
                Some(block) => {
                    block.push('\n');
                    block.push_str(line);
                }
                None => owner.block = Some(line.into()),
            }
        } else {
            open = true;
            entries.push(Entry { line: number, text: line.trim_end(), block: None });
        }
    }
    Ok(entries)
}

fn statement(case: &mut Case, entry: &Entry) -> Result<Option<Case>, String> {
    let (keyword, rest) = entry.text.split_once(' ').unwrap_or((entry.text, ""));
    let rest = rest.trim();
    match keyword {
        "case" => return case_line(rest).map(Some),
        "let" => {
            let (name, value) = rest.split_once('=').ok_or("expected `let NAME = VALUE`")?;
            case.steps.push(Step::Let {
                line: entry.line,
                name: identifier(name.trim())?,
                value: Value::parse(value, entry.block.as_deref())?,
            });
        }
        "given" => given(case, entry.line, rest)?,
        ">" => request_line(case, entry, rest)?,
        "<" => {
            let expectation = expectation(rest, entry.block.as_deref())?;
            match case.steps.last_mut() {
                Some(Step::Exchange(exchange)) => {
                    exchange.expectations.push((entry.line, expectation));
                }
                _ => return Err("a reply without a request".into()),
            }
        }
        _ => return Err(format!("unknown statement `{keyword}`")),
    }
    Ok(None)
}

fn case_line(text: &str) -> Result<Case, String> {
    let (title, rows) = text.split_once("# rows").ok_or("expected `case TITLE # rows N N …`")?;
    let rows = rows
        .split_whitespace()
        .map(|row| row.parse().map_err(|_| format!("`{row}` is no row")))
        .collect::<Result<_, _>>()?;
    Ok(Case { title: title.trim().into(), rows, steps: Vec::new() })
}

/// Parses `given blob NAME in REPOSITORY` and `given manifest NAME in REPOSITORY as REFERENCE`, the
/// setup of most cases.
fn given(case: &mut Case, line: usize, text: &str) -> Result<(), String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let lines = match words[..] {
        ["blob", name, "in", repository] => format!(
            "> POST /v2/{repository}/blobs/uploads/\n\
             < 202\n\
             > PUT {{location?}}digest={{sha256:{name}}}\n\
             > Content-Type: application/octet-stream\n\
             > body: {name}\n\
             < 201"
        ),
        ["manifest", name, "in", repository, "as", reference] => format!(
            "> PUT /v2/{repository}/manifests/{reference}\n\
             > Content-Type: application/vnd.oci.image.manifest.v1+json\n\
             > body: {name}\n\
             < 201"
        ),
        _ => return Err("expected `given blob B in R` or `given manifest M in R as T`".into()),
    };
    for text in lines.lines() {
        let block = None;
        statement(case, &Entry { line, text, block })?;
    }
    Ok(())
}

fn request_line(case: &mut Case, entry: &Entry, text: &str) -> Result<(), String> {
    let open = match case.steps.last_mut() {
        Some(Step::Exchange(exchange)) if exchange.expectations.is_empty() => Some(exchange),
        _ => None,
    };
    let Some(exchange) = open else {
        let (method, target) = text.split_once(' ').ok_or("expected `> METHOD TARGET`")?;
        case.steps.push(Step::Exchange(Exchange {
            line: entry.line,
            method: method.into(),
            target: target.trim().into(),
            headers: Vec::new(),
            body: None,
            streamed: false,
            expectations: Vec::new(),
        }));
        return Ok(());
    };
    let (name, value) = text.split_once(':').ok_or("expected `> Name: value`")?;
    match name {
        "body" | "streamed body" => {
            exchange.body = Some(Value::parse(value, entry.block.as_deref())?);
            exchange.streamed = name == "streamed body";
        }
        _ => {
            let name = header_name(name)?;
            exchange.headers.push((name, value.trim().into()));
        }
    }
    Ok(())
}

fn expectation(text: &str, block: Option<&str>) -> Result<Expectation, String> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        let statuses = text
            .split('|')
            .map(|status| status.trim().parse())
            .collect::<Result<_, _>>()
            .map_err(|_| format!("`{text}` is no status"))?;
        return Ok(Expectation::Status(statuses));
    }
    if text == "no body" {
        return Ok(Expectation::NoBody);
    }
    if let Some(name) = text.strip_prefix("no ") {
        return Ok(Expectation::Header(header_name(name)?, HeaderCheck::Absent));
    }
    let special = text
        .split_once(':')
        .map(|(name, rest)| (name, rest.trim()))
        .filter(|(name, _)| ["body", "json", "json exactly", "error"].contains(name));
    match special {
        Some(("body", value)) => Ok(Expectation::Body(Value::parse(value, block)?)),
        Some(("error", codes)) => {
            let codes = codes.split('|').map(|code| code.trim().into()).collect();
            Ok(Expectation::Error(codes))
        }
        Some((name, json)) => {
            let json = match (json, block) {
                ("", Some(block)) => block,
                ("", None) => return Err("JSON is missing".into()),
                (json, None) => json,
                _ => return Err("JSON is either beside or below, not both".into()),
            };
            Ok(match name {
                "json" => Expectation::JsonContains(json.into()),
                _ => Expectation::JsonExactly(json.into()),
            })
        }
        None => header_expectation(text),
    }
}

fn header_expectation(text: &str) -> Result<Expectation, String> {
    let end = text.find(|c: char| c == ':' || c.is_whitespace()).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let name = header_name(name)?;
    let rest = rest.trim_start();
    let check = if rest.is_empty() {
        HeaderCheck::Present
    } else if let Some(value) = rest.strip_prefix(':') {
        HeaderCheck::Equals(value.trim().into())
    } else if let Some(value) = rest.strip_prefix("!=") {
        HeaderCheck::Differs(value.trim().into())
    } else if let Some(pattern) = rest.strip_prefix('~') {
        HeaderCheck::Matches(pattern.trim().into())
    } else if let Some(variable) = rest.strip_prefix("->") {
        HeaderCheck::Capture(identifier(variable.trim())?)
    } else {
        return Err(format!("what is expected of `{name}`? `{rest}`"));
    };
    Ok(Expectation::Header(name, check))
}

fn header_name(name: &str) -> Result<String, String> {
    http::HeaderName::from_bytes(name.as_bytes())
        .map(|_| name.into())
        .map_err(|_| format!("`{name}` is no header name"))
}

fn identifier(name: &str) -> Result<String, String> {
    if !name.is_empty() && name.chars().all(super::value::in_identifier) {
        Ok(name.into())
    } else {
        Err(format!("`{name}` is no name for a value"))
    }
}
