//! Tables: every verb in every version, every mistake with its code, and the spec's own examples.

mod calls;
mod frames;
mod results;

use super::Request;

/// A call as containerd makes it.
fn request(command: &str, config: &str) -> Request {
    Request {
        command: command.into(),
        container: "abc".into(),
        netns: "/run/netns/x".into(),
        ifname: "eth0".into(),
        args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;\
               K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u"
            .into(),
        config: config.into(),
        runtime: "containerd".into(),
    }
}
