//! The container image: an OCI image layout (image-spec 1.0) in one tar, as `ctr image import`,
//! `podman load` and `skopeo copy oci-archive:` take it. One layer, the two static programs; no shell, no
//! libraries, and no certificates: the API server's comes with the service account.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    arch::Arch,
    archive::{Member, gzip, tar},
};

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

/// What one image has for one processor.
pub struct Programs {
    pub arch: Arch,
    pub weft: Vec<u8>,
    pub plugin: Vec<u8>,
}

/// The image's files, the name under which a runtime knows it, and its tag. For several processors it is
/// an index of images, of which a runtime takes its own.
pub fn oci(all: &[Programs], name: &str, tag: &str) -> anyhow::Result<Vec<u8>> {
    let mut blobs = Vec::new();
    let mut images = Vec::new();
    for programs in all {
        images.push(image(programs, &mut blobs)?);
    }
    let mut named = if let [only] = images.as_slice() {
        only.clone()
    } else {
        let index = Blob::json(INDEX, &index(&images));
        let described = index.descriptor();
        blobs.push(index);
        described
    };
    named["annotations"] = json!({
        "io.containerd.image.name": format!("{name}:{tag}"),
        "org.opencontainers.image.ref.name": tag,
    });
    layout(&index(&[named]), blobs)
}

fn index(of: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": of})
}

/// The parts for one processor, and how an index speaks of them.
fn image(programs: &Programs, blobs: &mut Vec<Blob>) -> anyhow::Result<Value> {
    let files = tar(&[
        Member { path: "etc/", mode: 0o755, bytes: b"" },
        Member { path: "usr/", mode: 0o755, bytes: b"" },
        Member { path: "usr/bin/", mode: 0o755, bytes: b"" },
        Member { path: "usr/bin/weft", mode: 0o755, bytes: &programs.weft },
        Member { path: "usr/bin/weft-cni", mode: 0o755, bytes: &programs.plugin },
    ])?;
    let arch = programs.arch.name();
    let config = Blob::json(CONFIG, &config(arch, &sha256(&files)));
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
    described["platform"] = json!({"architecture": arch, "os": "linux"});
    blobs.extend([config, layer, manifest]);
    Ok(described)
}

fn config(arch: &str, layer: &str) -> Value {
    json!({
        "architecture": arch,
        "os": "linux",
        "config": {"Entrypoint": ["/usr/bin/weft"], "Env": ["PATH=/usr/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
    })
}

fn layout(index: &Value, mut blobs: Vec<Blob>) -> anyhow::Result<Vec<u8>> {
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
    use std::{fs, process::Command};

    use super::*;

    fn made(archs: &[Arch]) -> Vec<u8> {
        let of = |arch: &Arch| Programs {
            arch: *arch,
            weft: format!("weft for {}", arch.name()).into_bytes(),
            plugin: b"plugin".to_vec(),
        };
        oci(&archs.iter().map(of).collect::<Vec<_>>(), "localhost/weft", "1").unwrap()
    }

    /// The layout as `tar` unpacks it.
    struct Unpacked(std::path::PathBuf);

    impl Unpacked {
        fn new(name: &str, image: &[u8]) -> Self {
            let dir =
                std::env::temp_dir().join(format!("weft-image-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("image.tar"), image).unwrap();
            let mut tar = Command::new("tar");
            let done = tar.current_dir(&dir).args(["-xf", "image.tar"]).status().unwrap();
            assert!(done.success());
            Self(dir)
        }
        fn json(&self, path: &str) -> Value {
            serde_json::from_slice(&fs::read(self.0.join(path)).unwrap()).unwrap()
        }
        /// The blob of a descriptor, which is what its digest says.
        fn blob(&self, descriptor: &Value) -> Value {
            let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
            let path = format!("blobs/sha256/{digest}");
            let bytes = fs::read(self.0.join(&path)).unwrap();
            assert_eq!(sha256(&bytes), digest);
            assert_eq!(descriptor["size"], bytes.len());
            if descriptor["mediaType"] == LAYER { Value::Null } else { self.json(&path) }
        }
        /// The processor that a manifest's parts are for.
        fn arch(&self, descriptor: &Value) -> Value {
            let manifest = self.blob(descriptor);
            manifest["layers"].as_array().unwrap().iter().for_each(|layer| drop(self.blob(layer)));
            let arch = self.blob(&manifest["config"])["architecture"].clone();
            assert_eq!(descriptor["platform"], json!({"architecture": arch, "os": "linux"}));
            arch
        }
    }

    impl Drop for Unpacked {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_image_is_the_same_bytes_each_time_and_names_its_parts_by_digest() {
        let image = made(&[Arch::Amd64]);
        assert_eq!(image, made(&[Arch::Amd64]));
        let unpacked = Unpacked::new("one", &image);
        let named = unpacked.json("index.json")["manifests"][0].clone();
        assert_eq!(named["annotations"]["io.containerd.image.name"], "localhost/weft:1");
        assert_eq!(unpacked.arch(&named), "amd64");
    }

    #[test]
    fn an_image_for_several_processors_is_one_name_for_an_index_of_them() {
        let unpacked = Unpacked::new("two", &made(&[Arch::Amd64, Arch::Arm64]));
        let index = unpacked.json("index.json");
        let [named] = index["manifests"].as_array().unwrap().as_slice() else {
            panic!("one name: {index}");
        };
        assert_eq!(named["annotations"]["io.containerd.image.name"], "localhost/weft:1");
        assert_eq!(named["mediaType"], INDEX);
        let images = unpacked.blob(named)["manifests"].clone();
        let archs = images.as_array().unwrap().iter().map(|image| unpacked.arch(image));
        assert_eq!(archs.collect::<Vec<_>>(), ["amd64", "arm64"]);
    }
}
