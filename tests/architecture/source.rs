//! Just enough of Rust's grammar to see names: comments and literals are blanked, and
//! `use` groups are followed.

/// One source file.
pub(crate) struct Source {
    /// The path below the project's root.
    pub path: String,
    /// The text as it is.
    pub text: String,
    /// The text with comments and literals replaced by spaces; lines stay where they are.
    pub code: String,
}

impl Source {
    /// Reads `text` as the file at `path`.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), code: blank(text) }
    }

    /// Every identifier and keyword with its line.
    pub(crate) fn words(&self) -> Vec<(usize, String)> {
        let mut words = Vec::new();
        for (line, text) in self.code.lines().enumerate() {
            let parts = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            words.extend(parts.filter(|word| !word.is_empty()).map(|word| (line + 1, word.into())));
        }
        words
    }
}

/// Replaces comments, strings and characters by spaces.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

/// Where the comment or literal that begins at `at` ends, or `at` when none begins there.
fn literal_end(chars: &[char], at: usize) -> usize {
    let next = |offset: usize| chars.get(at + offset).copied();
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match (chars[at], next(1)) {
        ('/', Some('/')) => find(chars, at, &['\n']),
        ('/', Some('*')) => block_comment_end(chars, at),
        ('r', Some('"' | '#')) if !in_word => raw_string_end(chars, at + 1).unwrap_or(at),
        ('b', Some('r')) if !in_word => raw_string_end(chars, at + 2).unwrap_or(at),
        ('"', _) => quoted_end(chars, at, '"'),
        ('\'', Some('\\')) => quoted_end(chars, at, '\''),
        ('\'', Some(_)) if next(2) == Some('\'') => at + 3,
        _ => at,
    }
}

fn find(chars: &[char], from: usize, what: &[char]) -> usize {
    let mut at = from;
    while at < chars.len() && !chars[at..].starts_with(what) {
        at += 1;
    }
    at
}

fn block_comment_end(chars: &[char], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0_usize);
    while at < chars.len() {
        if chars[at..].starts_with(&['/', '*']) {
            depth += 1;
            at += 2;
        } else if chars[at..].starts_with(&['*', '/']) {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn raw_string_end(chars: &[char], from: usize) -> Option<usize> {
    let hashes = chars[from..].iter().take_while(|c| **c == '#').count();
    if chars.get(from + hashes) != Some(&'"') {
        return None;
    }
    let mut close = vec!['"'];
    close.extend(std::iter::repeat_n('#', hashes));
    let end = find(chars, from + hashes + 1, &close) + close.len();
    Some(end.min(chars.len()))
}

fn quoted_end(chars: &[char], from: usize, quote: char) -> usize {
    let mut at = from + 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// The paths that begin with `root::`, without the root, groups spread out, each with its
/// line: `crate::{a::b, c}` gives `[a, b]` and `[c]`.
pub(crate) fn paths_of(code: &str, root: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let start = format!("{root}::");
    for (at, _) in code.match_indices(&start) {
        let before = code[..at].chars().next_back();
        // `x::root::` is the tail of another path, `my_root::` another word.
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest: Vec<char> = code[at + start.len()..].chars().collect();
        let mut paths = Vec::new();
        tree(&rest, 0, &mut Vec::new(), &mut paths);
        found.extend(paths.into_iter().map(|path| (line, path)));
    }
    found
}

/// Parses one use tree at `at`, adds its paths, and returns where it ends.
fn tree(
    text: &[char],
    mut at: usize,
    prefix: &mut Vec<String>,
    paths: &mut Vec<Vec<String>>,
) -> usize {
    let depth = prefix.len();
    loop {
        at = skip_space(text, at);
        if text.get(at) == Some(&'{') {
            at += 1;
            while at < text.len() && text[at] != '}' {
                at = tree(text, at, prefix, paths);
                while at < text.len() && text[at] != ',' && text[at] != '}' {
                    at += 1; // `as name`
                }
                at += usize::from(text.get(at) == Some(&','));
                at = skip_space(text, at);
            }
            prefix.truncate(depth);
            return at + 1;
        }
        let word: String =
            text[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect();
        at += word.chars().count();
        prefix.push(word);
        if text[at..].starts_with(&[':', ':']) {
            at += 2;
            continue;
        }
        paths.push(prefix.clone());
        prefix.truncate(depth);
        return at;
    }
}

fn skip_space(text: &[char], mut at: usize) -> usize {
    while text.get(at).is_some_and(|c| c.is_whitespace()) {
        at += 1;
    }
    at
}
