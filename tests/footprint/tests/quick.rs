//! That the benchmark works and prints what scripts read; no speed is asserted.
use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Where the workspace's own binaries lie beside this test.
fn binaries() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_pitwall-footprint"));
    let folder = program.parent().expect("it lies in target/PROFILE").to_owned();
    for name in ["pitwall", "pitwall-sidecar"] {
        assert!(folder.join(name).exists(), "{name} is not built: run `cargo build --workspace` first");
    }
    folder
}

fn rows(args: &[&str]) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pitwall-footprint"));
    command.args(args).args(["--quick", "--json", "--binaries"]).arg(binaries());
    let output = command.output().expect("it can be started");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    let one: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
    assert!(!one["kernel"].as_str().expect("a kernel").is_empty());
    one["rows"].as_array().expect("rows").clone()
}

/// Every row has what a script looks for, and a reason where it was not measured.
fn has_the_shape(row: &Value) {
    for key in ["row", "what", "product", "limit", "ratio", "unit", "goal", "met", "n"] {
        assert!(row.get(key).is_some(), "no {key} in {row}");
    }
    assert_eq!(row["met"].is_null(), row["why"].is_string(), "{row}");
}

#[test]
fn the_footprint_has_a_row_for_each_goal() {
    let rows = rows(&[]);
    rows.iter().for_each(has_the_shape);
    let named: Vec<&str> = rows.iter().filter_map(|row| row["row"].as_str()).collect();
    assert_eq!(named, ["P1", "P1", "P2", "P2", "P3"]);
    for row in &rows {
        assert!(row["product"].as_f64().is_some_and(|value| value > 0.0), "{row}");
    }
    for row in &rows[..2] {
        assert!(row["limit"].as_f64().is_some_and(|value| value > 0.0), "{row}");
    }
}

#[test]
fn the_accuracy_has_a_row_for_each_load() {
    let rows = rows(&["--accuracy"]);
    rows.iter().for_each(has_the_shape);
    assert_eq!(rows.len(), 5);
    for row in &rows {
        assert!(row["limit"].as_f64().is_some_and(|own| own > 0.0), "{row}");
    }
}
