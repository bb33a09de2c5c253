//! Files that the app opens because the sidecar cannot reach what the user picked.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::support::*;

const PICKS: [&str; 2] = ["locara-diffusion:default", "locara-diffusion:pick-files"];

/// An app whose user picks the suggested file in the test's folder, by a path that only this process can open (through
/// a descriptor of the folder), as in macOS's App Sandbox.
fn host_with(hands: bool) -> Host {
    host(&PICKS, |builder| {
        builder.hands_files(hands).chooser(|_, request| {
            let name = PathBuf::from(request.file_name.as_ref()?);
            let folder = Box::leak(Box::new(File::open(name.parent()?).unwrap()));
            Some(Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name.file_name()?))
        })
    })
}

fn ask(host: &Host, name: &str) -> Value {
    json!({"params": {"fileName": host.folder.path().join(name)}})
}

fn draw_into(handle: &Value) -> Value {
    let mut params = quick(2);
    params["options"]["output"] = json!({"handle": handle, "mode": "both"});
    params
}

/// Counts this process's descriptors of a file.
fn open_here(file: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    links.filter(|link| std::fs::read_link(link.as_ref().unwrap().path()).is_ok_and(|target| target == file)).count()
}

#[test]
fn by_its_path_such_a_file_does_not_reach_the_sidecar() {
    let host = host_with(false);
    std::fs::write(host.folder.path().join("a.png"), "").unwrap();
    let error = invoke(&host.window("main"), "pick_image", ask(&host, "a.png")).unwrap_err();
    assert_eq!(error["kind"], "StorageError");
}

#[test]
fn an_image_is_opened_by_the_app_and_edited_also_after_a_restart() {
    let host = host_with(true);
    let window = host.window("main");
    let file = host.folder.path().join("secret.png");
    let answer = invoke(&window, "generate", long(quick(2), 1)).unwrap();
    std::fs::copy(answer["result"]["images"][0]["path"].as_str().unwrap(), &file).unwrap();
    for _ in 0..2 {
        let picked = invoke(&window, "pick_image", ask(&host, "secret.png")).unwrap();
        let bytes = std::fs::metadata(&file).unwrap().len();
        assert_eq!((&picked["name"], &picked["bytes"]), (&json!("secret.png"), &json!(bytes)));
        assert_eq!(open_here(&file), 0);
        let options = json!({"steps": 2, "model": "pocket", "output": {"mode": "inline"}});
        let edit = json!({"prompt": PROMPT, "image": {"handle": picked["handle"]}, "options": options});
        let answer = invoke(&window, "edit", long(edit, 7)).unwrap();
        assert!(answer["result"]["images"][0]["data"].is_string());
        let sidecar = tauri::async_runtime::block_on(host.diffusion().sidecar()).unwrap();
        kill(sidecar.pid().unwrap());
        until("it is known", || sidecar.pid().is_none());
    }
}

#[test]
fn a_picture_is_saved_into_a_file_that_is_there_and_into_a_new_one() {
    let host = host_with(true);
    let window = host.window("main");
    let (old, new) = (host.folder.path().join("old.png"), host.folder.path().join("new.png"));
    std::fs::write(&old, vec![b'x'; 1 << 20]).unwrap();
    let before = std::fs::metadata(&old).unwrap().ino();
    let mut pictures = Vec::new();
    for (channel, file) in [(7, &old), (8, &new)] {
        let name = file.file_name().unwrap().to_str().unwrap();
        let picked = invoke(&window, "pick_output", ask(&host, name)).unwrap();
        assert_eq!(picked["name"], name);
        let mut params = draw_into(&picked["handle"]);
        params["options"]["seed"] = json!(1);
        let answer = invoke(&window, "generate", long(params, channel)).unwrap();
        assert_eq!(answer["result"]["images"][0]["path"], Value::Null);
        assert!(answer["result"]["images"][0]["data"].is_string());
        pictures.push(std::fs::read(file).unwrap());
        assert_eq!(open_here(file), 0);
    }
    assert!(pictures[0].starts_with(b"\x89PNG"));
    assert!(pictures[0] == pictures[1], "nothing is left of the old content");
    assert_eq!(std::fs::metadata(&old).unwrap().ino(), before, "it is written in place");
}

#[test]
fn what_the_app_cannot_open_is_told_with_its_sentence_and_without_its_folder() {
    let host = host_with(true);
    let window = host.window("main");
    std::fs::create_dir(host.folder.path().join("folder.png")).unwrap();
    for (command, name, errno, sentence) in [
        ("pick_image", "missing.png", json!("ENOENT"), "missing.png cannot be opened: No such file or directory"),
        ("pick_output", "folder.png", Value::Null, "folder.png cannot be opened: it is not a regular file"),
    ] {
        let error = invoke(&window, command, ask(&host, name)).unwrap_err();
        assert_eq!((&error["kind"], &error["code"]), (&json!("StorageError"), &json!(-32014)));
        assert_eq!((&error["data"]["errno"], &error["data"]["retryable"]), (&errno, &json!(false)));
        assert!(error["message"].as_str().unwrap().starts_with(sentence), "{error}");
        assert!(!error.to_string().contains("/proc"), "{error}");
    }
}

#[test]
fn a_file_that_the_sidecar_refuses_is_not_left_behind_and_an_old_one_is_left_alone() {
    let host = host_with(true);
    let window = host.window("main");
    std::fs::write(host.folder.path().join("old.txt"), "").unwrap();
    for (name, stays) in [("new.txt", false), ("old.txt", true)] {
        let error = invoke(&window, "pick_output", ask(&host, name)).unwrap_err();
        assert_eq!((&error["kind"], &error["data"]["path"]), (&json!("InvalidParams"), &json!("$.name")));
        assert_eq!(host.folder.path().join(name).exists(), stays);
    }
}
