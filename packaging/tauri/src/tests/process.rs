//! The sidecar's process: it ends with the app, and a dead one is replaced.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::json;
use tauri::Manager;

use super::support::*;

fn engine(window: &tauri::WebviewWindow<tauri::test::MockRuntime>) -> u32 {
    let ping = invoke(window, "ping", json!({"params": {}})).unwrap();
    ping["engine"]["pid"].as_u64().unwrap() as u32
}

const PINGS: [&str; 2] = ["locara-diffusion:default", "locara-diffusion:diagnostics"];

#[test]
fn when_the_app_ends_in_the_middle_of_a_step_its_processes_are_gone_before_it_is() {
    let host = host(&PINGS, |builder| builder);
    let window = host.window("main");
    let call = start(&window, "generate", long(slow(), 7));
    until("it draws", || host.messages(7).iter().any(|step| step["phase"] == "denoising"));
    let (daemon, engine) = (host.pid(), engine(&window));
    let Host { app, folder: _folder, ending: _ending, .. } = host;
    let handle = app.handle().clone();
    let mut window = Some(window);
    // until the last window is gone; a window that is destroyed before the loop runs does not end a mock app
    app.run(move |_, event| {
        if let (tauri::RunEvent::Ready, Some(window)) = (event, window.take()) {
            std::thread::spawn(move || window.destroy().unwrap());
        }
    });
    assert!(!alive(daemon), "the daemon outlives the app");
    until("its engine is gone", || !alive(engine));
    call.join().unwrap().unwrap_err();
    let late = tauri::async_runtime::block_on(handle.state::<crate::Diffusion<tauri::test::MockRuntime>>().sidecar());
    assert!(matches!(late, Err(crate::Error::Ending)), "a call after the end starts another");
}

#[test]
fn a_sidecar_that_is_killed_fails_its_calls_and_the_next_call_starts_another() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let window = host.window("main");
    let call = start(&window, "generate", long(slow(), 7));
    until("it draws", || host.messages(7).iter().any(|step| step["phase"] == "denoising"));
    let job = host.messages(7)[0]["jobId"].clone();
    let followed = start(&host.window("other"), "jobs_attach", long(json!({"jobId": job}), 8));
    until("it is followed", || !host.messages(8).is_empty());
    let daemon = host.pid();
    kill(daemon);
    assert_eq!(followed.join().unwrap().unwrap_err()["data"]["signal"], "SIGKILL");
    let error = call.join().unwrap().unwrap_err();
    assert_eq!((&error["kind"], &error["data"]["signal"]), (&json!("SidecarGone"), &json!("SIGKILL")));
    assert_eq!(error["data"]["retryable"], true);
    assert!(error["data"].get("stderr").is_none());
    // nothing is sent again automatically
    assert_eq!(invoke(&window, "jobs_list", json!({"params": {}})).unwrap(), json!({"jobs": []}));
    assert_ne!(host.pid(), daemon);
}

/// A program that reports its process id and then does what the text says, whatever it receives.
#[cfg(unix)]
fn stubborn(place: &TempDir, text: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;

    let program = place.path().join("sidecar");
    let text = format!("#!/bin/sh\ntrap '' TERM\necho $$ > '{}/pid'\n{text}\n", place.path().display());
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// The answer to `initialize` of a sidecar that can do nothing.
#[cfg(unix)]
const OPENED: &str = concat!(
    r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":1,"serverInfo":{"name":"a","version":"1"},"#,
    r#""capabilities":{"methods":[],"notifications":[],"engines":[],"imageFormats":[],"limits":{"maxLineBytes":1000,"#,
    r#""maxInlineImageBytes":1,"maxQueue":1,"maxBatch":1,"maxPromptBytes":1}},"#,
    r#""app":{"id":null,"granted":[],"warnings":[]}}}"#
);

#[cfg(target_os = "linux")]
#[test]
fn a_sidecar_that_hangs_is_gone_within_two_seconds_of_the_apps_end_also_while_it_starts() {
    let hangs = ["sleep 1000".to_owned(), format!("read line\necho '{OPENED}'\nsleep 1000")];
    for (text, opens) in hangs.iter().zip([false, true]) {
        let place = TempDir::new();
        let program = stubborn(&place, text);
        let host = host(&["locara-diffusion:default"], |builder| builder.program(program));
        let call = start(&host.window("main"), "models_list", json!({"params": {}}));
        let pid = || std::fs::read_to_string(place.path().join("pid")).ok()?.trim().parse::<u32>().ok();
        until("it runs", || pid().is_some());
        if opens {
            host.pid(); // the session is open
        }
        let begun = std::time::Instant::now();
        host.diffusion().end();
        let took = begun.elapsed();
        assert!(!alive(pid().unwrap()), "it outlives the app");
        assert!(took.as_secs_f64() < 2.0, "{took:?}");
        assert_eq!(call.join().unwrap().unwrap_err()["kind"], "SidecarGone");
    }
}

/// Not a test: the app of the next one. It reports the environment of its sidecar.
#[cfg(unix)]
#[test]
fn app_with_surroundings() {
    if std::env::var_os("LOCARA_TEST_SURROUNDINGS").is_none() {
        return;
    }
    let place = TempDir::new();
    let file = place.path().join("env");
    let program = stubborn(&place, &format!("env > '{}'; exit 3", file.display()));
    let host = host(&["locara-diffusion:default"], |builder| builder.program(program).env("OWN", "yes"));
    invoke(&host.window("main"), "models_list", json!({"params": {}})).unwrap_err();
    println!("\n{}", std::fs::read_to_string(file).unwrap());
}

#[cfg(unix)]
#[test]
fn a_python_of_the_apps_surroundings_does_not_reach_the_sidecar() {
    let python = ["PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONEXECUTABLE"];
    for image in [false, true] {
        let mut app = Command::new(std::env::current_exe().unwrap());
        app.args(["tests::process::app_with_surroundings", "--exact", "--nocapture"]);
        app.envs(python.map(|name| (name, "/nope")))
            .env("LD_LIBRARY_PATH", "/nope")
            .env("LOCARA_TEST_SURROUNDINGS", "1");
        app.env_remove("APPIMAGE");
        if image {
            app.env("APPIMAGE", "/nope/app.AppImage");
        }
        let done = app.output().unwrap();
        let told = String::from_utf8(done.stdout).unwrap();
        assert!(done.status.success() && told.lines().any(|line| line == "OWN=yes"), "{told}");
        let has = |name: &str| told.lines().any(|line| line.starts_with(&format!("{name}=")));
        assert!(!python.iter().any(|name| has(name)), "{told}");
        assert_eq!(has("LD_LIBRARY_PATH"), !image, "{told}");
    }
}

/// Not a test: the app that the next one kills. It reports its processes.
#[test]
fn app_to_be_killed() {
    if std::env::var_os("LOCARA_TEST_APP").is_none() {
        return;
    }
    let host = host(&PINGS, |builder| builder);
    let window = host.window("main");
    let _call = start(&window, "generate", long(slow(), 7));
    until("it draws", || host.messages(7).iter().any(|step| step["phase"] == "denoising"));
    println!("\nPROCESSES {} {}", host.pid(), engine(&window));
    std::thread::sleep(std::time::Duration::from_secs(600));
}

#[test]
fn an_app_that_is_killed_leaves_no_process() {
    let mut app = Command::new(std::env::current_exe().unwrap())
        .args(["tests::process::app_to_be_killed", "--exact", "--nocapture"])
        .env("LOCARA_TEST_APP", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(app.stdout.take().unwrap()).lines().map(Result::unwrap);
    let told = lines.find_map(|line| line.strip_prefix("PROCESSES ").map(str::to_owned)).unwrap();
    let pids: Vec<u32> = told.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.iter().all(|pid| alive(*pid)));
    app.kill().unwrap();
    app.wait().unwrap();
    until("they are gone", || !pids.iter().any(|pid| alive(*pid)));
}
