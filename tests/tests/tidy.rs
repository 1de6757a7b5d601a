//! What reviewers would otherwise have to look for: sizes, names, directions between crates, and documents that say what is so.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Most lines of a source file before its tests.
const FILE_LINES_MAX: usize = 500;
/// Most lines of a `main.rs`: it hands over to a library, which tests can reach.
const MAIN_LINES_MAX: usize = 40;
/// Files over the budget, with the lines that each may have. Entries may shrink and go, never grow or come.
const LONG_FILES: &[(&str, usize)] = &[];
/// Names that say nothing about what a file holds.
const NAMES_REFUSED: &[&str] =
    &["mod.rs", "util.rs", "utils.rs", "helper.rs", "helpers.rs", "common.rs", "misc.rs", "impls.rs"];
/// Which crates each crate may use. Broker, discovery and operator don't know each other.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("client", &["core"]),
    ("broker", &["core", "client"]),
    ("discovery", &["core", "client"]),
    ("operator", &["core", "client"]),
    ("cli", &["core", "client", "broker", "discovery", "operator", "bench"]),
    ("bench", &["core"]),
    ("tests", &["core", "client", "broker", "discovery", "operator", "cli"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns every file of the project with that ending, relative to its root, in order.
fn files(ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![root()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
                directories.push(path);
            } else if name.ends_with(ending) {
                found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn assert_none(complaints: Vec<String>, rule: &str) {
    assert!(complaints.is_empty(), "{rule}\n  {}", complaints.join("\n  "));
}

/// Returns the lines before the first test module. `tests.rs` and files below a `tests` directory are tests all over.
fn lines_before_tests(path: &str) -> usize {
    if path.contains("/tests/") || path.ends_with("/tests.rs") {
        return 0;
    }
    read(path).lines().take_while(|line| line.trim() != "#[cfg(test)]").count()
}

#[test]
fn source_files_fit_their_budget() {
    let mut complaints = Vec::new();
    for path in files(".rs") {
        let lines = lines_before_tests(&path);
        let exception = LONG_FILES.iter().find(|(file, _)| *file == path).map(|(_, lines)| *lines);
        let budget = if path.ends_with("main.rs") { MAIN_LINES_MAX } else { FILE_LINES_MAX };
        match exception {
            None if lines > budget => {
                complaints.push(format!("{path} has {lines} lines, {budget} are allowed"))
            }
            Some(allowed) if lines > allowed => {
                complaints.push(format!("{path} grew from {allowed} to {lines} lines"))
            }
            Some(_) if lines <= budget => complaints.push(format!("{path} fits: take it off LONG_FILES")),
            _ => {}
        }
    }
    for (path, _) in LONG_FILES.iter().filter(|(path, _)| !root().join(path).exists()) {
        complaints.push(format!("{path} is gone: take it off LONG_FILES"));
    }
    assert_none(complaints, "split files by responsibility");
}

#[test]
fn file_names_say_what_is_inside() {
    let named = |path: &String| NAMES_REFUSED.contains(&path.rsplit('/').next().unwrap());
    let complaints = files(".rs").into_iter().filter(named).collect();
    assert_none(complaints, "name a file by what it holds; modules are `name.rs` and `name/part.rs`");
}

#[test]
fn every_channel_has_a_bound() {
    // Put together here, so that this file does not find itself.
    let refused = [
        ["unbounded", "_channel"].concat(),
        ["mpsc::", "channel()"].concat(),
        ["Unbounded", "Sender"].concat(),
    ];
    let mut complaints = Vec::new();
    for path in files(".rs") {
        let text = read(&path);
        complaints
            .extend(refused.iter().filter(|word| text.contains(*word)).map(|word| format!("{path}: {word}")));
    }
    assert_none(complaints, "a queue without a bound hides overload until memory ends");
}

/// Returns the project's crates that a manifest names as dependencies of any kind.
fn dependencies_within(manifest: &str) -> BTreeSet<String> {
    let mut section = String::new();
    let mut found = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line.to_owned();
        } else if section.contains("dependencies")
            && let Some(name) = line.strip_prefix("pubsub-")
        {
            found.insert(name.split(['.', ' ', '=']).next().unwrap().to_owned());
        }
    }
    found
}

#[test]
fn crates_depend_on_each_other_in_one_direction() {
    let mut complaints = Vec::new();
    for path in files("Cargo.toml").iter().filter(|path| path.contains('/')) {
        let name = path.split('/').next().unwrap();
        let Some((_, allowed)) = DIRECTIONS.iter().find(|(known, _)| *known == name) else {
            complaints.push(format!("{path}: say in DIRECTIONS what {name} may use"));
            continue;
        };
        let used = dependencies_within(&read(path));
        complaints.extend(
            used.iter()
                .filter(|used| !allowed.contains(&used.as_str()))
                .map(|used| format!("{name} uses {used}")),
        );
    }
    assert_none(complaints, "core <- client <- {broker, discovery, operator} <- cli, tests");
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let without = |path: &String| path.contains('/') && !read(path).contains("[lints]\nworkspace = true");
    assert_none(files("Cargo.toml").into_iter().filter(without).collect(), "add [lints] workspace = true");
}

#[test]
fn the_rules_keep_the_settings_of_all_crates_and_add_their_own() {
    let core = read("core/clippy.toml");
    let missing = |line: &&str| !line.starts_with('#') && !core.contains(*line);
    let complaints = read("clippy.toml").lines().filter(missing).map(str::to_owned).collect();
    assert_none(complaints, "core/clippy.toml replaces clippy.toml and must repeat its settings");
    assert!(core.contains("disallowed-types") && core.contains("disallowed-methods"));
}

#[test]
fn every_public_module_of_the_rules_is_on_the_map() {
    let map = read("ARCHITECTURE.md");
    let mut complaints = Vec::new();
    for path in files(".rs").into_iter().filter(|path| path.starts_with("core/src/")) {
        for line in read(&path).lines() {
            if let Some(name) = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';'))
                && !words_in_code(&map).contains(name)
            {
                complaints.push(format!("{path}: {name}"));
            }
        }
    }
    assert_none(complaints, "name these modules in ARCHITECTURE.md, in backticks");
}

/// Returns the pieces of a document between backticks.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Returns the words of all pieces between backticks.
fn words_in_code(text: &str) -> BTreeSet<&str> {
    code_spans(text).flat_map(|span| span.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')).collect()
}

#[test]
fn every_path_on_the_map_exists() {
    let tops = [
        "core/",
        "client/",
        "clients/",
        "broker/",
        "discovery/",
        "operator/",
        "cli/",
        "tests/",
        "docs/",
        "scripts/",
        "charts/",
    ];
    let map = read("ARCHITECTURE.md");
    let is_path = |span: &&str| tops.iter().any(|top| span.starts_with(top));
    let complaints = code_spans(&map)
        .filter(is_path)
        .filter(|path| !root().join(path).exists())
        .map(str::to_owned)
        .collect();
    assert_none(complaints, "ARCHITECTURE.md names paths that do not exist");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut complaints = Vec::new();
    for path in files(".md") {
        let text = read(&path);
        let directory = root().join(&path).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if !target.is_empty() && !target.contains("://") && !directory.join(target).exists() {
                complaints.push(format!("{path}: {link}"));
            }
        }
    }
    assert_none(complaints, "links that lead nowhere");
}

#[test]
fn documents_name_only_make_targets_that_exist() {
    let makefile = read("Makefile");
    let exists = |target: &str| makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
    let mut complaints = Vec::new();
    for path in files(".md") {
        for span in code_spans(&read(&path)).filter_map(|span| span.strip_prefix("make ")) {
            let target = span.split(' ').next().unwrap();
            if !exists(target) {
                complaints.push(format!("{path}: make {target}"));
            }
        }
    }
    assert_none(complaints, "make targets that do not exist");
}

/// Returns the ids in the first column of the table of invariants, e.g. `R1`.
fn documented_invariants() -> BTreeSet<String> {
    let is_id = |cell: &&str| {
        let mut letters = cell.chars();
        letters.next().is_some_and(|letter| letter.is_ascii_uppercase())
            && letters.as_str().parse::<u8>().is_ok()
    };
    let text = read("docs/protocol.md");
    let first_cells = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    first_cells.filter(is_id).map(str::to_owned).collect()
}

#[test]
fn documented_invariants_are_those_of_the_code() {
    let source = read("core/src/invariants.rs");
    let body = source.split("pub enum Invariant {").nth(1).unwrap().split("\n}").next().unwrap();
    let named = body.lines().map(|line| line.trim().trim_end_matches(','));
    let in_code =
        named.filter(|line| !line.is_empty() && !line.starts_with('/')).map(str::to_owned).collect();
    assert_eq!(
        documented_invariants(),
        in_code,
        "docs/protocol.md (left) and core/src/invariants.rs (right)"
    );
}

#[test]
fn every_invariant_is_named_where_it_is_kept() {
    let elsewhere = |path: &String| path != "core/src/invariants.rs" && path != "tests/tests/tidy.rs";
    let sources: Vec<String> = files(".rs").into_iter().filter(elsewhere).map(|path| read(&path)).collect();
    let words: BTreeSet<&str> =
        sources.iter().flat_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric())).collect();
    let unnamed = documented_invariants().into_iter().filter(|id| !words.contains(id.as_str()));
    let complaints = unnamed.map(|id| format!("{id} is named nowhere")).collect();
    assert_none(complaints, "rules and tests name the invariants of docs/protocol.md that they keep");
}

#[test]
fn every_dependency_has_its_reason_on_record() {
    let manifest = read("Cargo.toml");
    let section = manifest.split("[workspace.dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let names = section.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name);
    let reasons = read("docs/dependencies.md");
    let table: BTreeSet<&str> =
        reasons.lines().flat_map(|line| line.split([',', '|', ' ', '(', ')'])).collect();
    let missing = names
        .filter(|name| !name.starts_with("pubsub-") && !table.contains(name))
        .map(str::to_owned)
        .collect();
    assert_none(missing, "say in docs/dependencies.md what these are for");
}

#[test]
fn every_setting_of_the_programs_is_documented() {
    let readme = read("README.md");
    let mut complaints = Vec::new();
    for path in files(".rs").into_iter().filter(|path| path != "tests/tests/tidy.rs") {
        for name in read(&path).split(" env = \"").skip(1).filter_map(|rest| rest.split('"').next()) {
            if !words_in_code(&readme).contains(name) {
                complaints.push(format!("{path}: {name}"));
            }
        }
    }
    assert_none(complaints, "name these variables in README.md, in backticks");
}

#[test]
fn no_failure_is_expected_by_panicking_and_no_test_is_skipped_without_a_reason() {
    let refused = [["#[should", "_panic"].concat(), ["#[ign", "ore]"].concat()];
    let mut complaints = Vec::new();
    for path in files(".rs") {
        let text = read(&path);
        complaints
            .extend(refused.iter().filter(|word| text.contains(*word)).map(|word| format!("{path}: {word}")));
    }
    assert_none(complaints, "assert what happens; say what a skipped test needs");
}
