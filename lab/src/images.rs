//! Container images without a container engine: Debian's buildah builds a Containerfile, and its archive goes into the
//! containerd of every node.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cluster::Cluster,
    error::{Error, Result},
    files,
    node::PAUSE_IMAGE,
    process::run,
};

/// Images come from this machine alone: whatever buildah would fetch is not trusted.
const POLICY: &str = r#"{"default": [{"type": "reject"}], "transports": {"containers-storage": {"": [{"type": "insecureAcceptAnything"}]}, "oci-archive": {"": [{"type": "insecureAcceptAnything"}]}}}"#;

/// What an image is made of.
struct Recipe<'a> {
    name: &'a str,
    containerfile: &'a Path,
    /// The stage of the Containerfile.
    stage: Option<&'a str>,
    /// The program that goes into it.
    program: &'a Path,
    /// The program's name in the image.
    as_name: &'a str,
}

/// The image that holds a pod's namespaces, as an archive; built once.
pub(crate) fn pause(cluster: &Cluster) -> Result<PathBuf> {
    let program = cluster.program("pause").canonicalize().map_err(Error::file("find", "pause"))?;
    let archive = program.with_extension("tar");
    if !archive.is_file() {
        let containerfile = cluster.checkout().root().join("lab/go/pause/Containerfile");
        let recipe = Recipe {
            name: PAUSE_IMAGE,
            containerfile: &containerfile,
            stage: None,
            program: &program,
            as_name: "pause",
        };
        build(cluster, &recipe, &archive)?;
    }
    Ok(archive)
}

fn build(cluster: &Cluster, recipe: &Recipe<'_>, archive: &Path) -> Result<()> {
    let workshop = cluster.dir().join("buildah");
    let context = workshop.join("context");
    files::make_folder(&context)?;
    std::fs::copy(recipe.program, context.join(recipe.as_name))
        .map_err(Error::file("copy", recipe.program))?;
    files::write(&workshop.join("policy.json"), POLICY)?;
    let mut bud = buildah(cluster, &workshop);
    bud.args([
        "bud",
        "--isolation",
        "chroot",
        "--layers=false",
        "--pull-never",
        "--quiet",
        "--signature-policy",
    ]);
    bud.arg(workshop.join("policy.json")).arg("--file").arg(recipe.containerfile);
    if let Some(stage) = recipe.stage {
        bud.args(["--target", stage]);
    }
    run(bud.args(["--tag", recipe.name]).arg(&context))?;
    // A half-written archive must never be taken for an image.
    let unfinished = archive.with_extension("unfinished");
    files::remove(&unfinished)?;
    let mut push = buildah(cluster, &workshop);
    push.args(["push", "--quiet", "--signature-policy"]).arg(workshop.join("policy.json")).arg(recipe.name);
    run(push.arg(format!("oci-archive:{}:{}", unfinished.display(), recipe.name)))?;
    std::fs::rename(&unfinished, archive).map_err(Error::file("finish", archive))?;
    std::fs::remove_dir_all(&workshop).map_err(Error::file("remove", &workshop))
}

/// buildah with its stores in the lab's folder.
fn buildah(cluster: &Cluster, workshop: &Path) -> Command {
    let mut command = Command::new(cluster.program("buildah"));
    command.arg("--root").arg(workshop.join("root")).arg("--runroot").arg(workshop.join("runroot"));
    command.args(["--storage-driver", "vfs"]);
    command.env("TMPDIR", workshop).env("LD_LIBRARY_PATH", cluster.libraries());
    command
}
