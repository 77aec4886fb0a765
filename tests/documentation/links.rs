//! Relative links: the file exists, and has a heading for the anchor.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::{pages, read, root};

const MORE: [&str; 3] = ["CHANGELOG.md", "SECURITY.md", "src/http/protocol.md"];

#[test]
fn every_relative_link_leads_somewhere() {
    let mut broken = Vec::new();
    let mut count = 0;
    for page in pages().into_iter().chain(MORE.map(PathBuf::from)) {
        for link in links(&read(&page)).into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:"))
        {
            count += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { page.clone() } else { joined(&page, path) };
            let there = root().join(&target).exists();
            if !there || !anchor.is_empty() && !anchors(&read(&target)).contains(anchor) {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(count > 50, "only {count} links were found");
}

/// Every page is reachable: the index links to it.
#[test]
fn the_index_lists_every_page() {
    let index = Path::new("docs/README.md");
    let listed: BTreeSet<PathBuf> = links(&read(index)).iter().map(|link| joined(index, link)).collect();
    for page in pages() {
        assert!(page == index || page == Path::new("README.md") || listed.contains(&page), "{}", page.display());
    }
}

/// The targets of `[…](target)`, outside of code.
fn links(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in page.lines() {
        in_block ^= line.trim_start().starts_with("```");
        if in_block {
            continue;
        }
        // Odd parts are between backticks; an even part that ends with `[` continues after the code.
        let prose: String =
            line.split('`').enumerate().map(|(n, part)| if n % 2 == 0 { part } else { "code" }).collect();
        for part in prose.split("](").skip(1) {
            found.extend(part.split_once(')').map(|(target, _)| target.to_owned()));
        }
    }
    found
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |letter: &char| letter.is_alphanumeric() || " -_".contains(*letter);
    headings.map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

fn joined(page: &Path, link: &str) -> PathBuf {
    let mut path = page.parent().expect("a file").to_path_buf();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{}: {link}", page.display()),
            part => path.push(part),
        }
    }
    path
}
