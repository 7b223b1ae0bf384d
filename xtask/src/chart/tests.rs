//! The renderer by tables, and the chart as it is.

use super::*;

fn rendered(template: &str) -> String {
    let scope = json!({"Values": {
        "a": "x", "n": 3, "none": "", "off": false, "on": true,
        "map": {"list": ["10.0.0.0/8", {"k": "v", "l": []}], "s": "true"},
    }});
    render::render(template, &scope).unwrap_or_else(|error| format!("error: {error:#}"))
}

#[test]
fn templates_are_rendered_as_helm_does() {
    let table = [
        ("a: {{ .Values.a }}", "a: x"),
        ("a: {{ .Values.n | quote }}", "a: \"3\""),
        ("a: {{ .Values.none | default .Values.a }}", "a: x"),
        ("a: {{ .Values.a | default \"y\" }}", "a: x"),
        ("{{- if .Values.on }}\nyes\n{{- else }}\nno\n{{- end }}", "\nyes"),
        ("{{- if .Values.off }}\nyes\n{{- else }}\nno\n{{- end }}", "\nno"),
        ("{{ if not .Values.none -}}\n  yes {{- end }}", "yes"),
        ("{{ if .Values.off }}{{ if .Values.on }}a{{ else }}b{{ end }}{{ end }}c", "c"),
        (
            "x:\n  {{- toYaml .Values.map | nindent 2 }}\n",
            "x:\n  list:\n  - 10.0.0.0/8\n  - k: v\n    l: []\n  s: \"true\"\n",
        ),
        ("{{ .Values.zzz }}", "error: .Values.zzz: `.Values.zzz`: the values have no zzz"),
        ("{{ upper .Values.a }}", "error: upper .Values.a: `upper .Values.a`: not known here"),
        ("{{ if .Values.a }}", "error: an if without its end"),
    ];
    for (template, expected) in table {
        assert_eq!(rendered(template), expected, "{template}");
    }
}

fn objects(values: &Value) -> Vec<Value> {
    let chart = Chart::read(&root().join(DIR)).unwrap();
    let text = chart.render(values).unwrap();
    let documents = text.split("---\n").filter(|text| !text.trim().is_empty());
    documents.map(|text| serde_saphyr::from_str(text).unwrap()).collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap()
}

#[test]
fn the_manifests_in_the_tree_are_the_chart() {
    assert_eq!(stale().unwrap(), None);
}

#[test]
fn the_chart_is_one_daemon_set_with_its_account_and_configuration() {
    let all = objects(&json!({}));
    let mut kinds: Vec<&str> = all.iter().filter_map(|object| object["kind"].as_str()).collect();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "CustomResourceDefinition",
            "ServiceAccount",
            "ClusterRole",
            "ClusterRoleBinding",
            "ConfigMap",
            "DaemonSet"
        ]
    );
    let pod = &of_kind(&all, "DaemonSet")["spec"]["template"]["spec"];
    assert_eq!((&pod["hostNetwork"], &pod["hostPID"]), (&json!(true), &json!(true)));
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    let agent = of_kind(&all, "ConfigMap")["data"]["agent.yaml"].as_str().unwrap();
    let agent: Value = serde_saphyr::from_str(agent).unwrap();
    assert_eq!(agent["networks"]["default"]["ranges"], json!(["10.244.0.0/16"]));
    assert_eq!(agent["networks"]["default"]["default"], json!(true));
}

#[test]
fn values_reach_the_objects() {
    let all = objects(&json!({
        "image": {"repository": "r/weft", "tag": "9"},
        "apiServer": {"host": "192.0.2.1", "port": 6443},
        "agent": {"underlay": {"device": "eth1"}},
        "network": {"join": "host-gw"},
    }));
    let container = &of_kind(&all, "DaemonSet")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "r/weft:9");
    let env = container["env"].as_array().unwrap();
    assert!(env.contains(&json!({"name": "KUBERNETES_SERVICE_PORT", "value": "6443"})), "{env:?}");
    let agent = of_kind(&all, "ConfigMap")["data"]["agent.yaml"].as_str().unwrap();
    let agent: Value = serde_saphyr::from_str(agent).unwrap();
    assert_eq!(agent["underlay"]["device"], "eth1");
    assert_eq!(agent["networks"]["default"]["join"], "host-gw");
}

#[test]
fn uninstalling_is_the_same_daemon_set_with_another_command() {
    let all = objects(&json!({"uninstall": true}));
    let set = of_kind(&all, "DaemonSet");
    assert_eq!(set["metadata"]["name"], "weft");
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["args"][0], "uninstall");
    assert_eq!(set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], "100%");
}

#[test]
fn agents_reach_namespaces_by_the_path_that_runtimes_name() {
    for uninstall in [false, true] {
        let all = objects(&json!({"uninstall": uninstall}));
        let pod = &of_kind(&all, "DaemonSet")["spec"]["template"]["spec"];
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["mountPath"] == "/var/run/netns").unwrap();
        assert_eq!(mount["mountPropagation"], "HostToContainer");
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        assert_eq!(volume["hostPath"]["path"], "/run/netns");
    }
}
