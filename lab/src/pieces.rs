//! The programs of a cluster that are built from the Go module proxy, each at one version: taken where the person has
//! them (KUBEBUILDER_ASSETS, then the PATH), else built once into the user's cache.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    checkout::{Cache, Checkout},
    error::{Error, Result},
    files,
    process::{on_path, run},
    report::{during, say},
};

const KUBERNETES: &str = "v1.37.2";
const ETCD: &str = "v3.7.3";
const CONTAINERD: &str = "v2.4.2";
const HELM: &str = "v4.3.1";
/// The library's, and a number that changes when `go/kstatus` does.
const KSTATUS: &str = "v1.3.0-1";
/// Ours, so it changes when `go/pause` does.
const PAUSE: &str = "v1";

/// A program and how to get it.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Its file name.
    pub name: &'static str,
    version: &'static str,
    /// The folder in `lab/go` whose `go.mod` pins it.
    module: &'static str,
    package: &'static str,
    /// The variable that holds its version, which its build has to set.
    version_variable: Option<&'static str>,
    /// How it is asked for its version; a program of our own is not looked for elsewhere.
    version_arguments: Option<&'static [&'static str]>,
}

const fn kubernetes(
    name: &'static str,
    package: &'static str,
    version_arguments: &'static [&'static str],
) -> Piece {
    Piece {
        name,
        version: KUBERNETES,
        module: "kubernetes",
        package,
        version_variable: Some("k8s.io/component-base/version.gitVersion"),
        version_arguments: Some(version_arguments),
    }
}

const fn containerd(name: &'static str, package: &'static str) -> Piece {
    Piece {
        name,
        version: CONTAINERD,
        module: "containerd",
        package,
        version_variable: Some("github.com/containerd/containerd/v2/version.Version"),
        version_arguments: Some(&["-v"]),
    }
}

const fn own(name: &'static str, version: &'static str) -> Piece {
    Piece { name, version, module: name, package: ".", version_variable: None, version_arguments: None }
}

/// All of them; those that take longest first.
pub(crate) const PIECES: &[Piece] = &[
    kubernetes("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", &["--version"]),
    kubernetes("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", &["--version"]),
    kubernetes("kubelet", "k8s.io/kubernetes/cmd/kubelet", &["--version"]),
    kubernetes("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", &["--version"]),
    kubernetes("kubectl", "k8s.io/kubernetes/cmd/kubectl", &["version", "--client"]),
    containerd("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
    containerd("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"),
    containerd("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
    Piece {
        name: "helm",
        version: HELM,
        module: "helm",
        package: "helm.sh/helm/v4/cmd/helm",
        version_variable: Some("helm.sh/helm/v4/internal/version.version"),
        version_arguments: Some(&["version", "--short"]),
    },
    Piece {
        name: "etcd",
        version: ETCD,
        module: "etcd",
        package: "go.etcd.io/etcd/server/v3",
        version_variable: None,
        version_arguments: Some(&["--version"]),
    },
    own("kstatus", KSTATUS),
    own("pause", PAUSE),
];

/// Finds or builds every piece and links them into one folder.
pub(crate) fn provide(checkout: &Checkout, cache: &Cache, into: &Path) -> Result<()> {
    let mut missing = Vec::new();
    files::make_folder(into)?;
    for piece in PIECES {
        match find(piece, cache) {
            Some(program) => files::link(&program, &into.join(piece.name))?,
            None => missing.push(piece),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let go = on_path("go").ok_or_else(no_go)?;
    say(format!("{} programs have to be built once, about ten minutes on two cores", missing.len()));
    for (at, piece) in missing.iter().enumerate() {
        let what = format!("builds {} {} ({} of {})", piece.name, piece.version, at + 1, missing.len());
        let program = during(&what, || build(piece, &go, checkout, cache))?;
        files::link(&program, &into.join(piece.name))?;
    }
    Ok(())
}

/// The program where the person has it, at the version the lab is made for.
fn find(piece: &Piece, cache: &Cache) -> Option<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(|folder| Path::new(&folder).join(piece.name));
    for program in [assets.filter(|file| file.is_file()), on_path(piece.name)].into_iter().flatten() {
        let Some(arguments) = piece.version_arguments else { break };
        let answer = run(Command::new(&program).args(arguments)).unwrap_or_default();
        if is_same_minor(&answer, piece.version) {
            say(format!("takes {} from {}", piece.name, program.display()));
            return Some(program);
        }
    }
    Some(cached(piece, cache)).filter(|file| file.is_file())
}

fn cached(piece: &Piece, cache: &Cache) -> PathBuf {
    cache.bin().join(format!("{}-{}", piece.name, piece.version))
}

/// Whether a program's answer names the wanted minor version: the lab is made for 1.37, whichever patch.
fn is_same_minor(answer: &str, wanted: &str) -> bool {
    let minor = |version: &str| {
        let mut parts = version.trim_start_matches('v').split('.');
        Some((parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?))
    };
    let mut words = answer.split(|character: char| character.is_whitespace() || "+-\",:".contains(character));
    words.find_map(minor).is_some_and(|found| Some(found) == minor(wanted))
}

fn build(piece: &Piece, go: &Path, checkout: &Checkout, cache: &Cache) -> Result<PathBuf> {
    let program = cached(piece, cache);
    // A build that was cut short must never be taken for a finished program.
    let unfinished = cache.bin().join(format!(".{}-{}", piece.name, std::process::id()));
    files::make_folder(&cache.bin())?;
    let mut command = Command::new(go);
    command
        .current_dir(checkout.root().join("lab/go").join(piece.module))
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly")
        .env("GOWORK", "off")
        .args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &linker_flags(piece), "-o"])
        .arg(&unfinished)
        .arg(piece.package);
    run(&mut command).map_err(explain)?;
    std::fs::rename(&unfinished, &program).map_err(Error::file("finish", &program))?;
    Ok(program)
}

fn linker_flags(piece: &Piece) -> String {
    let mut variables: Vec<_> =
        piece.version_variable.iter().map(|variable| format!("{variable}={}", piece.version)).collect();
    if piece.module == "kubernetes" {
        let parts = KUBERNETES.trim_start_matches('v').split('.');
        let names = ["gitMajor", "gitMinor"].into_iter().zip(parts);
        variables.extend(names.map(|(name, part)| format!("k8s.io/component-base/version.{name}={part}")));
    }
    let sets = variables.iter().map(|variable| format!(" -X {variable}"));
    std::iter::once("-s -w".to_owned()).chain(sets).collect()
}

fn no_go() -> Error {
    Error::Missing {
        what: "there is no Go on this machine, and the cluster's programs have to be built".into(),
        remedy:
            "install Go 1.26 or later from https://go.dev/dl, or point KUBEBUILDER_ASSETS to the programs"
                .into(),
    }
}

/// Go says itself that it is too old, but not what to do.
fn explain(error: Error) -> Error {
    let text = error.to_string();
    let Some(line) = text.lines().find(|line| line.contains("requires go >=")) else { return error };
    Error::Missing {
        what: format!("the Go on this machine is too old: {line}"),
        remedy: "install Go 1.26 or later from https://go.dev/dl".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_real_programs_are_understood() {
        for (answer, wanted) in [
            ("Kubernetes v1.37.2\n", KUBERNETES),
            ("Client Version: v1.37.0\nKustomize Version: v5.8.0\n", KUBERNETES),
            ("etcd Version: 3.7.3\nGit SHA: abc\n", ETCD),
            ("containerd github.com/containerd/containerd/v2 v2.4.2 \n", CONTAINERD),
            ("containerd-shim-runc-v2:\n  Version:  v2.4.2\n", CONTAINERD),
            ("v4.3.1+g8bc8e27\n", HELM),
        ] {
            assert!(is_same_minor(answer, wanted), "{answer}");
        }
    }

    #[test]
    fn another_minor_version_is_not_taken() {
        assert!(!is_same_minor("Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0", KUBERNETES));
        assert!(!is_same_minor("Kubernetes v1.3.72", KUBERNETES));
        assert!(!is_same_minor(
            "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u2",
            CONTAINERD
        ));
        assert!(!is_same_minor("", KUBERNETES));
    }

    #[test]
    fn a_build_sets_the_version_that_the_api_server_will_report() {
        let flags = linker_flags(&PIECES[0]);
        assert!(flags.contains("gitVersion=v1.37.2") && flags.contains("gitMajor=1 "), "{flags}");
        assert!(flags.ends_with("gitMinor=37"), "{flags}");
    }
}
