//! The bodies of a transcript, and the variables in its texts.

use std::collections::HashMap;

use bytes::Bytes;
use sha2::{Digest, Sha256, Sha512};

#[derive(Debug, PartialEq)]
pub enum Value {
    Text(String),
    Named(String),
    Repeat(usize, String),
    Zero(usize),
    /// Incompressible bytes that depend on the seed.
    Noise(usize, String),
    Slice(String, usize, usize),
    Join(Vec<Value>),
}

pub fn in_identifier(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_'
}

impl Value {
    /// Reads `TERM + TERM …`, or the block below if the line has no term.
    pub fn parse(text: &str, block: Option<&str>) -> Result<Value, String> {
        let mut rest = text.trim();
        match (rest, block) {
            ("", Some(block)) => return Ok(Value::Text(block.into())),
            ("", None) => return Err("a value is missing".into()),
            (_, Some(_)) => return Err("a value is either beside or below, not both".into()),
            _ => {}
        }
        let mut terms = Vec::new();
        loop {
            let (term, after) = term(rest)?;
            terms.push(term);
            let after = after.trim_start();
            if after.is_empty() {
                break;
            }
            rest = after.strip_prefix('+').ok_or_else(|| format!("expected `+`, not `{after}`"))?.trim_start();
        }
        Ok(match terms.len() {
            1 => terms.remove(0),
            _ => Value::Join(terms),
        })
    }

    pub fn bytes(&self, scope: &Scope) -> Result<Bytes, String> {
        Ok(match self {
            Value::Text(text) => scope.expand(text)?.into(),
            Value::Named(name) => scope.value(name)?.clone(),
            Value::Repeat(times, text) => scope.expand(text)?.repeat(*times).into(),
            Value::Zero(length) => vec![0; *length].into(),
            Value::Noise(length, seed) => noise(*length, &scope.expand(seed)?),
            Value::Slice(name, from, to) => {
                let whole = scope.value(name)?;
                if from > to || *to > whole.len() {
                    return Err(format!("`{name}` has only {} bytes", whole.len()));
                }
                whole.slice(from..to)
            }
            Value::Join(terms) => {
                let mut joined = Vec::new();
                for term in terms {
                    joined.extend_from_slice(&term.bytes(scope)?);
                }
                joined.into()
            }
        })
    }
}

fn term(text: &str) -> Result<(Value, &str), String> {
    if text.starts_with('"') {
        let (string, rest) = quoted(text)?;
        return Ok((Value::Text(string), rest));
    }
    let end = text.find(|c| !in_identifier(c)).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    match word {
        "" => Err(format!("expected a value, not `{text}`")),
        "repeat" => {
            let (times, rest) = number(rest.trim_start())?;
            let (string, rest) = quoted(rest.trim_start())?;
            Ok((Value::Repeat(times, string), rest))
        }
        "zero" => {
            let (length, rest) = number(rest.trim_start())?;
            Ok((Value::Zero(length), rest))
        }
        "noise" => {
            let (length, rest) = number(rest.trim_start())?;
            let (seed, rest) = quoted(rest.trim_start())?;
            Ok((Value::Noise(length, seed), rest))
        }
        name => {
            let Some(range) = rest.strip_prefix('[') else {
                return Ok((Value::Named(name.into()), rest));
            };
            let (from, range) = number(range)?;
            let range = range.strip_prefix("..").ok_or("expected `[FROM..TO]`")?;
            let (to, range) = number(range)?;
            let rest = range.strip_prefix(']').ok_or("expected `[FROM..TO]`")?;
            Ok((Value::Slice(name.into(), from, to), rest))
        }
    }
}

fn number(text: &str) -> Result<(usize, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    match digits.replace('_', "").parse() {
        Ok(number) => Ok((number, rest)),
        Err(_) => Err(format!("expected a number, not `{text}`")),
    }
}

fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<String>();
    match stream.next() {
        Some(Ok(string)) => Ok((string, &text[stream.byte_offset()..])),
        _ => Err(format!("expected a quoted text, not `{text}`")),
    }
}

pub fn noise(length: usize, seed: &str) -> Bytes {
    let mut state =
        Sha256::digest(seed).as_slice()[..8].iter().fold(0u64, |state, byte| state << 8 | u64::from(*byte)) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64 is fast even in a test build.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

pub fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex::encode(Sha512::digest(bytes)))
}

/// The named values of a running transcript: bodies defined by `let`, and texts captured from
/// replies.
#[derive(Default)]
pub struct Scope {
    values: HashMap<String, Bytes>,
}

impl Scope {
    pub fn set(&mut self, name: &str, value: impl Into<Bytes>) {
        self.values.insert(name.into(), value.into());
    }

    pub fn unset(&mut self, name: &str) {
        self.values.remove(name);
    }

    fn value(&self, name: &str) -> Result<&Bytes, String> {
        self.values.get(name).ok_or_else(|| format!("nothing is named `{name}`"))
    }

    /// Replaces `{name}`, `{name?}`, `{sha256:name}`, `{sha512:name}` and `{size:name}`. Other
    /// braces stay unchanged, so that JSON needs no escapes.
    pub fn expand(&self, text: &str) -> Result<String, String> {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            expanded.push_str(&rest[..open]);
            rest = &rest[open + 1..];
            match rest.split_once('}') {
                Some((inner, after)) if is_variable(inner) => {
                    expanded.push_str(&self.variable(inner)?);
                    rest = after;
                }
                _ => expanded.push('{'),
            }
        }
        expanded.push_str(rest);
        Ok(expanded)
    }

    fn variable(&self, inner: &str) -> Result<String, String> {
        if let Some((function, name)) = inner.split_once(':') {
            let value = self.value(name)?;
            return match function {
                "sha256" => Ok(sha256(value)),
                "sha512" => Ok(sha512(value)),
                "size" => Ok(value.len().to_string()),
                _ => Err(format!("unknown function in `{{{inner}}}`")),
            };
        }
        let (name, joined) = match inner.strip_suffix('?') {
            Some(name) => (name, true),
            None => (inner, false),
        };
        let mut text = String::from_utf8(self.value(name)?.to_vec()).map_err(|_| format!("`{name}` is no text"))?;
        if joined {
            text.push(if text.contains('?') { '&' } else { '?' });
        }
        Ok(text)
    }
}

fn is_variable(inner: &str) -> bool {
    !inner.is_empty() && inner.chars().all(|c| in_identifier(c) || c == ':' || c == '?')
}
