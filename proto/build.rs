//! Compiles the protocol without protoc. The same descriptor bytes are served by reflection.
use std::{env, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 8] = [
    "pitwall/v1/types.proto",
    "pitwall/v1/plan.proto",
    "pitwall/v1/sidecar.proto",
    "pitwall/v1/control.proto",
    "pitwall/v1/identity.proto",
    "pitwall/journal/v1/journal.proto",
    "pitwall/journal/v1/snapshot.proto",
    "pitwall/state/v1/state.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=pitwall");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::compile(FILES, ["."])?;
    let bytes = descriptors.encode_to_vec();
    fs::write(out.join("pitwall.bin"), &bytes)?;

    let services = env::var_os("CARGO_FEATURE_SERVICES").is_some();
    tonic_prost_build::configure()
        .build_client(services)
        .build_server(services)
        .btree_map(".")
        .compile_fds(descriptors)?;
    if env::var_os("CARGO_FEATURE_JSON").is_some() {
        pbjson_build::Builder::new()
            .register_descriptors(&bytes)?
            .preserve_proto_field_names()
            .emit_fields()
            .btree_map([".pitwall"])
            .build(&[".pitwall.v1"])?;
    }
    Ok(())
}
