//! The cluster, by `kubectl`: what users have. Each call has an end, and its error says what to do.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::run::find;

pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub fn new(kubeconfig: PathBuf) -> anyhow::Result<Self> {
        let meta = std::fs::metadata(&kubeconfig);
        meta.with_context(|| format!("read the kubeconfig {}", kubeconfig.display()))?;
        Ok(Self { program: find("kubectl")?, kubeconfig })
    }

    fn run(&self, args: &[&str], input: Option<&str>) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
        // One that ended early says why itself.
        let _ = stdin.write_all(input.unwrap_or_default().as_bytes());
        drop(stdin);
        Ok(child.wait_with_output()?)
    }

    /// What it prints.
    pub fn say(&self, args: &[&str], input: Option<&str>) -> anyhow::Result<String> {
        let out = self.run(args, input)?;
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr);
            bail!("kubectl {}: {}", args.join(" "), self.explain(said.trim()));
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    fn explain(&self, said: &str) -> String {
        let file = self.kubeconfig.display();
        let refused = ["Unauthorized", "must be logged in", "certificate has expired"];
        if refused.iter().any(|word| said.contains(word)) {
            return format!(
                "{said}\nthe API server does not take the credential of {file}, or it has expired: get a \
                 new one from whoever runs the cluster"
            );
        }
        if said.contains("unknown authority") {
            return format!(
                "{said}\nthe CA in {file} is not that of this API server: another cluster, or renewed"
            );
        }
        if said.contains("connection refused") || said.contains("i/o timeout") {
            return format!("{said}\nnobody answers where {file} says that the API server is");
        }
        said.to_owned()
    }

    pub fn get(&self, args: &[&str]) -> anyhow::Result<Value> {
        let all = [&["get", "--request-timeout=20s", "-o", "json"], args].concat();
        serde_json::from_str(&self.say(&all, None)?).context("read kubectl's JSON")
    }

    pub fn apply(&self, objects: &[Value]) -> anyhow::Result<()> {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.say(&["apply", "-f", "-"], Some(&list.to_string())).map(drop)
    }

    /// What a script in a pod prints.
    pub fn exec(&self, namespace: &str, pod: &str, script: &str) -> anyhow::Result<String> {
        self.say(&["exec", "-n", namespace, pod, "--", "sh", "-c", script], None)
    }
}
