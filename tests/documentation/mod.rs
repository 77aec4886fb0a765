//! The documentation is true: its links lead somewhere, its commands run as they are written, its tables are complete.

mod commands;
mod links;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};

/// The repository's root.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The README, and all pages below `docs/`, as paths from the root.
fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).expect("the directory docs");
    let names = docs.map(|entry| Path::new("docs").join(entry.expect("an entry").file_name()));
    let mut pages: Vec<PathBuf> = names.filter(|path| path.extension().is_some_and(|ext| ext == "md")).collect();
    pages.push("README.md".into());
    pages.sort();
    pages
}

/// The text of a file of the repository.
fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A fenced block of code.
struct Block {
    language: String,
    text: String,
}

/// The fenced blocks of a page, indented ones too, without their indentation.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else { continue };
        let indent = line.len() - line.trim_start().len();
        let body = lines.by_ref().take_while(|line| line.trim() != "```");
        let text = body.map(|line| line.get(indent..).unwrap_or_default().to_owned() + "\n").collect();
        blocks.push(Block { language: language.to_owned(), text });
    }
    blocks
}
