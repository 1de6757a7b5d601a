//! Calls of helm and kubectl.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Where the chart is installed in these tests.
pub(crate) const NAMESPACE: &str = "pubsub";
/// What is rendered for: a helm that was built from its module takes itself for a very old one.
pub(crate) const KUBERNETES: &str = "1.34.0";

/// Returns the project's directory.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Returns a program of the cache that is shared by all checkouts, or of the PATH.
fn program(name: &str) -> PathBuf {
    let cache = std::env::var_os("PUBSUB_K8S_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache/pubsub/k8s")
    });
    let cached = cache.join("bin").join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::iter::once(cached).chain(std::env::split_paths(&path).map(|directory| directory.join(name)));
    found.into_iter().find(|file| file.is_file()).unwrap_or_else(|| {
        panic!("{name} is missing, which the chart's tests call: `make helm` installs helm")
    })
}

/// Runs helm in the project's directory.
pub(crate) fn helm(args: &[&str]) -> Output {
    Command::new(program("helm")).args(args).current_dir(root()).output().unwrap()
}

fn template(chart: &str, args: &[&str]) -> Output {
    let base = ["template", "pubsub", chart, "--namespace", NAMESPACE, "--kube-version", KUBERNETES];
    helm(&base.into_iter().chain(args.iter().copied()).collect::<Vec<_>>())
}

/// Returns what the chart renders.
pub(crate) fn render(args: &[&str]) -> String {
    let output = template("charts/pubsub", args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns why the chart renders nothing.
pub(crate) fn refused(args: &[&str]) -> String {
    let output = template("charts/pubsub", args);
    match output.status.success() {
        true => "nothing, and rendered it".to_owned(),
        false => String::from_utf8(output.stderr).unwrap(),
    }
}

/// Returns what a person reads after an install. Helm shows it only to those who install, so it is rendered by way of a copy
/// of the chart in which it is part of an object.
pub(crate) fn notes(args: &[&str]) -> String {
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(root().join("charts/pubsub")).arg(copy.path()).status();
    assert!(copied.unwrap().success());
    let chart = copy.path().join("pubsub");
    fs::rename(chart.join("templates/NOTES.txt"), chart.join("NOTES.tpl")).unwrap();
    let object = "kind: Notes\ntext: |\n  {{- tpl (.Files.Get \"NOTES.tpl\") . | nindent 2 }}\n";
    fs::write(chart.join("templates/notes.yaml"), object).unwrap();
    let args: Vec<&str> = args.iter().copied().chain(["--show-only", "templates/notes.yaml"]).collect();
    let output = template(chart.to_str().unwrap(), &args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    serde_yaml::from_str::<serde_json::Value>(&text).unwrap()["text"].as_str().unwrap().to_owned()
}

/// Returns the name and path of each file of values that is rendered in these tests.
pub(crate) fn variants() -> Vec<(String, String)> {
    let variant = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().strip_suffix("-values.yaml")?.to_owned();
        Some((name, path.to_str().unwrap().to_owned()))
    };
    let mut all: Vec<_> =
        fs::read_dir(root().join("charts/pubsub/ci")).unwrap().filter_map(variant).collect();
    all.sort();
    assert!(all.len() >= 5, "{all:?}");
    all
}

/// Runs kubectl against the API server that KUBECONFIG names, and expects success.
pub(crate) fn kubectl(args: &[&str], input: &str) {
    let mut child = Command::new(program("kubectl"))
        .args(args)
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{args:?} {input}: {}", String::from_utf8_lossy(&output.stderr));
}
