//! Puts the product onto a lab the way a person does: images on the nodes, then the chart with helm.

use crate::{
    checkout::Checkout,
    cluster::Cluster,
    error::Result,
    images::{self, Image, Images},
    report::{during, say},
};

/// The release, the chart, and the namespace they live in.
pub const RELEASE: &str = "tcp-close-tuning";
/// See [`RELEASE`].
pub const NAMESPACE: &str = "tcpclose-system";
/// Longer than any start of a pod on a loaded machine.
const TIMEOUT: &str = "3m";

/// Builds the images, loads them into the nodes and installs the chart with them.
pub fn install_from_checkout(cluster: &Cluster) -> Result<Images> {
    let images = images::build(cluster)?;
    images::load(cluster, &images)?;
    install(cluster, &images, &[])?;
    Ok(images)
}

/// Installs the chart of this checkout and waits until it works. `more` is passed on to helm, such as
/// `["--set", "countPods=true"]`. Where the release is there already, it is upgraded and its pods are started anew:
/// an image that was built again has the same tag.
pub fn install(cluster: &Cluster, images: &Images, more: &[&str]) -> Result<()> {
    let was_there = install_or_upgrade(cluster, images, more)?;
    if was_there { restart(cluster) } else { Ok(()) }
}

/// The same, but pods that the chart does not change stay. Returns whether the release was there already.
pub(crate) fn install_or_upgrade(cluster: &Cluster, images: &Images, more: &[&str]) -> Result<bool> {
    install_chart(cluster, cluster.checkout(), images, more)
}

/// The same, with the chart of another checkout.
pub(crate) fn install_chart(
    cluster: &Cluster,
    checkout: &Checkout,
    images: &Images,
    more: &[&str],
) -> Result<bool> {
    make_namespace(cluster)?;
    let chart = checkout.root().join("charts").join(RELEASE).display().to_string();
    let is_there = cluster.helm(&["status", RELEASE, "--namespace", NAMESPACE]).is_ok();
    let verb = if is_there { "upgrade" } else { "install" };
    let values = [image_values("operator", &images.operator), image_values("agent", &images.agent)].join(",");
    let mut arguments = vec![verb, RELEASE, &chart, "--namespace", NAMESPACE, "--wait", "--timeout", TIMEOUT];
    arguments.extend(["--set", &values]);
    arguments.extend(more);
    during(&format!("helm {verb} {RELEASE} --wait"), || cluster.helm(&arguments))?;
    Ok(is_there)
}

/// The values of the chart that name an image.
fn image_values(component: &str, image: &Image) -> String {
    format!("image.{component}.repository={},image.{component}.tag={}", image.repository, image.tag)
}

/// The agent uses the node's network and folders, which Pod Security allows at `privileged` only.
fn make_namespace(cluster: &Cluster) -> Result<()> {
    cluster.apply(&include_str!("install/namespace.yaml").replace("@NAMESPACE@", NAMESPACE)).map(drop)
}

fn restart(cluster: &Cluster) -> Result<()> {
    for verb in ["restart", "status"] {
        for kind in ["deployment", "daemonset"] {
            let all = cluster.kubectl(&["get", kind, "--namespace", NAMESPACE, "--output", "name"])?;
            for name in all.lines() {
                cluster.kubectl(&["rollout", verb, name, "--namespace", NAMESPACE])?;
            }
        }
    }
    say("started the pods of the release anew");
    Ok(())
}
