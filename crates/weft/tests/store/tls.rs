//! etcd over TLS, with a CA of the test's own: certificates of both sides, and each way in which
//! one of them can be wrong.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use serde_json::{Value, json};
use weft::store::{Store, StoreConfig};

use super::{config, dir, listener::Listener, open, refusal, server::Etcd};

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Writes `NAME.pem` and `NAME-key.pem`.
    fn issue(&self, dir: &Path, name: &str, names: &[&str], year_of_end: i32) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year_of_end, 1, 1);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(dir.join(format!("{name}.pem")), cert.pem()).unwrap();
        fs::write(dir.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    }
}

/// An etcd that wants clients' certificates, and the directory with all files.
fn start(name: &str, port: u16, server: &[&str]) -> (Etcd, Ca, std::path::PathBuf) {
    let (files, ca) = (dir(&format!("{name}-files")), Ca::new("the test's CA"));
    fs::write(files.join("ca.pem"), &ca.pem).unwrap();
    ca.issue(&files, "server", server, 2050);
    ca.issue(&files, "client", &[], 2050);
    let path = |name: &str| files.join(name).to_str().unwrap().to_owned();
    let etcd = Etcd::start_tls(
        name,
        port,
        &[
            "--client-cert-auth",
            "--trusted-ca-file",
            &path("ca.pem"),
            "--cert-file",
            &path("server.pem"),
            "--key-file",
            &path("server-key.pem"),
        ],
    );
    (etcd, ca, files)
}

/// A client with these files; more or other words as `change` says, null takes one away.
fn client(url: &str, files: &Path, change: Value) -> StoreConfig {
    let mut tls = json!({
        "ca": files.join("ca.pem"), "cert": files.join("client.pem"), "key": files.join("client-key.pem"),
    });
    tls.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    config(json!({"etcd": {"endpoints": [url], "tls": tls}}))
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_over_tls_goes_on_after_a_restart() {
    let (mut etcd, ca, files) = start("etcd-tls", 23850, &["127.0.0.1"]);
    let store = open(&client(&etcd.url, &files, json!({}))).await;
    let mut listener = Listener::to(&store).await;
    let last = store.put("nodes/a", b"1".to_vec()).await.unwrap();
    listener.until_at(last).await;
    etcd.kill();
    listener.until("away", |listener| listener.away.is_some()).await;
    let said = store.list().await.unwrap_err().to_string();
    assert!(said.contains("list at etcd https://127.0.0.1:23850: "), "{said}");
    // The files are read anew: a client's certificate may be renewed under a running agent.
    ca.issue(&files, "client", &[], 2051);
    etcd.again();
    listener.until("back", |listener| listener.away.is_none()).await;
    let last = store.put("nodes/a", b"2".to_vec()).await.unwrap();
    listener.until_at(last).await;
    assert_eq!((listener.records["nodes/a"].as_slice(), listener.snapshots), (b"2".as_slice(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_certificate_is_said() {
    let (etcd, ca, files) = start("etcd-certs", 23860, &["etcd.example"]);
    let url = etcd.url.clone();
    let named = json!({"domain": "etcd.example"});
    let store = open(&client(&url, &files, named.clone())).await;
    store.put("nodes/a", b"1".to_vec()).await.unwrap();

    let with = |change: Value| {
        let mut all = named.clone();
        all.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        client(&url, &files, all)
    };
    let other = Ca::new("another CA");
    fs::write(files.join("other.pem"), &other.pem).unwrap();
    ca.issue(&files, "expired", &[], 2021);
    other.issue(&files, "foreign", &[], 2050);
    fs::write(files.join("empty.pem"), "nothing\n").unwrap();
    fs::write(
        files.join("broken.pem"),
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let file = |name: &str| json!(files.join(name));
    let pair = |name: &str| json!({"cert": files.join(format!("{name}.pem")), "key": files.join(format!("{name}-key.pem"))});
    let cases = [
        ("no such name", client(&url, &files, json!({})), "not valid for name"),
        ("wrong CA", with(json!({"ca": file("other.pem")})), "UnknownIssuer"),
        (
            "no client's",
            with(json!({"cert": null, "key": null})),
            "if this etcd wants a client's certificate, set",
        ),
        ("expired", with(pair("expired")), "expired.pem, and is it still valid?"),
        ("foreign", with(pair("foreign")), "accept the client's certificate"),
        ("no CA file", with(json!({"ca": file("none.pem")})), "none.pem: No such file"),
        ("CA a directory", with(json!({"ca": files})), "Is a directory"),
        ("CA not PEM", with(json!({"ca": file("empty.pem")})), "empty.pem: no PEM CERTIFICATE"),
        ("cert broken", with(json!({"cert": file("broken.pem")})), "broken.pem"),
        ("no cert file", with(json!({"cert": file("none.pem")})), "none.pem: No such file"),
        ("no key file", with(json!({"key": file("none.pem")})), "none.pem: No such file"),
        ("key of another", with(json!({"key": file("server-key.pem")})), "server-key.pem"),
        ("cert alone", with(json!({"key": null})), "a client needs both"),
        ("key is a cert", with(json!({"key": file("client.pem")})), "no PEM PRIVATE KEY"),
    ];
    for (case, config, want) in &cases {
        let said = refusal(config).await;
        println!("{case}: {said}");
        assert!(said.contains(want) && said.contains(&url), "{case}: {said}");
    }
    let plain = url.replace("https", "http");
    let said = refusal(&super::endpoints(&[&plain])).await;
    println!("plain: {said}");
    assert!(said.contains(&plain) && said.contains("write https://"), "{said}");
    // None of them changed what the good one sees.
    assert_eq!(store.list().await.unwrap().0.len(), 1);

    // One that was refused works as soon as its file is right.
    let late = Store::open(&with(pair("expired"))).await.unwrap();
    assert!(late.list().await.is_err());
    ca.issue(&files, "expired", &[], 2050);
    assert_eq!(late.list().await.unwrap().0.len(), 1);
}
