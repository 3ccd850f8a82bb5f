//! The whole run against the stand-in: driver, sink, ceilings and report work together, and no figure is judged.

use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn run(folder: &Path, more: &[&str]) -> std::io::Result<std::process::Output> {
    std::fs::create_dir_all(folder)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign-bench"));
    command.args(["--server", "stand-in", "--seconds", "0.1", "--rounds", "1", "--connections", "8", "--slow-connections", "4"]);
    command.arg("--data").arg(folder).arg("--json").arg(folder.join("figures.json")).args(more).output()
}

#[test]
fn a_run_against_the_stand_in_fills_every_row_and_leaves_no_data_behind() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stand-in");
    let run = run(&folder, &[]).expect("the program starts");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert!(run.stderr.is_empty(), "quiet in a pipe: {}", String::from_utf8_lossy(&run.stderr));
    let figures = std::fs::read(folder.join("figures.json")).expect("it was written");
    let figures: Value = serde_json::from_slice(&figures).expect("it is JSON");

    let rows = figures["rows"].as_array().expect("rows");
    let slow = rows.iter().filter(|row| row["flush_ms"] == 3).count();
    // Without a C compiler flushes are not counted, and the report says so.
    let counted = !figures["skipped"].to_string().contains("flushes");
    assert_eq!((rows.len() - slow, slow), (7, if counted { 5 } else { 0 }), "{figures:#}");
    for row in rows {
        let round = &row["rounds"][0];
        assert!(round["rate"].as_f64().is_some_and(|rate| rate > 0.0), "{row:#}");
        let is_ceiling = row["what"].as_str().is_some_and(|what| what.starts_with("ceiling"));
        assert_eq!(round["of_ceiling"].is_null(), is_ceiling, "every other row stands beside its ceiling: {row:#}");
    }
    if counted {
        // A row that is durable without a flush would not be durable.
        let verify = rows.iter().find(|row| row["what"] == "verify, right code").expect("the row");
        assert!(verify["rounds"][0]["flushes"].as_f64().is_some_and(|flushes| flushes > 0.0), "{verify:#}");
    }
    let left: Vec<_> = std::fs::read_dir(&folder).expect("there").filter_map(Result::ok).map(|it| it.file_name()).collect();
    assert_eq!(left, ["figures.json"]);
}

#[test]
fn a_server_that_is_not_there_is_named_with_what_to_do() {
    let run = Command::new(env!("CARGO_BIN_EXE_countersign-bench")).args(["--server", "/nowhere/countersign"]).output().expect("starts");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success() && said.contains("/nowhere/countersign") && said.contains("cargo build --release"), "{said}");
}
