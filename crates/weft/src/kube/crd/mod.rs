//! The definitions of weft's own resources, as the API server wants them. What users write has the
//! schema of core's types; whatever a schema can't say is said of the object later, in its status.

mod network;
mod record;
mod structural;

use serde_json::Value;

/// Networks, then records.
pub fn definitions() -> [Value; 2] {
    [network::definition(), record::definition()]
}

/// One YAML file of both: `kubectl apply` takes it.
pub fn yaml() -> anyhow::Result<String> {
    let documents: Result<Vec<String>, _> =
        definitions().iter().map(serde_saphyr::to_string).collect();
    Ok(documents?.join("---\n"))
}

#[cfg(test)]
mod tests;
