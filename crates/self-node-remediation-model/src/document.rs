//! Generated parts of a document, between two comments.

use std::path::Path;

use anyhow::{Context, Result};

fn marks(part: &str) -> (String, String) {
    (
        format!("<!-- generated: {part} -->\n"),
        format!("<!-- end of {part} -->"),
    )
}

/// The part of a document between its marks.
pub fn part<'a>(document: &'a str, part: &str) -> Result<&'a str> {
    let (begin, end) = marks(part);
    let (_, rest) = document
        .split_once(&begin)
        .with_context(|| format!("the document has no line {begin}"))?;
    let (text, _) = rest
        .split_once(&end)
        .with_context(|| format!("the document has no line {end}"))?;
    Ok(text)
}

/// Replaces the part of a document between its marks.
pub fn replace(path: &Path, name: &str, text: &str) -> Result<()> {
    let document = std::fs::read_to_string(path).context("could not read the document")?;
    let old = part(&document, name)?;
    let (begin, end) = marks(name);
    let (before, after) = (format!("{begin}{old}{end}"), format!("{begin}{text}{end}"));
    std::fs::write(path, document.replacen(&before, &after, 1))
        .context("could not write the document")
}
