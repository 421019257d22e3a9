//! The `WWW-Authenticate` header: how a registry says which proof it wants.
//!
//! Invariant: parsing never fails; what cannot be understood is no challenge.
//!
//! Specification: <https://www.rfc-editor.org/rfc/rfc9110#name-www-authenticate>,
//! <https://distribution.github.io/distribution/spec/auth/token/>

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// A proof that a registry accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token from a token server.
    Bearer(TokenSource),
    /// User name and password.
    Basic,
}

/// Where to get a token, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TokenSource {
    /// URL of the token server.
    pub(super) realm: String,
    /// Name of the registry at the token server.
    pub(super) service: Option<String>,
    /// What the token is to allow.
    pub(super) scope: Option<String>,
}

/// The challenges that we can answer, the better ones first.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(parse)
        .collect();
    found.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
    found
}

/// The challenges of one header line.
fn parse(line: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut scheme = String::new();
    let mut parameters: Vec<(String, String)> = Vec::new();
    let mut rest = line;
    while let Some((item, next)) = item(rest) {
        rest = next;
        match item {
            Item::Scheme(next_scheme) => {
                found.extend(challenge(&scheme, &parameters));
                scheme = next_scheme;
                parameters.clear();
            }
            Item::Parameter(name, value) => parameters.push((name, value)),
        }
    }
    found.extend(challenge(&scheme, &parameters));
    found
}

fn challenge(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let value = |name: &str| {
        parameters.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
    };
    match scheme {
        "bearer" => Some(Challenge::Bearer(TokenSource {
            realm: value("realm")?,
            service: value("service"),
            scope: value("scope"),
        })),
        "basic" => Some(Challenge::Basic),
        _ => None,
    }
}

enum Item {
    Scheme(String),
    Parameter(String, String),
}

/// The next scheme or parameter, and what is behind it.
fn item(text: &str) -> Option<(Item, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let end = text.find([' ', '\t', ',', '=']).unwrap_or(text.len());
    let (word, behind) = text.split_at_checked(end)?;
    if word.is_empty() {
        return None;
    }
    let word = word.to_ascii_lowercase();
    match behind.trim_start().strip_prefix('=') {
        Some(value) => {
            let (value, rest) = parameter_value(value.trim_start());
            Some((Item::Parameter(word, value), rest))
        }
        None => Some((Item::Scheme(word), behind)),
    }
}

/// A token, or a quoted string with its escapes undone.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        let (value, rest) = text.split_at_checked(end).unwrap_or((text, ""));
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests;
