//! The crate as others meet it: the harness, the example, a host that dies, an empty project.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{TempDir, alive, example, kill, manifest, program, repository, until};

#[test]
fn the_client_passes_every_scenario_of_the_harness() {
    let folder = TempDir::new().unwrap();
    let report = folder.path().join("report.json");
    let done = Command::new(program().with_file_name("locara-conformance"))
        .args(["host", "--timeout", "120", "--json"])
        .arg(&report)
        .arg("--")
        .arg(example("conformance_adapter"))
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let results = report["results"].as_array().unwrap();
    let failed = results.iter().filter(|one| one["outcome"] != "SUCCESS").fold(String::new(), |mut text, one| {
        let _ = writeln!(text, "{} {}: {}", one["outcome"], one["id"], one["reason"]);
        text
    });
    assert_eq!(failed, "");
    assert!(results.len() >= 25, "{} scenarios", results.len());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn the_example_shows_previews_a_cancel_and_an_error() {
    let source = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/draw.rs")).unwrap();
    assert!(source.lines().count() <= 60);
    let folder = TempDir::new().unwrap();
    let done = Command::new(example("draw"))
        .arg(folder.path())
        .arg(program())
        .args(["serve", "--engine", "fake"])
        .output()
        .unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 7, "{said}{}", String::from_utf8_lossy(&done.stderr));
    for (number, line) in (1..=4).zip(&lines) {
        assert!(line.starts_with(&format!("step {number} of 4, preview of ")), "{line}");
    }
    assert_eq!(lines[4], format!("saved {}", folder.path().join("star.png").display()));
    assert_eq!(lines[5..], ["cancelled: RequestCancelled", "error: InvalidParams at $.options.steps"]);
    assert!(folder.path().join("star.png").exists());
}

#[cfg(unix)]
#[test]
fn the_program_of_the_readme_draws() {
    use std::os::unix::fs::PermissionsExt;

    let folder = TempDir::new().unwrap();
    let script = folder.path().join("locara-sidecar");
    std::fs::write(&script, format!("#!/bin/sh\nexec '{}' \"$@\" --engine fake\n", program().display())).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(folder.path().join("locara.json"), manifest().to_string()).unwrap();
    let path = std::env::join_paths([folder.path(), Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
    let done = Command::new(example("readme"))
        .arg(folder.path())
        .current_dir(folder.path())
        .env("PATH", path)
        .output()
        .unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("preview: true"), "{said}");
    assert!(said.lines().last().unwrap().contains(".png"), "{said}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_host_that_is_killed_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("locara.json");
    std::fs::write(&file, manifest().to_string()).unwrap();
    let (program, file, pictures) = (program(), file.display(), folder.path().display());
    let task = json!({
        "sidecar": [program, "serve", "--engine", "fake", "--manifest", file.to_string(), "--grant", format!("user-folder={pictures}")],
        "steps": [
            {"do": "open"},
            {"do": "start", "call": "a", "method": "image.generate", "params": {"prompt": "fake:slow=60000 a"}, "stream": true},
            {"do": "messages", "call": "a", "count": 4},
            {"do": "start", "call": "p", "method": "ping"},
            {"do": "result", "call": "p"},
            {"do": "pause", "ms": 600_000},
        ],
    });
    let mut host =
        Command::new(example("conformance_adapter")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    writeln!(host.stdin.take().unwrap(), "{task}").unwrap();
    let lines = BufReader::new(host.stdout.take().unwrap()).lines().take(5).map(Result::unwrap).collect::<Vec<_>>();
    let pong: Value = serde_json::from_str(&lines[4]).unwrap();
    let engine = u32::try_from(pong["ok"]["engine"]["pid"].as_u64().unwrap()).unwrap();
    let children = format!("/proc/{0}/task/{0}/children", host.id());
    let daemon: u32 = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    assert!(alive(daemon) && alive(engine));
    kill(host.id());
    host.wait().unwrap();
    until("the daemon and its engine are gone", async || !alive(daemon) && !alive(engine)).await;
}

const MAIN: &str = r#"
use locara_diffusion::{GenerateParams, Sidecar};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(program), Some(folder), Some(manifest)) = (words.next(), words.next(), words.next()) else { panic!() };
    let builder = Sidecar::builder().command(program, ["serve", "--engine", "fake"]).grant("user-folder", folder);
    let sidecar = builder.manifest(serde_json::from_str(&manifest)?).spawn().await?;
    let (mut steps, picture) = sidecar.generate(GenerateParams::new("a lake"));
    while let Some(step) = steps.next().await {
        println!("{}", step.progress);
    }
    println!("{}", picture.await?.images.len());
    Ok(())
}
"#;

#[test]
fn the_packaged_crate_works_offline_in_an_empty_project() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let folder = TempDir::new().unwrap();
    let packed = folder.path().join("packed");
    let run = |command: &mut Command| {
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    let flags = ["package", "--locked", "--offline", "--no-verify", "--allow-dirty", "--target-dir"];
    run(Command::new(&cargo).args(flags).arg(&packed).current_dir(here));
    let name = concat!("locara-diffusion-", env!("CARGO_PKG_VERSION"));
    let archive = packed.join("package").join(format!("{name}.crate"));
    run(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(folder.path()));
    let unpacked = folder.path().join(name);
    for file in ["README.md", "LICENSE", "Cargo.lock", "src/schema.rs", "examples/draw.rs"] {
        assert!(unpacked.join(file).exists(), "{file}");
    }
    assert_eq!(std::fs::read(unpacked.join("LICENSE")).unwrap(), std::fs::read(repository().join("LICENSE")).unwrap());

    let project = folder.path().join("project");
    std::fs::create_dir_all(project.join("src")).unwrap();
    let dependencies = format!(
        "[package]\nname = \"empty\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[dependencies]\nserde_json = \"1\"\n\
         tokio = {{ version = \"1\", features = [\"macros\", \"rt\"] }}\nlocara-diffusion = {{ path = {unpacked:?} }}\n\
         [profile.dev]\ndebug = \"line-tables-only\"\n"
    );
    std::fs::write(project.join("Cargo.toml"), dependencies).unwrap();
    std::fs::write(project.join("src/main.rs"), MAIN).unwrap();
    std::fs::copy(here.join("Cargo.lock"), project.join("Cargo.lock")).unwrap(); // the versions that are here already
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let said = run(Command::new(&cargo)
        .args(["run", "--quiet", "--offline", "--target-dir"])
        .arg(target)
        .arg("--")
        .arg(program())
        .arg(folder.path())
        .arg(manifest().to_string())
        .current_dir(&project));
    assert!(said.ends_with("\n1\n1\n"), "the last progress and one image: {said}");
}
