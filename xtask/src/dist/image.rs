//! The container image: an OCI image layout (image-spec 1.0) in one tar, as `ctr image import`,
//! `podman load` and `skopeo copy oci-archive:` take it. One layer, the two static programs; no shell, no
//! libraries, and no certificates: the API server's comes with the service account.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::archive::{Member, gzip, tar};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A part of the image, named by what it is.
struct Blob {
    kind: &'static str,
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(kind: &'static str, bytes: Vec<u8>) -> Self {
        Self { kind, digest: sha256(&bytes), bytes }
    }
    fn json(kind: &'static str, value: &Value) -> Self {
        Self::new(kind, value.to_string().into_bytes())
    }
    fn descriptor(&self) -> Value {
        let digest = format!("sha256:{}", self.digest);
        json!({"mediaType": self.kind, "digest": digest, "size": self.bytes.len()})
    }
}

/// The image's files, the name under which a runtime knows it, and its tag.
pub fn oci(weft: &[u8], plugin: &[u8], name: &str, tag: &str) -> anyhow::Result<Vec<u8>> {
    let files = tar(&[
        Member { path: "etc/", mode: 0o755, bytes: b"" },
        Member { path: "usr/", mode: 0o755, bytes: b"" },
        Member { path: "usr/bin/", mode: 0o755, bytes: b"" },
        Member { path: "usr/bin/weft", mode: 0o755, bytes: weft },
        Member { path: "usr/bin/weft-cni", mode: 0o755, bytes: plugin },
    ])?;
    let config = Blob::json(CONFIG, &config(&sha256(&files)));
    let layer = Blob::new(LAYER, gzip(&files)?);
    let manifest = Blob::json(
        MANIFEST,
        &json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": [layer.descriptor()],
        }),
    );
    let mut described = manifest.descriptor();
    described["platform"] = json!({"architecture": "amd64", "os": "linux"});
    described["annotations"] = json!({
        "io.containerd.image.name": format!("{name}:{tag}"),
        "org.opencontainers.image.ref.name": tag,
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [described]});
    layout(&index, [config, layer, manifest])
}

fn config(layer: &str) -> Value {
    json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/usr/bin/weft"], "Env": ["PATH=/usr/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
    })
}

fn layout(index: &Value, mut blobs: [Blob; 3]) -> anyhow::Result<Vec<u8>> {
    blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
    let paths: Vec<String> =
        blobs.iter().map(|blob| format!("blobs/sha256/{}", blob.digest)).collect();
    let index = index.to_string();
    let mut members = vec![
        Member { path: "blobs/", mode: 0o755, bytes: b"" },
        Member { path: "blobs/sha256/", mode: 0o755, bytes: b"" },
    ];
    for (path, blob) in paths.iter().zip(&blobs) {
        members.push(Member { path, mode: 0o644, bytes: &blob.bytes });
    }
    members.push(Member { path: "index.json", mode: 0o644, bytes: index.as_bytes() });
    let version = br#"{"imageLayoutVersion":"1.0.0"}"#;
    members.push(Member { path: "oci-layout", mode: 0o644, bytes: version });
    tar(&members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_the_same_bytes_each_time_and_names_its_parts_by_digest() {
        let image = oci(b"weft", b"plugin", "localhost/weft", "1").unwrap();
        assert_eq!(image, oci(b"weft", b"plugin", "localhost/weft", "1").unwrap());
        let text = String::from_utf8_lossy(&image);
        assert!(text.contains("\"io.containerd.image.name\":\"localhost/weft:1\""), "{text}");
        let manifest = text.find("\"layers\":").unwrap();
        let start = text[..manifest].rfind("{\"config\":").unwrap();
        let end = start + text[start..].find('\0').unwrap();
        let manifest: Value = serde_json::from_str(&text[start..end]).unwrap();
        let digest = manifest["config"]["digest"].as_str().unwrap();
        assert!(text.contains(&format!("blobs/sha256/{}", &digest["sha256:".len()..])));
    }
}
