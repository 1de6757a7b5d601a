//! Documents are run: every shell block of docs/api.md and of the guides does what it says, against real brokers.
//!
//! CONTRIBUTING.md has the convention. All `sh` blocks of a document are run in order by one bash, each line as it
//! stands; a block of `json` or `text` right behind one is what its last command prints.

#![allow(clippy::unwrap_used)]

use pubsub_tests::cluster::process::binary;
use pubsub_tests::cluster::{Cluster, Settings};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Longest time that one document may take.
const DOCUMENT_DEADLINE: Duration = Duration::from_secs(120);
/// Member of a shown object, and element of a shown list, that stands for any further ones.
const MORE: &str = "…";
/// Streams never end: they are cut off after some seconds. Any other answer must come, and be one of success.
const PRELUDE: &str = r#"set -euo pipefail
curl() {
    case " $* " in
    *" -N "*) command curl -sS --fail-with-body --max-time 3 "$@" || [ $? = 28 ] ;;
    *) command curl -sS --fail-with-body --max-time 60 "$@" ;;
    esac
    echo
}
"#;

#[path = "../../client/examples/guide.rs"]
#[allow(dead_code, unreachable_pub, reason = "an example is a program of its own")]
mod guide;

/// A fenced block of a document.
#[derive(Debug)]
struct Block {
    language: String,
    /// Number of its first line.
    line: usize,
    text: String,
    /// The broker that joins before it is run, by a line `<!-- broker 4 joins -->`.
    new_broker: Option<u32>,
    /// What the block right behind it shows, with its language.
    shown: Option<(String, String)>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the fenced blocks of a document; one that shows an answer belongs to the one that asks.
fn blocks(document: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut lines = document.lines().enumerate();
    let (mut adjacent, mut new_broker) = (false, None);
    while let Some((number, line)) = lines.next() {
        if let Some(id) = line.strip_prefix("<!-- broker ").and_then(|rest| rest.strip_suffix(" joins -->")) {
            new_broker = Some(id.parse().unwrap());
        }
        let Some(language) = line.strip_prefix("```") else {
            adjacent &= line.is_empty();
            continue;
        };
        let body = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```");
        let text = body.map(|line| format!("{line}\n")).collect::<String>();
        let shows = matches!(language, "json" | "text");
        match found.last_mut() {
            Some(before) if shows && adjacent && before.shown.is_none() => {
                before.shown = Some((language.to_owned(), text));
            }
            _ => {
                let (language, line, new_broker) = (language.to_owned(), number + 2, new_broker.take());
                found.push(Block { language, line, text, new_broker, shown: None });
            }
        }
        adjacent = true;
    }
    found
}

/// Compares JSON; `"<anything>"` stands for any value, a member or element `…` for any further ones.
fn fits(shown: &Value, got: &Value) -> bool {
    match (shown, got) {
        (Value::String(text), _) if is_placeholder(text) => true,
        (Value::Object(shown), Value::Object(got)) => {
            let open = shown.contains_key(MORE);
            let known = shown.iter().filter(|(name, _)| *name != MORE);
            (open || shown.len() == got.len())
                && known.into_iter().all(|(name, value)| got.get(name).is_some_and(|got| fits(value, got)))
        }
        (Value::Array(shown), Value::Array(got)) => {
            let open = shown.last().is_some_and(|last| last == MORE);
            let known = &shown[..shown.len() - usize::from(open)];
            let enough = if open { got.len() >= known.len() } else { got.len() == known.len() };
            enough && known.iter().zip(got).all(|(shown, got)| fits(shown, got))
        }
        (shown, got) => shown == got,
    }
}

fn is_placeholder(text: &str) -> bool {
    text.starts_with('<') && text.ends_with('>')
}

/// Compares lines of text; `<anything>` in a line stands for one or more characters, a line `…` for any further lines.
fn fits_text(shown: &str, got: &str) -> bool {
    let (shown, got): (Vec<&str>, Vec<&str>) = (shown.trim().lines().collect(), got.trim().lines().collect());
    let open = shown.last().is_some_and(|last| *last == MORE);
    let known = &shown[..shown.len() - usize::from(open)];
    let enough = if open { got.len() >= known.len() } else { got.len() == known.len() };
    enough && known.iter().zip(got).all(|(shown, got)| fits_line(shown, got))
}

fn fits_line(shown: &str, got: &str) -> bool {
    let mut rest = got;
    let mut pattern = shown;
    while let Some((fixed, (_, after))) =
        pattern.split_once('<').and_then(|(fixed, rest)| Some((fixed, rest.split_once('>')?)))
    {
        let Some(behind) = rest.strip_prefix(fixed) else { return false };
        let until = after.split('<').next().unwrap_or_default();
        let end = if until.is_empty() { behind.len() } else { behind.find(until).unwrap_or(0) };
        if end == 0 {
            return false;
        }
        (rest, pattern) = (&behind[end..], after);
    }
    rest == pattern
}

/// Puts a cluster's addresses in the place of those that documents name.
fn addressed(cluster: &Cluster, text: &str) -> String {
    cluster.ids().into_iter().fold(text.to_owned(), |text, id| {
        text.replace(&format!("http://127.0.0.1:{}", 8_080 + id), &cluster.url(id))
    })
}

/// Runs all shell blocks of a document and checks what they print.
async fn run_document(cluster: &Cluster, path: &str) {
    let blocks = blocks(&read(path));
    let shell: Vec<&Block> = blocks.iter().filter(|block| block.language == "sh").collect();
    assert!(!shell.is_empty(), "{path} has no shell block");
    let mut bash = Bash::start(cluster, path).await;
    for block in shell {
        if let Some(id) = block.new_broker {
            cluster.add_broker(id);
            cluster.wait_broker_ready(id).await;
        }
        let place = format!("{path}:{}", block.line);
        let out = bash.run(&place, &addressed(cluster, &block.text)).await;
        if let Some((language, shown)) = &block.shown {
            check_shown(cluster, &place, language, shown, &out);
        }
    }
}

/// A shell that runs one block after the other, so that a variable of one is there in the next.
struct Bash {
    child: Child,
    stdin: ChildStdin,
    finished: Lines<BufReader<ChildStdout>>,
    directory: PathBuf,
    ends: Instant,
}

impl Bash {
    async fn start(cluster: &Cluster, path: &str) -> Self {
        let directory = cluster.dir().join(path.replace('/', "-"));
        std::fs::create_dir_all(&directory).unwrap();
        let programs = binary("pubsub").parent().unwrap().to_owned();
        let others = std::env::var_os("PATH").unwrap();
        let search = std::env::join_paths(std::iter::once(programs).chain(std::env::split_paths(&others)));
        let mut child = Command::new("bash")
            .arg("-s")
            .current_dir(&directory)
            .env("PATH", search.unwrap())
            .env("PUBSUB_BROKERS", cluster.urls().join(","))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(PRELUDE.as_bytes()).await.unwrap();
        let finished = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, stdin, finished, directory, ends: Instant::now() + DOCUMENT_DEADLINE }
    }

    /// Runs a block and returns what it printed.
    async fn run(&mut self, place: &str, text: &str) -> String {
        let script = format!("{{\n{text}}} </dev/null >out 2>err\necho finished\n");
        self.stdin.write_all(script.as_bytes()).await.unwrap();
        let line = tokio::time::timeout_at(self.ends.into(), self.finished.next_line()).await;
        let output = |name| std::fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        let out = output("out");
        if !matches!(line, Ok(Ok(Some(_)))) {
            let status = self.child.try_wait();
            panic!("{place}: failed ({status:?})\n{text}\nprinted: {out}\nand: {}", output("err"));
        }
        out
    }
}

fn check_shown(cluster: &Cluster, place: &str, language: &str, shown: &str, out: &str) {
    let shown = addressed(cluster, shown);
    if language == "text" {
        assert!(fits_text(&shown, out), "{place}\nshown: {shown}\nprinted: {out}");
        return;
    }
    let expected: Value = serde_json::from_str(&shown).unwrap_or_else(|error| panic!("{place}: {error}"));
    let printed = serde_json::Deserializer::from_str(out).into_iter::<Value>();
    let got = printed.last().expect("the block prints something").unwrap_or_else(|error| {
        panic!("{place}: {error}\nprinted: {out}");
    });
    assert!(fits(&expected, &got), "{place}\nshown: {expected:#}\nprinted: {got:#}");
}

#[tokio::test]
async fn every_line_of_the_description_of_the_api_works() {
    let cluster = Cluster::ready(Settings::default()).await;
    run_document(&cluster, "docs/api.md").await;
}

#[tokio::test]
async fn the_guide_from_curl_to_a_group_works() {
    let cluster = Cluster::ready(Settings::default()).await;
    run_document(&cluster, "docs/guides/curl-to-group.md").await;
}

#[tokio::test]
async fn the_guide_for_rust_works() {
    let cluster = Cluster::ready(Settings::default()).await;
    guide::run(&cluster.urls()).await.unwrap();
    let example: Vec<String> = lines(&read("client/examples/guide.rs"));
    let guide = blocks(&read("docs/guides/rust.md"));
    for block in guide.iter().filter(|block| block.language == "rust") {
        let part = lines(&block.text);
        let found = example.windows(part.len()).any(|window| window == part);
        assert!(found, "docs/guides/rust.md:{}: client/examples/guide.rs has no such lines", block.line);
    }
}

/// Returns the lines that hold something, without their indentation.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn a_shown_answer_fits_what_was_printed_and_nothing_else() {
    let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    for (shown, got, fit) in [
        (r#"{"a": 1}"#, r#"{"a": 1}"#, true),
        (r#"{"a": 1}"#, r#"{"a": 1, "b": 2}"#, false),
        (r#"{"a": 1, "…": "…"}"#, r#"{"a": 1, "b": 2}"#, true),
        (r#"{"a": 1, "…": "…"}"#, r#"{"b": 2}"#, false),
        (r#"{"a": "<milliseconds>"}"#, r#"{"a": 5}"#, true),
        (r#"{"a": "<milliseconds>"}"#, r"{}", false),
        ("[1, \"…\"]", "[1, 2, 3]", true),
        ("[1, 2]", "[1, 2, 3]", false),
        ("[1, 3, \"…\"]", "[1, 2, 3]", false),
    ] {
        assert_eq!(fits(&value(shown), &value(got)), fit, "{shown} and {got}");
    }
    for (shown, got, fit) in [
        ("id: 0:<offset>", "id: 0:17", true),
        ("id: 0:<offset>", "id: 1:17", false),
        ("at <time> by <who>.", "at 5 by me.", true),
        ("at <time> by <who>.", "at 5 by me", false),
        ("a\n…", "a\nb\nc", true),
        ("a\nb", "a\nb\nc", false),
    ] {
        assert_eq!(fits_text(shown, got), fit, "{shown} and {got}");
    }
}

#[test]
fn a_block_that_shows_belongs_to_the_one_right_before_it() {
    let text = "<!-- broker 4 joins -->\n```sh\nask\n```\n\n```json\n1\n```\nWords.\n\n```json\n2\n```\n";
    let found = blocks(text);
    assert_eq!((found[0].new_broker, found[1].new_broker), (Some(4), None));
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0].shown, Some(("json".to_owned(), "1\n".to_owned())));
    assert_eq!((found[1].language.as_str(), found[1].line), ("json", 12));
}
