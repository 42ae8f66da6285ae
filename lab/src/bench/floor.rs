//! The bare two-hop floor: object A is patched, somebody who watches A patches B, somebody who watches B sees it. The
//! same API server and the same client library, and none of the product's code.

use std::{
    sync::mpsc::Sender,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::watch;

use super::{
    client::{Inside, api, follow},
    latency::Sighting,
};
use crate::{cluster::Cluster, error::Result};

const FROM: &str = "lab-bench-floor-from";
const TO: &str = "lab-bench-floor-to";
const MANAGER: &str = "lab-bench";

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::namespaced(client.clone(), "default")
}

fn value_of(map: &ConfigMap) -> Option<String> {
    map.data.as_ref()?.get("value").cloned()
}

async fn set(maps: &Api<ConfigMap>, name: &str, value: &str) -> Result<()> {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "value": value },
    });
    let params = PatchParams::apply(MANAGER).force();
    maps.patch(name, &params, &Patch::Apply(&map)).await.map(drop).map_err(api("patch a ConfigMap"))
}

/// Patches A.
pub(super) async fn start(client: &Client, value: &str) -> Result<()> {
    set(&maps(client), FROM, value).await
}

/// Removes both.
pub(super) async fn clear(client: &Client) -> Result<()> {
    for name in [FROM, TO] {
        let deleted = maps(client).delete(name, &DeleteParams::default()).await;
        deleted.map(drop).map_err(api("delete a ConfigMap"))?;
    }
    Ok(())
}

/// Patches B whenever A has changed: what an operator does, with nothing in between.
pub(super) fn relay(cluster: &Cluster, stop: watch::Receiver<bool>) -> Result<()> {
    let inside = Inside::enter(cluster)?;
    let maps = maps(&inside.client);
    inside.runtime.block_on(follow(maps.clone(), FROM, stop, |map, _| {
        let maps = maps.clone();
        async move {
            if let Some(value) = value_of(&map) {
                // A patch that fails shows as a deadline.
                let _ = set(&maps, TO, &value).await;
            }
        }
    }));
    Ok(())
}

/// Says when B has changed.
pub(super) async fn witness(client: &Client, stop: watch::Receiver<bool>, sightings: &Sender<Sighting>) {
    follow(maps(client), TO, stop, |map, at| {
        if let Some(value) = value_of(&map) {
            let _ = sightings.send(Sighting::Floor { value, at });
        }
        std::future::ready(())
    })
    .await;
}

/// How long the floor takes to answer, at most.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// A fresh value for A.
pub(super) fn value(change: u32) -> String {
    // Different in every run, so that what an earlier one has left is not taken for an answer.
    format!("{change}-{:?}", Instant::now())
}
