//! The Helm chart and the manifests that are made from it: what they render, what they refuse, and that nothing in them points nowhere.
//!
//! `UPDATE_GOLDEN=1 cargo test -p pubsub-tests --test chart` writes the kept renderings anew; read the difference.
#![allow(clippy::unwrap_used)]

#[path = "chart/helm.rs"]
mod helm;
#[path = "chart/objects.rs"]
mod objects;
#[path = "chart/values.rs"]
mod values;

use helm::{NAMESPACE, refused, render, root, variants};
use objects::{Object, pods};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

/// Returns every variant with the objects that it renders.
fn rendered() -> Vec<(String, Vec<Object>)> {
    variants().into_iter().map(|(name, file)| (name, objects::parse(&render(&["-f", &file])))).collect()
}

/// Returns a source file of a program.
fn source_of(program: &str, file: &str) -> String {
    let path = root().join(program).join("src").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn assert_none(complaints: Vec<String>, rule: &str) {
    assert!(complaints.is_empty(), "{rule}\n  {}", complaints.join("\n  "));
}

#[test]
fn every_variant_renders_as_it_is_kept() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut complaints = Vec::new();
    for (name, file) in variants() {
        // The one thing that no two renderings have in common.
        let random = |line: &str| match line.strip_prefix("  cluster-secret: ") {
            Some(_) => "  cluster-secret: RANDOM\n".to_owned(),
            None => format!("{line}\n"),
        };
        // The definition of Topic is long, always the same, and has a test of its own.
        let args: [&str; 4] = ["-f", &file, "--set", "crds.install=false"];
        let text: String = render(&args).lines().map(random).collect();
        let kept = root().join(format!("tests/golden/chart/{name}.yaml"));
        if update {
            fs::write(&kept, &text).unwrap();
        }
        let before = fs::read_to_string(&kept).unwrap_or_default();
        if let Some((number, (now, then))) =
            text.lines().zip(before.lines()).enumerate().find(|(_, (now, then))| now != then)
        {
            complaints.push(format!("{name}, line {}: {now:?}, kept is {then:?}", number + 1));
        } else if text != before {
            complaints.push(format!(
                "{name}: {} lines, kept are {}",
                text.lines().count(),
                before.lines().count()
            ));
        }
    }
    assert_none(complaints, "UPDATE_GOLDEN=1 writes them anew; read the difference");
}

#[test]
fn a_render_has_no_empty_lines_and_no_values_that_are_missing() {
    let mut complaints = Vec::new();
    for (name, file) in variants() {
        let text = render(&["-f", &file]);
        let odd = |line: &&str| {
            line.ends_with(' ') || line.is_empty() || line.contains("<no value>") || line.contains("map[")
        };
        complaints.extend(text.lines().filter(odd).map(|line| format!("{name}: {line:?}")));
    }
    assert_none(complaints, "a template left something behind");
}

#[test]
fn what_can_not_be_right_is_refused_with_a_sentence_that_helps() {
    let cases = [
        ("broker.replicas=5", "at '/broker': additional properties 'replicas' not allowed"),
        ("brokers.replicaCount=5", "additional properties 'brokers' not allowed"),
        ("broker.replicaCount=two", "at '/broker/replicaCount': got string, want integer"),
        ("broker.replicaCount=-1", "at '/broker/replicaCount': minimum: got -1, want 0"),
        ("broker.timeoutScale=0", "at '/broker/timeoutScale': minimum: got 0, want 1"),
        (
            "broker.service.type=Ingress",
            "at '/broker/service/type': value must be one of 'ClusterIP', 'NodePort', 'LoadBalancer'",
        ),
        ("persistence.size=big", "at '/persistence/size': 'big' does not match pattern"),
        ("persistence.accessMode=ReadWriteMany", "value must be one of 'ReadWriteOnce', 'ReadWriteOncePod'"),
        ("operator.watch=most", "at '/operator/watch': 'most' does not match pattern '^(own|all)$'"),
        (
            "operator.deletion.deadline=soon",
            "at '/operator/deletion/deadline': 'soon' does not match pattern",
        ),
        ("podSecurity.runAsUser=0", "at '/podSecurity/runAsUser': minimum: got 0, want 1"),
        ("image.pullPolicy=Sometimes", "value must be one of 'IfNotPresent', 'Always', 'Never'"),
        ("topics[0].partitions=3", "at '/topics/0': missing property 'name'"),
        ("tls.enabled=true", "additional properties 'tls' not allowed"),
        ("persistence.enabled=false", "Set persistence.acceptDataLoss=true if that is right"),
        ("broker.founders=5", "lower broker.founders or raise broker.replicaCount"),
        ("broker.terminationGracePeriodSeconds=10,broker.preStopSleepSeconds=9", "hand over; allow more"),
        ("operator.enabled=false,topics[0].name=a", "nobody would make these topics"),
        (
            "topics[0].name=a,topics[0].spec.replicationFactor=2,topics[0].spec.minInSyncReplicas=3",
            "a has minInSyncReplicas 3 above its replicationFactor 2",
        ),
    ];
    let wrong = |(setting, expected): &(&str, &str)| {
        let said = refused(&["--set", setting]);
        (!said.contains(expected)).then(|| format!("{setting}: expected {expected:?}, helm said {said}"))
    };
    assert_none(
        cases.iter().filter_map(wrong).collect(),
        "these settings must be refused, and why must be said",
    );
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    for (name, file) in variants() {
        let output = helm::helm(&[
            "lint",
            "charts/pubsub",
            "--strict",
            "--kube-version",
            helm::KUBERNETES,
            "-f",
            &file,
        ]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !said.contains("[WARNING]"), "{name}: {said}");
    }
}

#[test]
fn every_pod_meets_the_restricted_standard() {
    let mut complaints = Vec::new();
    for (name, objects) in rendered() {
        for object in &objects {
            if let Some(pod) = object.pod() {
                complaints.extend(
                    objects::breaches(pod).into_iter().map(|breach| format!("{name}: {object}: {breach}")),
                );
            }
        }
    }
    assert_none(complaints, "restricted Pod Security Standard, and a root file system that is only read");
}

#[test]
fn only_what_talks_to_kubernetes_gets_a_token() {
    for (name, objects) in rendered() {
        for object in objects.iter().filter(|object| object.pod().is_some()) {
            let pod = object.pod().unwrap();
            let token = pod["automountServiceAccountToken"] != Value::Bool(false);
            let operator = pod["containers"][0]["command"][0] == "/pubsub-operator";
            assert_eq!(token, operator, "{name}: {object}");
            assert_eq!(pod["enableServiceLinks"], Value::Bool(false), "{name}: {object}");
        }
    }
}

#[test]
fn selectors_find_the_pods_that_they_are_meant_for() {
    let mut complaints = Vec::new();
    for (name, objects) in rendered() {
        complaints
            .extend(objects::selectors_that_miss(&objects).into_iter().map(|miss| format!("{name}: {miss}")));
    }
    assert_none(complaints, "labels and selectors come from the same template");
}

#[test]
fn named_ports_accounts_secrets_and_services_exist() {
    let mut complaints = Vec::new();
    for (name, objects) in rendered() {
        complaints.extend(objects::dangling(&objects).into_iter().map(|miss| format!("{name}: {miss}")));
    }
    assert_none(complaints, "these names lead nowhere");
}

#[test]
fn scaling_restarts_nobody() {
    let template = |count: &str| {
        let objects = objects::parse(&render(&["--set", &format!("broker.replicaCount={count}")]));
        pods(&objects).filter(|(object, _)| !object.is_hook()).map(|(_, pod)| pod.clone()).collect::<Vec<_>>()
    };
    assert_eq!(template("3"), template("5"));
    assert_eq!(template("3").len(), 3, "brokers, discovery, operator");
}

#[test]
fn founders_are_as_many_as_there_are_brokers_but_three_at_most() {
    let founders = |settings: &str| {
        let objects = objects::parse(&render(&["--set", settings]));
        objects::env(&objects, "discovery", "GENESIS_VOTERS").unwrap()
    };
    for (settings, expected) in [
        ("broker.replicaCount=1", "1"),
        ("broker.replicaCount=2", "1,2"),
        ("broker.replicaCount=3", "1,2,3"),
        ("broker.replicaCount=7", "1,2,3"),
        ("broker.replicaCount=0", "1,2,3"),
        ("broker.replicaCount=7,broker.founders=5", "1,2,3,4,5"),
    ] {
        assert_eq!(founders(settings), expected, "{settings}");
    }
}

#[test]
fn brokers_know_themselves_and_discovery_by_full_names() {
    let objects = objects::parse(&render(&[]));
    let env = |component: &str, name: &str| objects::env(&objects, component, name).unwrap();
    let pod = format!("http://$(BROKER_NAME).pubsub-broker.{NAMESPACE}.svc.cluster.local");
    assert_eq!(env("broker", "BROKER_API_BASE"), format!("{pod}:8080"));
    assert_eq!(env("broker", "PEER_BASE"), format!("{pod}:5000"));
    assert_eq!(
        env("broker", "DISCOVERY_URL"),
        format!("http://pubsub-discovery.{NAMESPACE}.svc.cluster.local:9090")
    );
    assert_eq!(
        env("operator", "PUBSUB_BROKERS"),
        format!("http://pubsub.{NAMESPACE}.svc.cluster.local:8080")
    );
}

#[test]
fn pods_set_only_variables_that_their_program_reads() {
    let reads = |text: &str| -> BTreeSet<String> {
        text.split("env = \"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
    };
    let mut complaints = Vec::new();
    for (name, objects) in rendered() {
        for (object, pod) in pods(&objects) {
            let command = pod["containers"][0]["command"][0].as_str().unwrap();
            let Some(program) = command.strip_prefix("/pubsub-") else { continue };
            let known = reads(&source_of(program, "config.rs"));
            let set = pod["containers"][0]["env"]
                .as_array()
                .unwrap()
                .iter()
                .map(|env| env["name"].as_str().unwrap());
            // Read where logging starts, before there is a configuration.
            let unknown = set.filter(|set| *set != "PUBSUB_LOG" && !known.contains(*set));
            complaints.extend(unknown.map(|set| format!("{name}: {object}: {set}")));
        }
    }
    assert_none(complaints, "a setting that nobody reads does nothing");
}

#[test]
fn the_operator_may_do_what_it_needs_and_nothing_else() {
    let rules = |file: &str| {
        let file = root().join(format!("charts/pubsub/ci/{file}-values.yaml"));
        let objects = objects::parse(&render(&["-f", file.to_str().unwrap()]));
        let roles = objects.into_iter().filter(|object| object.kind().ends_with("Role"));
        roles.map(|role| (format!("{role}"), role.value["rules"].to_string())).collect::<Vec<_>>()
    };
    let own = rules("default");
    assert_eq!(own.len(), 2, "{own:?}");
    assert!(own.iter().all(|(role, _)| role.starts_with("Role ")), "{own:?}");
    let all = rules("all-namespaces");
    assert_eq!(all.iter().filter(|(role, _)| role.starts_with("ClusterRole ")).count(), 1, "{all:?}");
    let listed = rules("everything");
    assert_eq!(listed.len(), 3, "its own namespace and two that are watched: {listed:?}");
    for (role, rules) in own.iter().chain(&all).chain(&listed) {
        assert!(!rules.contains('*') && !rules.contains("secrets"), "{role}: {rules}");
        assert!(!rules.contains("delete"), "the operator deletes no object: {role}: {rules}");
    }
}

#[test]
fn dashboard_and_alerts_use_metrics_that_exist() {
    let files = [("broker", "metrics.rs"), ("broker", "http/ops.rs"), ("discovery", "metrics.rs")];
    let sources: String = files.into_iter().map(|(program, file)| source_of(program, file)).collect();
    let operator = source_of("operator", "metrics.rs");
    let everything = root().join("charts/pubsub/ci/everything-values.yaml");
    let text = render(&["-f", everything.to_str().unwrap()]);
    let monitoring: String = objects::parse(&text)
        .into_iter()
        .filter(|object| object.kind() == "PrometheusRule" || object.name().ends_with("-dashboard"))
        .map(|object| object.value.to_string())
        .collect();
    let words = monitoring.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let used: BTreeSet<&str> = words.filter(|word| word.starts_with("pubsub_")).collect();
    assert!(used.len() > 20, "{used:?}");
    let known = |name: &str| {
        let stem = ["_total", "_bucket"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let short = stem.strip_prefix("pubsub_").unwrap();
        if let Some(short) = short.strip_prefix("operator_") {
            return operator.contains(&format!("\"{short}\""));
        }
        let quoted = [name, stem, short].map(|name| format!("\"{name}\""));
        quoted.iter().any(|name| sources.contains(name)) || sources.contains(&format!("# TYPE {name} "))
    };
    let missing = used.into_iter().filter(|name| !known(name)).map(str::to_owned).collect();
    assert_none(missing, "no program has these metrics");
}

#[test]
fn the_notes_have_lines_to_try_and_shout_what_is_off() {
    let notes = helm::notes(&[]);
    for line in [
        "kubectl -n pubsub port-forward service/pubsub 8080:8080",
        "curl -X POST 'http://127.0.0.1:8080/admin/topics?name=demo'",
        "http://127.0.0.1:8080/topics/demo/publish",
        "Authentication of clients   OFF (!)",
        "TLS                         OFF (!)",
        "Encryption at rest          OFF (!)",
        "Signatures between brokers  on",
    ] {
        assert!(notes.contains(line), "{line}\n{notes}");
    }
    let notes = helm::notes(&[
        "--set",
        "encryption.existingSecret=keys,networkPolicy.enabled=false,broker.replicaCount=1",
    ]);
    assert!(notes.contains("Encryption at rest          on       Keys: Secret keys"), "{notes}");
    assert!(
        notes.contains("Network policies            OFF (!)") && notes.contains("NOT TOLERATED (!)"),
        "{notes}"
    );
    let notes = helm::notes(&["--set", "topics[0].name=orders"]);
    assert!(notes.contains("WARNING: the topics of this release were not made"), "{notes}");
}

#[test]
fn topics_wait_for_their_definition_and_outlive_the_release() {
    let topics = |more: &[&str]| {
        let set = ["--set", "topics[0].name=orders,topics[0].spec.partitions=3"];
        let args: Vec<&str> = set.iter().chain(more).copied().collect();
        let objects = objects::parse(&render(&args));
        objects.into_iter().filter(|object| object.kind() == "Topic" && !object.is_hook()).collect::<Vec<_>>()
    };
    assert_eq!(topics(&[]).len(), 0, "Helm would refuse the whole release");
    for args in [&["--api-versions", "pubsub.dev/v1alpha1/Topic"][..], &["--set", "crds.install=false"]] {
        let made = topics(args);
        assert_eq!(made.len(), 1, "{args:?}");
        assert_eq!(made[0].annotation("helm.sh/resource-policy"), Some("keep"));
        assert_eq!(made[0].value["spec"]["partitions"], 3);
    }
}

#[test]
fn the_definition_of_topic_is_kept_and_the_same_everywhere() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    assert_eq!(
        read("charts/pubsub/files/crd.yaml"),
        read("manifests/crd.yaml"),
        "scripts/manifests.sh copies it"
    );
    let objects = objects::parse(&render(&[]));
    let crd = objects.iter().find(|object| object.kind() == "CustomResourceDefinition").unwrap();
    assert_eq!(crd.annotation("helm.sh/resource-policy"), Some("keep"));
    let mut bare = crd.value.clone();
    bare["metadata"].as_object_mut().unwrap().remove("annotations");
    let source = &objects::parse(&read("manifests/crd.yaml"))[0];
    assert_eq!(
        objects::with_plain_numbers(&bare["spec"]),
        objects::with_plain_numbers(&source.value["spec"])
    );
}

#[test]
fn the_manifests_are_what_the_chart_renders() {
    let fresh = tempfile::tempdir().unwrap();
    let script = root().join("scripts/manifests.sh");
    let output = Command::new(script).arg(fresh.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made = fs::read_to_string(fresh.path().join("pubsub.yaml")).unwrap();
    let kept = fs::read_to_string(root().join("manifests/pubsub.yaml")).unwrap();
    assert!(made == kept, "manifests/pubsub.yaml is old: run scripts/manifests.sh");
    assert!(
        !objects::parse(&kept).iter().any(|object| object.kind() == "Secret"),
        "no secret in a repository"
    );
}

#[test]
fn the_readme_lists_the_settings_as_they_are() {
    let output = Command::new(root().join("scripts/chart-readme.sh")).arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_schema_knows_every_setting_and_no_other() {
    assert_none(values::differences(), "values.yaml and values.schema.json must name the same settings");
    assert_none(values::open_objects(), "add additionalProperties: false");
}

/// The control plane of the test cluster is enough: nothing is started.
#[test]
#[ignore = "needs an API server: KUBECONFIG must name one that may be written to"]
fn an_api_server_takes_every_variant() {
    helm::kubectl(&["apply", "-f", "manifests/namespace.yaml"], "");
    helm::kubectl(&["apply", "-f", "manifests/crd.yaml"], "");
    helm::kubectl(&["wait", "--for=condition=Established", "crd/topics.pubsub.dev"], "");
    for namespace in ["team-a", "team-b"] {
        let object = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}");
        helm::kubectl(&["apply", "-f", "-"], &object);
    }
    for (_, objects) in rendered() {
        // Those of Prometheus' operator are of kinds that the server does not know.
        let known =
            objects.iter().filter(|object| !object.api_version().starts_with("monitoring.coreos.com/"));
        for object in known {
            helm::kubectl(
                &["apply", "--dry-run=server", "--validate=strict", "-f", "-"],
                &object.value.to_string(),
            );
        }
    }
    helm::kubectl(&["apply", "--dry-run=server", "-f", "manifests/pubsub.yaml"], "");
    helm::kubectl(&["-n", NAMESPACE, "apply", "--dry-run=server", "-f", "manifests/samples/topic.yaml"], "");
}
