//! Container images without a container engine: Debian's buildah builds a Containerfile, and its archive goes into the
//! containerd of every node.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    checkout::Checkout,
    cluster::Cluster,
    error::{Error, Result},
    files,
    node::PAUSE_IMAGE,
    process::run,
    programs::{self, StaticPrograms},
    report::during,
};

/// Images come from this machine alone: whatever buildah would fetch is not trusted.
const POLICY: &str = include_str!("images/policy.json");

/// An image of one program.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its repository, such as `tcpclose.dev/agent`.
    pub repository: String,
    /// Its tag: the version of the workspace, for those of this checkout.
    pub tag: &'static str,
    /// Its OCI archive.
    pub archive: PathBuf,
    /// The program that was put into it.
    pub program: PathBuf,
}

/// The images of the project.
#[derive(Debug, Clone)]
pub struct Images {
    /// The operator's.
    pub operator: Image,
    /// The agent's.
    pub agent: Image,
}

/// Builds both programs and their images from the project's own Containerfile.
pub fn build(cluster: &Cluster) -> Result<Images> {
    let programs = programs::build(cluster.checkout(), &cluster.dir().join("target"))?;
    let source = Source { checkout: cluster.checkout(), tag: env!("CARGO_PKG_VERSION"), folder: "images" };
    bake_both(cluster, &source, programs)
}

/// The same from another checkout, whose images have a tag of their own.
pub(crate) fn build_of(cluster: &Cluster, checkout: &Checkout, tag: &'static str) -> Result<Images> {
    let programs = programs::build(checkout, &cluster.dir().join(format!("target-{tag}")))?;
    bake_both(cluster, &Source { checkout, tag, folder: tag }, programs)
}

/// Where images come from and what they are called.
struct Source<'a> {
    checkout: &'a Checkout,
    tag: &'static str,
    /// The folder of the lab that holds their archives.
    folder: &'static str,
}

fn bake_both(cluster: &Cluster, source: &Source<'_>, programs: StaticPrograms) -> Result<Images> {
    during("builds the images of the operator and the agent", || {
        let operator = project_image(cluster, source, "operator", programs.operator)?;
        let agent = project_image(cluster, source, "agent", programs.agent)?;
        Ok(Images { operator, agent })
    })
}

/// Imports the images into the containerd of every node.
pub fn load(cluster: &Cluster, images: &Images) -> Result<()> {
    let archives = [&images.operator.archive, &images.agent.archive];
    during("loads the images into the nodes", || {
        std::thread::scope(|scope| {
            let nodes = cluster.nodes().iter();
            let imports: Vec<_> = nodes
                .map(|node| scope.spawn(move || archives.iter().try_for_each(|each| node.import_image(each))))
                .collect();
            imports.into_iter().try_for_each(|import| {
                let panicked =
                    || Error::Unclear { what: "an import".into(), why: "its thread panicked".into() };
                import.join().unwrap_or_else(|_| Err(panicked()))
            })
        })
    })
}

/// The image that holds a pod's namespaces, as an archive; built once and kept in the cache.
pub(crate) fn pause(cluster: &Cluster) -> Result<PathBuf> {
    let link = cluster.program("pause");
    let program = link.canonicalize().map_err(Error::file("find", link))?;
    let archive = program.with_extension("tar");
    if !archive.is_file() {
        let containerfile = cluster.checkout().root().join("lab/go/pause/Containerfile");
        let recipe =
            Recipe { name: PAUSE_IMAGE, containerfile, stage: None, program: &program, file: "pause" };
        bake(cluster, &recipe, &archive)?;
    }
    Ok(archive)
}

fn project_image(cluster: &Cluster, source: &Source<'_>, stage: &str, program: PathBuf) -> Result<Image> {
    let (repository, tag) = (format!("tcpclose.dev/{stage}"), source.tag);
    let archive = cluster.dir().join(source.folder).join(format!("{stage}.tar"));
    let recipe = Recipe {
        name: &format!("{repository}:{tag}"),
        containerfile: source.checkout.root().join("Containerfile"),
        stage: Some(stage),
        program: &program,
        file: &format!("tcpclose-{stage}"),
    };
    bake(cluster, &recipe, &archive)?;
    Ok(Image { repository, tag, archive, program })
}

/// What an image is made of.
struct Recipe<'a> {
    name: &'a str,
    containerfile: PathBuf,
    /// The stage of the Containerfile.
    stage: Option<&'a str>,
    /// The program that goes into it.
    program: &'a Path,
    /// The name under which the Containerfile finds it.
    file: &'a str,
}

fn bake(cluster: &Cluster, recipe: &Recipe<'_>, archive: &Path) -> Result<()> {
    let workshop = cluster.dir().join("buildah");
    let context = workshop.join("context");
    let policy = workshop.join("policy.json");
    files::make_folder(&context)?;
    std::fs::copy(recipe.program, context.join(recipe.file)).map_err(Error::file("copy", recipe.program))?;
    files::write(&policy, POLICY)?;
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
    bud.arg(&policy).arg("--file").arg(&recipe.containerfile);
    if let Some(stage) = recipe.stage {
        bud.args(["--target", stage]);
    }
    run(bud.args(["--tag", recipe.name]).arg(&context))?;
    // A half-written archive must never be taken for an image.
    let unfinished = archive.with_extension("unfinished");
    files::remove(&unfinished)?;
    if let Some(folder) = archive.parent() {
        files::make_folder(folder)?;
    }
    let mut push = buildah(cluster, &workshop);
    push.args(["push", "--quiet", "--signature-policy"]).arg(&policy).arg(recipe.name);
    run(push.arg(format!("oci-archive:{}:{}", unfinished.display(), recipe.name)))?;
    std::fs::rename(&unfinished, archive).map_err(Error::file("finish", archive))?;
    std::fs::remove_dir_all(&workshop).map_err(Error::file("remove", &workshop))
}

/// buildah with its stores in the lab's folder.
fn buildah(cluster: &Cluster, workshop: &Path) -> Command {
    let mut command = cluster.unpacked("buildah");
    command.arg("--root").arg(workshop.join("root")).arg("--runroot").arg(workshop.join("runroot"));
    command.args(["--storage-driver", "vfs"]).env("TMPDIR", workshop);
    command
}
