//! The cluster, by `kubectl`: what users have. Each call has an end, and its error says what to do.

use std::{
    io::Write,
    path::{Path, PathBuf},
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
            bail!("kubectl {}: {}", args.join(" "), explain(&self.kubeconfig, &said));
        }
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
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

/// What kubectl says where a credential or an address is no good, and what that means of FILE.
const CAUSES: [(&[&str], &str); 5] = [
    (
        &["Unauthorized", "must be logged in", "certificate has expired"],
        "the API server does not take the credential of FILE, or it has expired: get a new one from whoever \
         runs the cluster",
    ),
    (
        &["(Forbidden)"],
        "the credential of FILE may not do this: e2e takes one that may do everything",
    ),
    (
        &["certificate signed by unknown authority", "x509: "],
        "who answers is not the API server whose authority FILE names: is it the file of another cluster, or an \
         old one?",
    ),
    (
        &["localhost:8080"],
        "FILE names no API server, or no current context: `kubectl config view --kubeconfig FILE`",
    ),
    (
        &[
            "connection refused",
            "was refused",
            "i/o timeout",
            "no route to host",
            "network is unreachable",
            "no such host",
            "Timeout exceeded",
            "EOF",
        ],
        "nobody answers where FILE says that the API server is",
    ),
];

fn explain(kubeconfig: &Path, said: &str) -> String {
    // The same once more for each attempt, as its log has it.
    let logged = |line: &&str| line.starts_with('E') && line.contains("] \"Unhandled Error\"");
    let lines: Vec<&str> = said.trim().lines().filter(|line| !logged(line)).collect();
    let said = lines.join("\n");
    let known = |words: &&[&str]| words.iter().any(|word| said.contains(word));
    match CAUSES.iter().find(|(words, _)| known(words)) {
        Some((_, cause)) => {
            format!("{said}\n{}", cause.replace("FILE", &kubeconfig.display().to_string()))
        }
        None => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubectl_says_is_explained() {
        let cases = [
            (
                "E1126 06:21:13.868 22911 memcache.go:265] \"Unhandled Error\" err=\"dial tcp\"\n\
                 The connection to the server 127.0.0.1:6444 was refused - did you specify the right host?",
                "The connection to the server 127.0.0.1:6444 was refused - did you specify the right host?\n\
                 nobody answers where /k says that the API server is",
            ),
            (
                "error: You must be logged in to the server (Unauthorized)",
                "error: You must be logged in to the server (Unauthorized)\nthe API server does not take the \
                 credential of /k, or it has expired: get a new one from whoever runs the cluster",
            ),
            (
                "Unable to connect to the server: tls: failed to verify certificate: x509: certificate signed \
                 by unknown authority",
                "Unable to connect to the server: tls: failed to verify certificate: x509: certificate signed \
                 by unknown authority\nwho answers is not the API server whose authority /k names: is it the \
                 file of another cluster, or an old one?",
            ),
            ("error: unknown command", "error: unknown command"),
        ];
        for (said, explained) in cases {
            assert_eq!(explain(Path::new("/k"), said), explained);
        }
        let nowhere = "The connection to the server localhost:8080 was refused";
        assert!(explain(Path::new("/k"), nowhere).contains("names no API server"));
    }
}
