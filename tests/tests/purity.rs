//! What holds of the tree as such: the cores hold the rules and no I/O, and the images can be built from what they are given.
use std::{fs, path::Path, process::Command};

const BANNED: [&str; 9] =
    ["tokio", "tonic", "hyper", "rusqlite", "axum", "notify", "sysinfo", "nvml-wrapper", "rustix"];

fn tree(package: &str) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none", "--package", package])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo is there");
    assert!(output.status.success(), "cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn no_core_depends_on_a_runtime_transport_store_or_file_watcher() {
    for core in ["pitwall-core", "pitwall-sidecar-core"] {
        let tree = tree(core);
        assert!(tree.starts_with(core), "unexpected tree of {core}: {tree}");
        for line in tree.lines() {
            let name = line.split_whitespace().next().unwrap_or_default();
            assert!(!BANNED.contains(&name), "{core} depends on {line}");
        }
    }
}

#[test]
fn the_cryptography_that_doubles_the_sidecar_stays_out() {
    for package in ["pitwall-sidecar", "pitwall"] {
        assert!(!tree(package).lines().any(|line| line.starts_with("aws-lc")), "aws-lc-rs crept into {package}");
    }
}

/// `cargo build` in the Dockerfile reads the manifest and the sources of every member, whichever it builds.
#[test]
fn the_images_build_context_has_every_member_of_the_workspace() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |name: &str| fs::read_to_string(root.join(name)).expect("it is in the tree");
    let manifest = read("Cargo.toml");
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = [")).expect("members in one line");
    let ignored = read(".dockerignore");
    let kept: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    for member in members.trim_end_matches(']').split(',').map(|m| m.trim().trim_matches('"')) {
        for part in ["Cargo.toml", "src"] {
            let path = Path::new(member).join(part);
            assert!(kept.iter().any(|kept| path.starts_with(kept)), "{} is not in .dockerignore", path.display());
        }
    }
}
