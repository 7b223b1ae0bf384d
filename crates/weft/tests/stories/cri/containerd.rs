//! Debian's containerd and runc on a node of the lab, which calls the plugin for pods that are asked
//! for through the CRI. All of it ends with the test.

use std::{
    fs,
    os::unix::fs::symlink,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use super::wire::{
    Conditions, Container, ContainerName, Create, Door, Exec, Executed, Id, Image, Linux, Nothing,
    Pod, PodName, PortMapping, Run, Runtime, Status, StatusOf, Verbose,
};
use crate::story::{Duration, Instant, Node, Path, PathBuf, Value, json, sh, until};

const IMAGE: &str = "weft.test/busybox:1";
/// Below which runc makes the pods' cgroups.
const CGROUP: &str = "/weft-cri";

/// Mounts that runc and containerd need, and a place of their own for what they write. Once a test.
pub fn prepare() {
    let hierarchies = fs::read_to_string("/proc/self/cgroup").unwrap();
    let mut mounts = String::from(
        "mount -t tmpfs tmpfs /var/lib
         mkdir -p /run/containerd /var/lib/cni
         mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup\n",
    );
    let old: Vec<&str> = hierarchies.lines().filter_map(|line| line.split(':').nth(1)).collect();
    let old: Vec<&str> = old.into_iter().filter(|controllers| !controllers.is_empty()).collect();
    for controllers in &old {
        let (name, option) = match controllers.strip_prefix("name=") {
            Some(name) => (name, format!("none,name={name}")),
            None => (*controllers, (*controllers).to_owned()),
        };
        mounts += &format!(
            "mkdir -p /sys/fs/cgroup/{name}; mount -t cgroup -o {option} cgroup /sys/fs/cgroup/{name}\n"
        );
    }
    if old.is_empty() {
        mounts += "umount /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup\n";
    }
    run(&mounts);
    // What a test that was killed has left is empty.
    run(&format!(
        "find /sys/fs/cgroup -depth -path '*{CGROUP}-*' -type d -exec rmdir {{}} + 2>/dev/null || true"
    ));
    image();
}

fn run(script: &str) {
    let out = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
}

/// An image of busybox alone, as `docker save` writes one. It is the pods' pause too.
fn image() {
    run(&format!(
        r#"rm -rf /run/image; mkdir -p /run/image/root/bin /run/image/root/tmp; cd /run/image
        cp /bin/busybox root/bin/busybox
        for name in sh sleep httpd wget nc ip cat; do ln -s busybox root/bin/$name; done
        tar -C root --owner 0 --group 0 -cf layer.tar .
        sum=$(sha256sum layer.tar | cut -d' ' -f1)
        cat > config.json <<E
{{"architecture": "amd64", "os": "linux", "config": {{"Cmd": ["/bin/sleep", "1000000"], "Env": ["PATH=/bin"]}},
 "rootfs": {{"type": "layers", "diff_ids": ["sha256:$sum"]}}}}
E
        echo '[{{"Config": "config.json", "RepoTags": ["{IMAGE}"], "Layers": ["layer.tar"]}}]' > manifest.json
        tar -cf /run/image.tar manifest.json config.json layer.tar"#
    ));
}

pub struct Containerd<'a> {
    node: &'a Node,
    dir: PathBuf,
    daemon: Child,
    door: Door,
    asked: AtomicU32,
}

/// A pod with one container, as the runtime has it.
pub struct Started {
    pub name: String,
    pub pod: String,
    pub container: String,
    pub addrs: Vec<std::net::IpAddr>,
}

impl<'a> Containerd<'a> {
    /// Started, with the image and the network `net` of the node.
    pub fn start(node: &'a Node) -> Self {
        let dir = node.dir().join("containerd");
        let (conf, bin) = (dir.join("net.d"), dir.join("bin"));
        for dir in [&conf, &bin] {
            fs::create_dir_all(dir).unwrap();
        }
        symlink("/usr/lib/cni/loopback", bin.join("loopback")).unwrap();
        fs::copy(node.plugin("ADD", "", Path::new(""), &[]).get_program(), bin.join("weft-cni"))
            .unwrap();
        fs::write(dir.join("config.toml"), config(&dir)).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new("containerd");
        command.arg("-c").arg(dir.join("config.toml"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = node.netns.run(|| command.spawn().unwrap()).unwrap();
        let socket = dir.join("containerd.sock");
        let mut door = None;
        until("containerd serves", || {
            door = Door::open(&socket).ok();
            door.as_ref()
                .is_some_and(|door| door.call::<_, Runtime>("Status", Verbose::default()).is_ok())
        });
        let asked = AtomicU32::new(0);
        let this = Self { node, dir, daemon, door: door.unwrap(), asked };
        sh(
            &node.netns,
            &format!("ctr -a {} -n k8s.io images import /run/image.tar", socket.display()),
        );
        this.use_network("net");
        this
    }

    /// From here on pods are added to this network.
    pub fn use_network(&self, network: &str) {
        let mut plugin = self.node.cni_config(network);
        let plugin_fields = plugin.as_object_mut().unwrap();
        plugin_fields.remove("cniVersion");
        plugin_fields.remove("name");
        plugin["capabilities"] =
            json!({"portMappings": true, "bandwidth": true, "ips": true, "mac": true});
        // 1.0.0 is the newest that containerd 1.6 knows.
        let list = json!({"cniVersion": "1.0.0", "name": network, "plugins": [plugin]});
        // It hears of what is renamed within the folder, not of what is moved into it.
        let conf = self.dir.join("net.d");
        let (path, tmp) = (conf.join("10-weft.conflist"), conf.join("10-weft.tmp"));
        fs::write(&tmp, list.to_string()).unwrap();
        fs::rename(tmp, path).unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while self.network().as_deref() != Some(network) {
            if Instant::now() > end {
                let status: Runtime = self.door.call("Status", Verbose { verbose: true }).unwrap();
                panic!("{network}: {status:?}\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The network that containerd adds pods to, once it is ready to.
    fn network(&self) -> Option<String> {
        let status: Runtime = self.door.call("Status", Verbose { verbose: true }).ok()?;
        let Conditions { conditions } = status.status?;
        conditions.iter().find(|condition| condition.kind == "NetworkReady" && condition.holds)?;
        let config: Value = serde_json::from_str(status.info.get("cniconfig")?).ok()?;
        let networks = config["Networks"].as_array()?.iter();
        let names = networks.filter_map(|net| net["Config"]["Name"].as_str().map(str::to_owned));
        names.into_iter().find(|name| name != "cni-loopback")
    }

    fn sandbox(&self, name: &str, ports: &[PortMapping]) -> Pod {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        Pod {
            metadata: Some(PodName {
                name: name.into(),
                uid: format!("{}-{name}-{number}", self.node.name),
                namespace: "lab".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: self.dir.join("logs").display().to_string(),
            port_mappings: ports.to_vec(),
            linux: Some(Linux { cgroup_parent: format!("{CGROUP}-{}", self.node.name) }),
            ..Pod::default()
        }
    }

    /// RunPodSandbox alone.
    pub fn run(&self, name: &str, ports: &[PortMapping]) -> Result<(String, Pod), tonic::Status> {
        let config = self.sandbox(name, ports);
        let run = Run { config: Some(config.clone()) };
        self.door.call::<_, Id>("RunPodSandbox", run).map(|id| (id.id, config))
    }

    /// A pod that answers HTTP at port 8080 with its name.
    pub fn pod(&self, name: &str, ports: &[PortMapping]) -> Started {
        let (pod, sandbox) =
            self.run(name, ports).unwrap_or_else(|why| panic!("{name}: {why}\n{}", self.log()));
        let serve = format!("echo {name} > /tmp/index.html; exec httpd -f -p 8080 -h /tmp");
        let config = Container {
            metadata: Some(ContainerName { name: "main".into() }),
            image: Some(Image { image: IMAGE.into() }),
            command: ["/bin/sh", "-c", &serve].map(str::to_owned).into(),
        };
        let create = Create { pod: pod.clone(), config: Some(config), sandbox: Some(sandbox) };
        let made: Id = self.door.call("CreateContainer", create).unwrap();
        self.door.call::<_, Nothing>("StartContainer", Id { id: made.id.clone() }).unwrap();
        let status: Status = self
            .door
            .call("PodSandboxStatus", StatusOf { id: pod.clone(), verbose: false })
            .unwrap();
        let network = status.status.unwrap().network.unwrap();
        let all = std::iter::once(&network.ip).chain(network.more.iter().map(|ip| &ip.ip));
        let addrs = all.map(|ip| ip.parse().unwrap()).collect();
        let started = Started { name: name.into(), pod, container: made.id, addrs };
        let end = Instant::now() + Duration::from_secs(10);
        let mut served = (false, String::new());
        while !served.0 {
            assert!(
                Instant::now() < end,
                "{name} does not serve: {} {:?}\n{}",
                served.1,
                self.exec(&started, "echo hi; ls -la /tmp; cat /proc/1/cmdline"),
                self.log()
            );
            served = self.exec(&started, "wget -O - http://127.0.0.1:8080/ 2>&1");
        }
        started
    }

    /// What a command in the pod says, and whether it did what it should.
    pub fn exec(&self, pod: &Started, script: &str) -> (bool, String) {
        let command = ["/bin/sh", "-c", script].map(str::to_owned).into();
        let exec = Exec { container: pod.container.clone(), command, timeout: 20 };
        let done: Executed = match self.door.call("ExecSync", exec) {
            Ok(done) => done,
            Err(why) => return (false, why.to_string()),
        };
        let code = if done.exit == 0 { String::new() } else { format!(" exit {}", done.exit) };
        let text = [done.stdout, done.stderr, code.into_bytes()].concat();
        (done.exit == 0, String::from_utf8_lossy(&text).into_owned())
    }

    pub fn stop(&self, pod: &str) -> Result<(), tonic::Status> {
        self.door.call::<_, Nothing>("StopPodSandbox", Id { id: pod.to_owned() }).map(drop)
    }

    /// As the kubelet does: stop, then remove.
    pub fn end(&self, pod: &str) -> Result<(), tonic::Status> {
        self.stop(pod)?;
        self.door.call::<_, Nothing>("RemovePodSandbox", Id { id: pod.to_owned() }).map(drop)
    }

    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{dir}/containerd.sock"
[ttrpc]
  address = "{dir}/ttrpc.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{dir}/bin"
    conf_dir = "{dir}/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"#
    )
}
