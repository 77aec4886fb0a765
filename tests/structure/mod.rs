//! The import graph of the modules is acyclic. Seen from outside, a module and its children are one node, and may use each
//! other; among siblings there is no cycle, and the crate's modules are in the order that `src/lib.rs` documents.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Module = Vec<String>;

/// The imports below each module: its name, then pairs of its children (importer, imported).
type Edges = BTreeMap<Module, BTreeSet<(String, String)>>;

/// The longest chain of re-exports of a name.
const ALIASES_MAX: usize = 4;

/// The modules of a crate with their text, without comments and without test-only code.
fn modules(root: &Path) -> BTreeMap<Module, String> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                if path.ends_with("main.rs") && root.join("lib.rs").exists() {
                    continue;
                }
                let mut module: Module = path.strip_prefix(root).unwrap().with_extension("").iter().map(text).collect();
                module.retain(|name| !["lib", "main", "mod"].contains(&name.as_str()));
                found.insert(module, without_tests(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    // Test-only declarations are not part of the structure.
    let declared = |module: &Module, all: &BTreeMap<Module, String>| {
        let (name, parent) = module.split_last()?;
        let declares = |line: &str| line.ends_with(&format!("mod {name};"));
        Some(all.get(parent)?.lines().any(declares))
    };
    let known = found.clone();
    found.retain(|module, _| module.is_empty() || declared(module, &known).unwrap_or(false));
    found
}

fn text(part: &std::ffi::OsStr) -> String {
    part.to_str().unwrap().to_owned()
}

fn without_tests(source: &str) -> String {
    let mut kept = Vec::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push(line.split("//").next().unwrap_or_default().trim_end());
        } else if lines.next().is_some_and(|item| item.starts_with("mod tests {")) {
            break;
        }
    }
    kept.join("\n")
}

/// The paths of a `use` tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn flattened(tree: &str) -> Vec<String> {
    let Some((before, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap_or_default().trim().to_owned()];
    };
    let (mut parts, mut depth, mut part) = (Vec::new(), 0, String::new());
    for letter in rest.trim_end().strip_suffix('}').unwrap_or(rest).chars().chain([',']) {
        match letter {
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            '{' | '}' => {
                depth += if letter == '{' { 1 } else { -1 };
                part.push(letter);
            }
            _ => part.push(letter),
        }
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.flat_map(|part| flattened(&format!("{}{part}", before.trim()))).collect()
}

/// The trees of all `use` lines, and every other path that begins at the crate or at a parent.
fn paths(source: &str) -> (Vec<String>, Vec<String>) {
    let (mut imported, mut named) = (Vec::new(), Vec::new());
    let is_path = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | ':');
    for statement in source.split_inclusive(';') {
        let lines: Vec<&str> = statement.lines().collect();
        let is_use = |line: &&str| {
            let line = line.trim_start();
            line.starts_with("use ") || (line.starts_with("pub") && line.contains(" use "))
        };
        let (before, import) = lines.split_at(lines.iter().position(is_use).unwrap_or(lines.len()));
        let import = import.join(" ");
        if let Some((_, tree)) = import.split_once("use ") {
            imported.extend(flattened(tree.trim_end_matches(';')));
        }
        let words = before.iter().flat_map(|line| line.split(|letter| !is_path(letter)));
        named
            .extend(words.filter(|word| word.starts_with("crate::") || word.starts_with("super::")).map(str::to_owned));
    }
    (imported, named)
}

struct Crate {
    modules: BTreeMap<Module, String>,
    /// The item that an imported name of a module stands for.
    aliases: BTreeMap<(Module, String), (Module, String)>,
}

impl Crate {
    fn read(root: &Path) -> Self {
        let mut this = Self { modules: modules(root), aliases: BTreeMap::new() };
        assert!(this.modules.len() > 1, "{} has modules", root.display());
        for (module, source) in &this.modules {
            for path in paths(source).0 {
                if let Some(found) =
                    this.resolved(module, &path).filter(|(_, name)| !["", "self", "*"].contains(&name.as_str()))
                {
                    this.aliases.insert((module.clone(), found.1.clone()), found);
                }
            }
        }
        this
    }

    /// The module that a path leads to, and the name in it; `None` for one of another crate.
    fn resolved(&self, from: &Module, path: &str) -> Option<(Module, String)> {
        let mut segments = path.split("::").peekable();
        let mut at = match *segments.peek()? {
            "crate" => Module::new(),
            "self" | "super" => from.clone(),
            name => Some(from.clone()).filter(|from| self.modules.contains_key(&child(from, name)))?,
        };
        while let Some(segment) = segments.next_if(|segment| ["crate", "self", "super"].contains(segment)) {
            if segment == "super" {
                at.pop();
            }
        }
        while let Some(segment) = segments.next_if(|segment| self.modules.contains_key(&child(&at, segment))) {
            at = child(&at, segment);
        }
        Some((at, segments.next().unwrap_or_default().to_owned()))
    }

    /// The imports, also by a name that the parent re-exports.
    fn edges(&self) -> Edges {
        let mut edges = Edges::new();
        for (module, source) in &self.modules {
            let (imported, named) = paths(source);
            for path in imported.iter().chain(&named) {
                let Some(mut target) = self.resolved(module, path) else { continue };
                for _ in 0..ALIASES_MAX {
                    target = self.aliases.get(&target).cloned().unwrap_or(target);
                }
                let common = module.iter().zip(&target.0).take_while(|(one, other)| one == other).count();
                if let (Some(one), Some(other)) = (module.get(common), target.0.get(common)) {
                    edges.entry(module[..common].to_vec()).or_default().insert((one.clone(), other.clone()));
                }
            }
        }
        edges
    }
}

fn child(module: &Module, name: &str) -> Module {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

/// The nodes of a graph that lie on a cycle, or lead to one.
fn on_circles(mut edges: BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    loop {
        let before = edges.len();
        let leading: BTreeSet<String> = edges.iter().map(|(one, _)| one.clone()).collect();
        let led_to: BTreeSet<String> = edges.iter().map(|(_, other)| other.clone()).collect();
        edges.retain(|(one, other)| leading.contains(other) && led_to.contains(one));
        if edges.len() == before {
            return edges;
        }
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
fn no_circle_among_siblings() {
    let mut roots = vec![folder("src")];
    let benches = fs::read_dir(folder("benches")).unwrap().map(|entry| entry.unwrap().path());
    roots.extend(benches.filter(|path| path.join("main.rs").exists()));
    for root in roots {
        for (parent, edges) in Crate::read(&root).edges() {
            let circles = on_circles(edges);
            assert!(circles.is_empty(), "in {} {}: {circles:?}", root.display(), parent.join("::"));
        }
    }
}

/// Groups, from the program down: each may import from its own group or from later ones.
fn documented_order() -> Vec<Vec<String>> {
    let map = fs::read_to_string(folder("src/lib.rs")).unwrap().replace("\n//!", "");
    let (_, order) = map.split_once("Imports point one way: `").expect("the map says how imports point");
    let (order, _) = order.split_once('`').unwrap();
    let names = |group: &str| {
        let group = group.trim().trim_matches(['{', '}']);
        group.split(',').map(|name| name.trim().to_owned()).collect()
    };
    order.split('→').map(names).collect()
}

#[test]
fn the_order_of_imports_that_the_map_documents_holds() {
    let (order, this) = (documented_order(), Crate::read(&folder("src")));
    let rank = |module: &str| order.iter().position(|group| group.iter().any(|name| name == module));
    for module in this.modules.keys().filter(|module| module.len() == 1) {
        assert!(rank(&module[0]).is_some(), "{} is missing from the order in src/lib.rs", module[0]);
    }
    for (one, other) in &this.edges()[&Module::new()] {
        assert!(rank(one) <= rank(other), "{one} imports {other}, which stands above it in src/lib.rs");
    }
}
