//! What a NetworkAttachmentDefinition (k8s.cni.cncf.io/v1) stands for: one of weft's networks.

use serde_json::Value;

use super::BadSelection;
use crate::{
    cni::{CniError, network_of},
    name::NetworkName,
};

/// The only plugin whose networks weft can attach a pod to.
const PLUGIN: &str = "weft-cni";

/// The network of a definition called `name`, whose `spec.config` is this. An empty one, or one that
/// names no `network`, stands for the network of the definition's own name.
pub fn network(name: &str, config: &str) -> Result<NetworkName, BadSelection> {
    let by_name = || {
        name.parse().map_err(|why| {
            BadSelection(format!(
                "{why}: name the network in `spec.config`, as {}",
                example("NAME")
            ))
        })
    };
    if config.trim().is_empty() {
        return by_name();
    }
    let not_read = |error: CniError| BadSelection(format!("`spec.config`: {error}"));
    let plugin = the_plugin(name, config)?;
    let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind != PLUGIN {
        return Err(BadSelection(format!(
            "`spec.config` calls the plugin {kind:?}, which weft does not run: make a network of weft's \
             and write {}",
            example(name)
        )));
    }
    network_of(&plugin.to_string()).map_err(not_read)?.map_or_else(by_name, Ok)
}

/// A configuration is of one plugin, or a list that has no other.
fn the_plugin(name: &str, config: &str) -> Result<Value, BadSelection> {
    let value: Value = serde_json::from_str(config)
        .map_err(|error| BadSelection(format!("`spec.config` is not JSON: {error}")))?;
    if !value.is_object() {
        return Err(BadSelection(format!("`spec.config` is no object: write {}", example(name))));
    }
    match value.get("plugins") {
        None => Ok(value),
        Some(Value::Array(plugins)) if plugins.len() == 1 => Ok(plugins[0].clone()),
        Some(_) => Err(BadSelection(format!(
            "`spec.config` is a list of several plugins, of which weft runs none but its own: write {}",
            example(name)
        ))),
    }
}

fn example(network: &str) -> String {
    format!(r#"{{"cniVersion": "1.1.0", "type": "{PLUGIN}", "network": "{network}"}}"#)
}
