//! The words beside the code: a page that sends its reader to another one must know that it is there.

use crate::tools::root;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders with pages of somebody else, or with none.
const NOT_OURS: [&str; 3] = ["target", ".git", "node_modules"];

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && !NOT_OURS.iter().any(|it| name == *it) {
            pages(&path, found);
        } else if path.extension().is_some_and(|it| it == "md") {
            found.push(path);
        }
    }
}

/// What stands in the round brackets of `[words](there)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|it| it.split_once(')')).map(|(link, _)| link)
}

/// The name by which a link finds a headline: small letters, hyphens for spaces, nothing else.
fn anchor(headline: &str) -> String {
    let kept = headline.trim_start_matches('#').trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_of_a_page_leads_somewhere() {
    let root = root();
    let mut all = Vec::new();
    pages(&root, &mut all);
    assert!(all.len() > 10, "{all:?}");
    let mut nowhere = Vec::new();
    for page in &all {
        let text = fs::read_to_string(page).unwrap();
        for link in links(&text).filter(|it| !it.contains("://") && !it.starts_with("mailto:")) {
            let (path, part) = link.split_once('#').unwrap_or((link, ""));
            let to = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let is_there = to.exists()
                && (part.is_empty() || fs::read_to_string(&to).unwrap().lines().any(|it| it.starts_with('#') && anchor(it) == part));
            if !is_there {
                nowhere.push(format!("{}: {link}", page.strip_prefix(&root).unwrap_or(page).display()));
            }
        }
    }
    // The pictures are taken by a test with a browser, and are not there before its first run.
    nowhere.retain(|it| !it.contains("docs/pictures/") || root.join("docs/pictures").exists());
    assert!(nowhere.is_empty(), "links that lead nowhere:\n{}", nowhere.join("\n"));
}
