//! Rendered objects, and the questions that the tests ask of them.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt;

/// One object as Kubernetes would get it.
pub(crate) struct Object {
    pub(crate) value: Value,
}

/// Returns the objects of a rendering.
pub(crate) fn parse(text: &str) -> Vec<Object> {
    let values =
        serde_yaml::Deserializer::from_str(text).map(|document| Value::deserialize(document).unwrap());
    values.filter(|value| !value.is_null()).map(|value| Object { value }).collect()
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

impl Object {
    fn text(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn kind(&self) -> &str {
        self.text("/kind")
    }

    pub(crate) fn api_version(&self) -> &str {
        self.text("/apiVersion")
    }

    pub(crate) fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.value.pointer("/metadata/annotations")?.get(name)?.as_str()
    }

    /// Whether it exists only at certain moments of a release's life.
    pub(crate) fn is_hook(&self) -> bool {
        self.annotation("helm.sh/hook").is_some()
    }

    /// Returns the specification of the pod that it is or makes.
    pub(crate) fn pod(&self) -> Option<&Value> {
        match self.kind() {
            "Pod" => self.value.get("spec"),
            _ => self.value.pointer("/spec/template/spec"),
        }
    }

    /// Returns the labels of that pod.
    fn pod_labels(&self) -> Option<&Map<String, Value>> {
        self.pod()?;
        let pointer =
            if self.kind() == "Pod" { "/metadata/labels" } else { "/spec/template/metadata/labels" };
        self.value.pointer(pointer)?.as_object()
    }
}

/// Returns all objects that make pods, with the pods.
pub(crate) fn pods(objects: &[Object]) -> impl Iterator<Item = (&Object, &Value)> {
    objects.iter().filter_map(|object| Some((object, object.pod()?)))
}

/// Returns a value in which 9 and 9.0 are the same: writers of YAML differ in that.
pub(crate) fn with_plain_numbers(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        Value::Array(items) => items.iter().map(with_plain_numbers).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.clone(), with_plain_numbers(value))).collect()
        }
        Value::Null | Value::Bool(_) | Value::String(_) => value.clone(),
    }
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// Returns a variable of the first container of a component's pods.
pub(crate) fn env(objects: &[Object], component: &str, name: &str) -> Option<String> {
    let of = |object: &&Object| {
        !object.is_hook()
            && object.pod_labels().is_some_and(|labels| labels["app.kubernetes.io/component"] == component)
    };
    let pod = objects.iter().find(of)?.pod()?;
    let variable = list(&pod["containers"][0], "env").find(|variable| variable["name"] == name)?;
    variable["value"].as_str().map(str::to_owned)
}

/// Returns what a pod does that the restricted Pod Security Standard forbids, or that needs a root file system to write to.
pub(crate) fn breaches(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut expect = |right: bool, what: String| {
        if !right {
            found.push(what);
        }
    };
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        expect(pod.get(key).is_none(), key.to_owned());
    }
    let context = &pod["securityContext"];
    expect(context["runAsNonRoot"] == true, "runAsNonRoot".to_owned());
    expect(context["runAsUser"] != 0, "runAsUser".to_owned());
    expect(context["seccompProfile"]["type"] == "RuntimeDefault", "seccompProfile".to_owned());
    expect(context.get("sysctls").is_none(), "sysctls".to_owned());
    for volume in list(pod, "volumes") {
        let allowed =
            ["configMap", "emptyDir", "secret", "projected", "downwardAPI", "persistentVolumeClaim"];
        let kinds = volume.as_object().unwrap().keys().filter(|key| *key != "name");
        kinds.for_each(|kind| expect(allowed.contains(&kind.as_str()), format!("a volume of kind {kind}")));
    }
    for container in list(pod, "containers").chain(list(pod, "initContainers")) {
        let context = &container["securityContext"];
        expect(context["allowPrivilegeEscalation"] == false, "allowPrivilegeEscalation".to_owned());
        expect(context["capabilities"] == serde_json::json!({"drop": ["ALL"]}), "capabilities".to_owned());
        expect(context["readOnlyRootFilesystem"] == true, "readOnlyRootFilesystem".to_owned());
        expect(
            context.get("privileged").is_none() && context.get("procMount").is_none(),
            "privileged".to_owned(),
        );
        expect(list(container, "ports").all(|port| port.get("hostPort").is_none()), "hostPort".to_owned());
        expect(container["resources"]["limits"].get("memory").is_some(), "no bound on memory".to_owned());
    }
    found
}

fn matches(selector: &Value, labels: &Map<String, Value>) -> bool {
    let selector = selector.as_object().unwrap();
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Returns every selector of labels that belong to this release, with what it should find and a way to it.
fn selectors(object: &Object) -> Vec<(String, Value)> {
    let at = |pointer: &str| object.value.pointer(pointer).cloned();
    let mut found: Vec<(String, Value)> = Vec::new();
    let mut add =
        |way: String, selector: Option<Value>| found.extend(selector.map(|selector| (way, selector)));
    match object.kind() {
        "Service" => add("selector".to_owned(), at("/spec/selector")),
        "PodDisruptionBudget" => add("selector".to_owned(), at("/spec/selector/matchLabels")),
        "NetworkPolicy" => {
            add("podSelector".to_owned(), at("/spec/podSelector/matchLabels"));
            for (number, rule) in list(&object.value["spec"], "ingress").enumerate() {
                // Peers with a namespace are named by whoever installs the release.
                let own = list(rule, "from").filter(|peer| peer.get("namespaceSelector").is_none());
                own.for_each(|peer| {
                    add(format!("rule {number}"), peer.pointer("/podSelector/matchLabels").cloned())
                });
            }
        }
        _ => {}
    }
    if let Some(pod) = object.pod() {
        for constraint in list(pod, "topologySpreadConstraints") {
            let selector = constraint.pointer("/labelSelector/matchLabels").cloned();
            add("topologySpreadConstraints".to_owned(), Some(selector.unwrap_or(Value::Object(Map::new()))));
        }
    }
    found
}

/// Returns selectors that match no pod, or pods of more than one component; and workloads that would lose their own pods.
pub(crate) fn selectors_that_miss(objects: &[Object]) -> Vec<String> {
    let mut misses = Vec::new();
    let labelled: Vec<_> = objects.iter().filter_map(|object| object.pod_labels()).collect();
    for object in objects {
        if let Some(selector) = object.value.pointer("/spec/selector/matchLabels")
            && let Some(labels) = object.pod_labels()
            && !matches(selector, labels)
        {
            misses.push(format!("{object} does not select its own pods"));
        }
        for (way, selector) in selectors(object) {
            let found = labelled.iter().filter(|labels| matches(&selector, labels));
            let components: BTreeSet<String> =
                found.map(|labels| labels["app.kubernetes.io/component"].to_string()).collect();
            if components.len() != 1 {
                misses.push(format!("{object}, {way}: {selector} finds {components:?}"));
            }
        }
        if object.kind() == "ServiceMonitor" {
            let selector = &object.value["spec"]["selector"]["matchLabels"];
            let port = &object.value["spec"]["endpoints"][0]["port"];
            let scraped = objects.iter().filter(|other| {
                let labels = other.value.pointer("/metadata/labels").and_then(Value::as_object);
                other.kind() == "Service" && labels.is_some_and(|labels| matches(selector, labels))
            });
            let with_port =
                scraped.filter(|service| list(&service.value["spec"], "ports").any(|p| &p["name"] == port));
            if with_port.count() != 1 {
                misses.push(format!("{object} does not find exactly one Service with that port"));
            }
        }
    }
    misses
}

/// Returns the names of ports of the pods that a selector finds.
fn ports(objects: &[Object], selector: &Value) -> BTreeSet<String> {
    let found =
        objects.iter().filter(|object| object.pod_labels().is_some_and(|labels| matches(selector, labels)));
    let containers = found.flat_map(|object| list(object.pod().unwrap(), "containers"));
    containers
        .flat_map(|container| list(container, "ports"))
        .filter_map(|port| port["name"].as_str())
        .map(str::to_owned)
        .collect()
}

/// Returns names that lead nowhere: ports, accounts, secrets, config maps, roles, the StatefulSet's Service and its volumes.
pub(crate) fn dangling(objects: &[Object]) -> Vec<String> {
    let exists = |kind: &str, name: &Value| {
        objects.iter().any(|object| object.kind() == kind && Some(object.name()) == name.as_str())
    };
    let mut misses = Vec::new();
    for object in objects {
        let spec = &object.value["spec"];
        let (selector, named) = match object.kind() {
            "Service" => {
                (&spec["selector"], list(spec, "ports").map(|port| &port["targetPort"]).collect::<Vec<_>>())
            }
            "NetworkPolicy" => {
                let ports =
                    list(spec, "ingress").flat_map(|rule| list(rule, "ports")).map(|port| &port["port"]);
                (&spec["podSelector"]["matchLabels"], ports.collect())
            }
            "StatefulSet" => {
                if !exists("Service", &spec["serviceName"]) {
                    misses.push(format!("{object}: serviceName"));
                }
                (&Value::Null, vec![])
            }
            "RoleBinding" | "ClusterRoleBinding" => {
                let (role, subject) = (&object.value["roleRef"], &object.value["subjects"][0]["name"]);
                if !exists(role["kind"].as_str().unwrap(), &role["name"])
                    || !exists("ServiceAccount", subject)
                {
                    misses.push(format!("{object}: {role} or {subject}"));
                }
                (&Value::Null, vec![])
            }
            _ => (&Value::Null, vec![]),
        };
        let known = if named.is_empty() { BTreeSet::new() } else { ports(objects, selector) };
        let unknown =
            named.into_iter().filter(|port| !port.as_str().is_some_and(|port| known.contains(port)));
        misses.extend(unknown.map(|port| format!("{object}: port {port}")));
        if let Some(pod) = object.pod() {
            misses.extend(dangling_in_pod(object, pod, &exists));
        }
    }
    misses
}

fn dangling_in_pod(object: &Object, pod: &Value, exists: &dyn Fn(&str, &Value) -> bool) -> Vec<String> {
    let mut misses = Vec::new();
    if let Some(account) = pod.get("serviceAccountName").filter(|name| !exists("ServiceAccount", name)) {
        misses.push(format!("{object}: account {account}"));
    }
    let claims = list(&object.value["spec"], "volumeClaimTemplates").map(|claim| &claim["metadata"]["name"]);
    let volumes: Vec<&Value> = list(pod, "volumes").map(|volume| &volume["name"]).chain(claims).collect();
    for map in list(pod, "volumes").filter_map(|volume| volume.pointer("/configMap/name")) {
        if !exists("ConfigMap", map) {
            misses.push(format!("{object}: config map {map}"));
        }
    }
    for container in list(pod, "containers") {
        let ports: Vec<&Value> = list(container, "ports").map(|port| &port["name"]).collect();
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            if let Some(port) = container
                .get(probe)
                .map(|probe| &probe["httpGet"]["port"])
                .filter(|port| !ports.contains(port))
            {
                misses.push(format!("{object}: {probe} asks port {port}"));
            }
        }
        for mount in
            list(container, "volumeMounts").map(|mount| &mount["name"]).filter(|name| !volumes.contains(name))
        {
            misses.push(format!("{object}: volume {mount}"));
        }
        for secret in list(container, "env").filter_map(|env| env.pointer("/valueFrom/secretKeyRef/name")) {
            // Secrets that the values name are somebody else's.
            let given = ["cluster", "keys"].iter().any(|name| secret == name);
            if !given && !exists("Secret", secret) {
                misses.push(format!("{object}: secret {secret}"));
            }
        }
    }
    misses
}
