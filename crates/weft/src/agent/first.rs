//! The first networks of a cluster: those of the agents' configuration, made while the cluster has
//! none, so that one manifest is all it takes. Whatever is there already is left as it is.

use std::{sync::Arc, time::Duration};

use weft_core::view::network_key;

use super::Agent;
use crate::store::{Created, StoreError};

/// Between looks at whether the store was listed in full, and attempts.
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn run(agent: Arc<Agent>) {
    let mut said = false;
    let mut tick = tokio::time::interval(LOOK);
    while !agent.config.networks.is_empty() {
        tick.tick().await;
        {
            let shown = agent.shown();
            if !shown.synced {
                continue;
            }
            if !shown.view.networks.is_empty() {
                return;
            }
        }
        match make(&agent).await {
            Ok(()) => return,
            Err(error) if said => tracing::debug!(%error, "the first networks are not made yet"),
            Err(error) => {
                tracing::warn!(%error, "the first networks can't be made; will try again");
                said = true;
            }
        }
    }
}

async fn make(agent: &Agent) -> Result<(), StoreError> {
    for (name, network) in &agent.config.networks {
        let Ok(value) = serde_json::to_vec(network) else { continue };
        // Another agent may have been quicker.
        if let Created::New(revision) = agent.store.create(&network_key(name), value).await? {
            tracing::info!(%name, revision, "network made, as the configuration says");
        }
    }
    Ok(())
}
