//! What the program says of itself: the help of every command, as it is recorded in tests/golden/help.
//!
//! `UPDATE_GOLDEN=1 cargo test -p pubsub-cli --test help` records it anew; read the difference.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn pubsub(arguments: &[String]) -> Output {
    // The help is laid out for the width that is told here, whatever the terminal.
    let mut command = Command::new(env!("CARGO_BIN_EXE_pubsub"));
    command.args(arguments).env_clear().env("COLUMNS", "110").env("LINES", "40").output().unwrap()
}

fn help(path: &[String], flag: &str) -> String {
    let output = pubsub(&[path, &[flag.to_owned()]].concat());
    assert!(output.status.success(), "{path:?} {flag}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the commands that a help lists.
fn subcommands(help: &str) -> Vec<String> {
    let section = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let listed =
        section.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    // What is indented further is the rest of a description.
    let names = listed
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned));
    names.filter(|name| name != "help").collect()
}

/// Returns the words of every command, the program itself first.
fn commands() -> Vec<Vec<String>> {
    let mut found = vec![Vec::new()];
    let mut at = 0;
    while let Some(path) = found.get(at).cloned() {
        at += 1;
        found.extend(
            subcommands(&help(&path, "-h")).into_iter().map(|name| [path.clone(), vec![name]].concat()),
        );
    }
    found
}

fn golden(path: &[String]) -> PathBuf {
    let name = std::iter::once("pubsub").chain(path.iter().map(String::as_str)).collect::<Vec<_>>().join("-");
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/help").join(format!("{name}.txt"))
}

#[test]
fn the_help_of_every_command_is_as_recorded() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut expected = BTreeSet::new();
    for path in commands() {
        let (text, file) = (help(&path, "--help"), golden(&path));
        if update {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &text).unwrap();
        }
        let recorded = fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(text, recorded, "{}: UPDATE_GOLDEN=1 records it anew", file.display());
        expected.insert(file.file_name().unwrap().to_owned());
    }
    let directory = golden(&[]).parent().unwrap().to_owned();
    let recorded: BTreeSet<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(recorded, expected, "of commands that are gone the record goes too");
}

#[test]
fn every_command_that_does_something_teaches_by_example_and_tells_its_exit_codes() {
    for path in commands() {
        let text = help(&path, "--help");
        let does_something = subcommands(&text).is_empty();
        let taught = text.contains("Example") && text.contains("Exit codes: 0 done");
        assert!(taught || !does_something, "{path:?}:\n{text}");
    }
}

#[test]
fn every_example_is_understood() {
    let mut seen = 0;
    for path in commands() {
        let text = help(&path, "--help");
        let examples = text.split("Example").nth(1).unwrap_or_default();
        for line in
            examples.lines().filter_map(|line| line.trim().split_once("pubsub ").map(|(_, rest)| rest))
        {
            let command = line.split("  ").next().unwrap().split(['>', '|']).next().unwrap();
            let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
            // Of a command that is understood but not run, only its help is asked for.
            let output = pubsub(&[words.as_slice(), &["--help".to_owned()]].concat());
            assert!(output.status.success(), "{path:?}: {line}");
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} examples");
}

#[test]
fn a_mistake_is_exit_code_2_and_no_broker_is_exit_code_3() {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for line in
        ["topic", "topic create", "publish t --rate nothing", "subscribe t --from nowhere", "nonsense"]
    {
        assert_eq!(pubsub(&words(line)).status.code(), Some(2), "{line}");
    }
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    drop(holder);
    let nobody = pubsub(&words(&format!("topic list --brokers http://127.0.0.1:{port}")));
    assert_eq!(nobody.status.code(), Some(3), "{}", String::from_utf8_lossy(&nobody.stderr));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("hint: "), "it says what to do");
}

#[test]
fn completions_of_every_shell_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = pubsub(&["completions".to_owned(), shell.to_owned()]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && text.contains("subscribe") && text.contains("describe"),
            "{shell}"
        );
    }
}
