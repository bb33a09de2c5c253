//! Files that the user picks.

use std::path::PathBuf;

use serde_json::{Value, json};
use tauri::test::MockRuntime;

use super::support::*;
use crate::Builder;

const PICKS: [&str; 2] = ["locara-diffusion:default", "locara-diffusion:pick-files"];

/// An app in which the user always picks that file of the test's folder.
fn picking(file: &'static str) -> Host {
    picking_with(file, |builder| builder)
}

/// The same with another sidecar.
fn picking_with(file: &'static str, change: impl FnOnce(Builder<MockRuntime>) -> Builder<MockRuntime>) -> Host {
    host(&PICKS, move |builder| {
        change(builder).chooser(move |window, request| {
            assert_eq!(window.label(), "main");
            let given: Vec<_> = request.title.iter().chain(&request.file_name).cloned().collect();
            if given.is_empty() { None } else { Some(PathBuf::from(&given[0]).join(file)) }
        })
    })
}

/// The chooser of these tests gets the folder from the title.
fn ask(host: &Host) -> Value {
    json!({"params": {"title": host.folder.path()}})
}

/// A picture in the test's folder.
fn drawn(host: &Host, window: &tauri::WebviewWindow<tauri::test::MockRuntime>) {
    let answer = invoke(window, "generate", long(quick(2), 1)).unwrap();
    std::fs::copy(answer["result"]["images"][0]["path"].as_str().unwrap(), host.folder.path().join("secret.png"))
        .unwrap();
}

fn edit(handle: &Value) -> Value {
    let options = json!({"steps": 2, "model": "pocket", "output": {"mode": "inline"}});
    json!({"prompt": PROMPT, "image": {"handle": handle}, "options": options})
}

/// The user enters a token, which restarts the sidecar.
fn set_token(host: &Host) {
    tauri::async_runtime::block_on(host.diffusion().set_token(Some("a-token".to_owned()))).unwrap();
}

#[test]
fn a_picked_image_is_a_handle_and_a_name_and_can_be_edited() {
    let host = picking("secret.png");
    let window = host.window("main");
    drawn(&host, &window);
    let picked = invoke(&window, "pick_image", ask(&host)).unwrap();
    let bytes = std::fs::metadata(host.folder.path().join("secret.png")).unwrap().len();
    assert_eq!((&picked["name"], &picked["bytes"]), (&json!("secret.png"), &json!(bytes)));
    assert_eq!(picked.as_object().unwrap().len(), 3, "{picked}");
    let answer = invoke(&window, "edit", long(edit(&picked["handle"]), 7)).unwrap();
    assert!(answer["result"]["images"][0]["data"].is_string());
    assert!(!answer.to_string().contains(host.folder.path().to_str().unwrap()));

    invoke(&window, "release_file", json!({"params": {"handle": picked["handle"]}})).unwrap();
    let error = invoke(&window, "edit", long(edit(&picked["handle"]), 7)).unwrap_err();
    assert_eq!(error["data"]["path"], "$.image.handle");
}

#[test]
fn a_picture_is_saved_where_the_user_wants_and_its_folder_is_not_told() {
    let host = picking("chosen.png");
    let window = host.window("main");
    let picked = invoke(&window, "pick_output", ask(&host)).unwrap();
    assert_eq!(picked["name"], "chosen.png");
    let mut params = quick(2);
    params["options"]["output"] = json!({"handle": picked["handle"]});
    let answer = invoke(&window, "generate", long(params, 7)).unwrap();
    assert!(host.folder.path().join("chosen.png").is_file());
    assert!(!answer.to_string().contains(host.folder.path().to_str().unwrap()), "{answer}");
}

#[test]
fn a_user_who_picks_nothing_is_no_error() {
    let host = picking("secret.png");
    assert_eq!(invoke(&host.window("main"), "pick_image", json!({"params": {}})).unwrap(), Value::Null);
}

#[test]
fn what_is_wrong_with_a_picked_file_is_told_without_its_folder() {
    let host = picking("missing.png");
    let error = invoke(&host.window("main"), "pick_image", ask(&host)).unwrap_err();
    assert_eq!(error["kind"], "StorageError");
    assert!(!error.to_string().contains(host.folder.path().to_str().unwrap()), "{error}");
    let host = picking("missing.txt");
    let error = invoke(&host.window("main"), "pick_output", ask(&host)).unwrap_err();
    assert_eq!(error["kind"], "InvalidParams");
    assert!(!error.to_string().contains(host.folder.path().to_str().unwrap()), "{error}");
}

#[test]
fn a_web_view_cannot_name_a_file_by_its_path() {
    let host = picking("secret.png");
    let window = host.window("main");
    for params in [json!({"path": "/etc/passwd"}), json!({"save": true}), json!({"directory": "/etc"})] {
        let error = invoke(&window, "pick_image", json!({"params": params})).unwrap_err();
        assert_eq!(error["kind"], "InvalidParams");
    }
}

#[test]
fn a_handle_is_given_back_by_its_own_window_alone_or_with_that() {
    let host = picking("secret.png");
    let (window, other) = (host.window("main"), host.window("other"));
    drawn(&host, &window);
    let handle = invoke(&window, "pick_image", ask(&host)).unwrap()["handle"].clone();
    invoke(&other, "release_file", json!({"params": {"handle": handle}})).unwrap();
    invoke(&window, "edit", long(edit(&handle), 7)).unwrap();
    host.diffusion().window_gone("other");
    invoke(&window, "edit", long(edit(&handle), 7)).unwrap();
    host.diffusion().window_gone("main");
    until("it was given back", || invoke(&other, "edit", long(edit(&handle), 7)).is_err());
}

#[test]
fn files_of_a_sidecar_that_died_are_given_back_without_starting_another() {
    let host = picking("secret.png");
    let window = host.window("main");
    drawn(&host, &window);
    let handle = invoke(&window, "pick_image", ask(&host)).unwrap()["handle"].clone();
    invoke(&window, "pick_image", ask(&host)).unwrap();
    let sidecar = tauri::async_runtime::block_on(host.diffusion().sidecar()).unwrap();
    kill(host.pid());
    until("it is gone", || sidecar.pid().is_none());
    assert_eq!(invoke(&window, "release_file", json!({"params": {"handle": handle}})).unwrap(), Value::Null);
    host.diffusion().window_gone("main");
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!((sidecar.starts(), sidecar.pid()), (1, None));
}

#[cfg(target_os = "linux")]
#[test]
fn files_end_with_a_sidecar_whose_own_files_an_update_has_replaced() {
    let place = TempDir::new();
    let old = outdated(&place);
    let host = picking_with("secret.png", move |builder| builder.program(old));
    let window = host.window("main");
    std::fs::write(host.folder.path().join("secret.png"), "a picture's bytes").unwrap();
    let handle = invoke(&window, "pick_image", ask(&host)).unwrap()["handle"].clone();
    let sidecar = tauri::async_runtime::block_on(host.diffusion().sidecar()).unwrap();
    let error = invoke(&window, "generate", long(quick(2), 7)).unwrap_err();
    assert_eq!((&error["kind"], &error["data"]["reason"]), (&json!("EngineUnavailable"), &json!("updated")));
    assert!(!host.messages(7).is_empty());
    until("it is gone", || sidecar.pid().is_none());
    invoke(&window, "release_file", json!({"params": {"handle": handle}})).unwrap();
    assert_eq!(
        (sidecar.starts(), sidecar.pid()),
        (1, None),
        "nothing is started for a handle that ended with its process"
    );

    drawn(&host, &window);
    assert_eq!(sidecar.starts(), 2);
    let handle = invoke(&window, "pick_image", ask(&host)).unwrap()["handle"].clone();
    invoke(&window, "edit", long(edit(&handle), 8)).unwrap();
}

#[test]
fn files_end_with_the_sidecar_that_a_token_replaces() {
    let host = picking("secret.png");
    let window = host.window("main");
    drawn(&host, &window);
    let before = invoke(&window, "pick_image", ask(&host)).unwrap()["handle"].clone();
    assert_eq!(host.diffusion().files.count("main"), 1);
    set_token(&host);
    assert_eq!(
        host.diffusion().files.count("main"),
        0,
        "a handle that the new process does not know cannot be released"
    );
    let error = invoke(&window, "edit", long(edit(&before), 7)).unwrap_err();
    assert_eq!(error["data"]["path"], "$.image.handle");

    let after = invoke(&window, "pick_image", ask(&host)).unwrap()["handle"].clone();
    invoke(&window, "edit", long(edit(&after), 7)).unwrap();
    host.diffusion().window_gone("main");
    let other = host.window("other");
    until("it was given back", || invoke(&other, "edit", long(edit(&after), 7)).is_err());
}

#[test]
fn a_file_that_is_picked_while_a_token_is_taken_is_known_to_the_new_sidecar() {
    let (told, asked) = std::sync::mpsc::channel();
    let (choose, chosen) = std::sync::mpsc::channel::<()>();
    let chosen = std::sync::Mutex::new(chosen);
    let host = host(&PICKS, move |builder| {
        builder.chooser(move |_, request| {
            told.send(()).unwrap();
            chosen.lock().unwrap().recv().unwrap();
            Some(PathBuf::from(request.title.as_ref()?).join("secret.png"))
        })
    });
    let window = host.window("main");
    drawn(&host, &window);
    let picked = start(&window, "pick_image", ask(&host));
    asked.recv().unwrap();
    set_token(&host);
    choose.send(()).unwrap();
    let handle = picked.join().unwrap().unwrap()["handle"].clone();
    invoke(&window, "edit", long(edit(&handle), 7)).unwrap();
}

#[test]
fn a_file_that_is_picked_after_its_window_was_closed_is_given_back() {
    let (told, asked) = std::sync::mpsc::channel();
    let (close, closed) = std::sync::mpsc::channel::<()>();
    let closed = std::sync::Mutex::new(closed);
    let host = host(&PICKS, move |builder| {
        builder.chooser(move |_, request| {
            told.send(()).unwrap();
            closed.lock().unwrap().recv().unwrap();
            Some(PathBuf::from(request.title.as_ref()?).join("secret.png"))
        })
    });
    let window = host.window("main");
    drawn(&host, &window);
    let picked = start(&window, "pick_image", ask(&host));
    asked.recv().unwrap();
    host.diffusion().window_gone("main");
    close.send(()).unwrap();
    assert_eq!(picked.join().unwrap().unwrap(), Value::Null);
    // the next one is held as usual
    let picked = start(&window, "pick_image", ask(&host));
    asked.recv().unwrap();
    close.send(()).unwrap();
    assert!(picked.join().unwrap().unwrap()["handle"].is_string());
}

#[test]
fn without_dialogs_the_web_view_is_told_what_the_app_lacks() {
    let host = host(&PICKS, |builder| builder);
    let error = invoke(&host.window("main"), "pick_image", json!({"params": {}})).unwrap_err();
    assert_eq!(error["kind"], "NoDialog");
    assert!(error["message"].as_str().unwrap().contains("tauri_plugin_dialog::init()"));
}
