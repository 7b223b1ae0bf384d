//! What a pod's annotations ask for, as networks of weft's: each name is a NetworkAttachmentDefinition's,
//! which is read when it is asked for.

use kube::Client;
use serde::Deserialize;
use weft_core::{
    attachment::{AttachmentId, PodName},
    cni::{CniError, Code},
    name::NetworkName,
    selection::{self, Element, Further, Request, interfaces, read, read_one},
};

use super::{ApiServer, Cluster, KubeError, events::Regarding};

const MSG: &str = "the pod's networks can't be as they are asked for";

/// What the annotations of one pod come to.
#[derive(Debug, Default)]
pub struct Asked {
    /// In place of the network that the runtime's configuration names.
    pub first: Option<(NetworkName, Request)>,
    pub further: Vec<Further>,
}

impl Asked {
    pub fn is_nothing(&self) -> bool {
        self.first.is_none() && self.further.is_empty()
    }
}

#[derive(Clone, Debug, Deserialize)]
struct Definition {
    #[serde(default)]
    spec: Spec,
}
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    config: String,
}

impl Cluster {
    /// Reads what the pod asks for. Of a pod that asks for nothing the server is asked nothing.
    pub async fn networks(&self, pod: PodName, id: AttachmentId) -> Result<Asked, CniError> {
        let Some((_, asks)) = self.asks(&pod) else { return Ok(Asked::default()) };
        let mut asked = Asked::default();
        if let Some(text) = &asks.default_network {
            let element = read_one(text).map_err(|why| bad(selection::DEFAULT_NETWORK, &why))?;
            let network = self.network(selection::DEFAULT_NETWORK, &pod, &element).await?;
            asked.first = Some((network, element.request));
        }
        let Some(text) = &asks.networks else { return Ok(asked) };
        let elements = read(text).map_err(|why| bad(selection::NETWORKS, &why))?;
        let names =
            interfaces(&id.ifname, &elements).map_err(|why| bad(selection::NETWORKS, &why))?;
        for (element, ifname) in elements.into_iter().zip(names) {
            let network = self.network(selection::NETWORKS, &pod, &element).await?;
            let namespace = element.namespace.as_ref().unwrap_or(&pod.namespace);
            let selected = format!("{namespace}/{}", element.name);
            asked.further.push(Further { selected, network, ifname, request: element.request });
        }
        Ok(asked)
    }

    async fn network(
        &self,
        annotation: &str,
        pod: &PodName,
        element: &Element,
    ) -> Result<NetworkName, CniError> {
        let namespace = element.namespace.as_ref().unwrap_or(&pod.namespace);
        let what = format!("NetworkAttachmentDefinition {namespace}/{}", element.name);
        match definition(&self.server, namespace, &element.name).await {
            Ok(found) => selection::network(&element.name, &found.spec.config)
                .map_err(|why| bad(annotation, &format!("{what}: {why}"))),
            Err(error) if error.code == Some(404) => {
                Err(bad(annotation, &missing(&what, element, &error)))
            }
            Err(error) => Err(CniError::new(
                Code::TryAgainLater,
                "the pod's networks are not known",
                error.to_string(),
            )),
        }
    }

    /// Tells a pod's user why it does not start, where that is by what he asks for.
    pub fn refused(&self, pod: &PodName, error: &CniError) {
        let Some((uid, _)) = self.asks(pod) else { return };
        if error.code == Code::TryAgainLater as u32 {
            return;
        }
        let regarding = Regarding::pod(&pod.namespace, &pod.name, &uid);
        self.events.warn(regarding, "NetworksNotAttached", &error.to_string());
    }
}

fn missing(what: &str, element: &Element, error: &KubeError) -> String {
    if error.is_missing_object() {
        return format!(
            "there is no {what}: make it with an empty `spec`, if weft's network is called {}, or name \
             the network in its `spec.config`",
            element.name
        );
    }
    format!(
        "there is no {what}, nor the kind: install the definition of \
         network-attachment-definitions.k8s.cni.cncf.io, which weft's chart has"
    )
}

async fn definition(
    server: &ApiServer,
    namespace: &str,
    name: &str,
) -> Result<Definition, KubeError> {
    let path = format!(
        "/apis/k8s.cni.cncf.io/v1/namespaces/{namespace}/network-attachment-definitions/{name}"
    );
    let get = |client: Client| {
        let request = axum::http::Request::get(&path).body(Vec::new());
        async move { client.request(request.map_err(kube::Error::HttpError)?).await }
    };
    server.ask(&format!("read NetworkAttachmentDefinition {namespace}/{name}"), get).await
}

fn bad(annotation: &str, why: &(impl ToString + ?Sized)) -> CniError {
    let why = why.to_string();
    CniError::new(Code::InvalidConfig, MSG, format!("annotation {annotation}: {why}"))
}
