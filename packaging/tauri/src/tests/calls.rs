//! Drawing, cancelling, and reloading the page.

use serde_json::{Value, json};
use tauri::Manager;

use super::support::*;

#[test]
fn steps_come_in_order_on_the_calls_own_channel_and_the_picture_may_be_shown() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let window = host.window("main");
    let answer = invoke(&window, "generate", long(quick(6), 7)).unwrap();
    let steps = host.messages(7);
    assert_eq!(answer["messages"], steps.len());
    assert_eq!(finished(&steps), [1, 2, 3, 4, 5, 6]);
    assert!(steps.iter().any(|step| step["preview"]["data"].is_string()));
    assert_eq!(steps.last().unwrap()["progress"], 1.0);
    let path = answer["result"]["images"][0]["path"].as_str().unwrap();
    assert!(std::path::Path::new(path).starts_with(host.folder.path().join("pictures")));
    assert!(host.app.asset_protocol_scope().is_allowed(path));
    assert!(!host.app.asset_protocol_scope().is_allowed(host.folder.path().join("locara.json")));
    // only this call's frames were sent
    assert_eq!(host.frames.lock().unwrap().len(), steps.len());
}

#[test]
fn a_picture_may_be_shown_also_where_the_app_may_only_write() {
    let host = writing();
    let answer = invoke(&host.window("main"), "generate", long(quick(2), 7)).unwrap();
    let path = answer["result"]["images"][0]["path"].as_str().unwrap();
    let other = host.folder.path().join("pictures/other.png");
    std::fs::copy(path, &other).unwrap();
    assert!(host.app.asset_protocol_scope().is_allowed(path));
    assert!(!host.app.asset_protocol_scope().is_allowed(other));
}

/// An app that may write to its folder, but not read it.
fn writing() -> Host {
    let mut declared = manifest();
    declared["capabilities"]["fs"]["user-folder"] = json!("write");
    host_of(declared, &["locara-diffusion:default"], |builder| builder)
}

#[test]
fn what_a_cancelled_call_had_finished_may_be_shown() {
    let host = writing();
    let window = host.window("main");
    let mut params = steady(2);
    params["options"]["count"] = json!(8);
    let call = start(&window, "generate", long(params, 7));
    until("the first one is finished", || host.messages(7).iter().any(|step| step["image"] == 3));
    invoke(&window, "cancel_request", json!({"requestId": "call-7"})).unwrap();
    let error = call.join().unwrap().unwrap_err();
    assert_eq!(error["kind"], "RequestCancelled");
    let path = error["data"]["images"][0]["path"].as_str().unwrap();
    assert!(host.app.asset_protocol_scope().is_allowed(path));
}

#[test]
fn a_picture_that_is_asked_for_once_more_may_be_shown() {
    let host = writing();
    let drawn = tauri::async_runtime::block_on(async {
        let sidecar = host.diffusion().sidecar().await.unwrap();
        sidecar.generate(serde_json::from_value(quick(2)).unwrap()).1.await.unwrap()
    });
    let path = drawn.images[0].path.as_ref().unwrap();
    assert!(!host.app.asset_protocol_scope().is_allowed(path));
    invoke(&host.window("main"), "jobs_result", json!({"params": {"jobId": drawn.job_id}})).unwrap();
    assert!(host.app.asset_protocol_scope().is_allowed(path));
}

#[test]
fn nothing_beside_the_granted_folder_may_be_shown_whatever_its_name_is() {
    let name = "Bilder für Ölaf, 写真 [1] {a,b}";
    let place = TempDir::new();
    let folder = place.path().join(name);
    let host = host(&["locara-diffusion:default"], |builder| builder.folder("user-folder", &folder));
    let answer = invoke(&host.window("main"), "generate", long(quick(2), 7)).unwrap();
    let path = answer["result"]["images"][0]["path"].as_str().unwrap();
    assert!(std::path::Path::new(path).starts_with(&folder), "{path}");
    let scope = host.app.asset_protocol_scope();
    assert!(scope.is_allowed(path));
    let secret = place.path().join("secret.png");
    std::fs::copy(path, &secret).unwrap();
    let similar = place.path().join("Bilder für Ölaf, 写真 1 a");
    std::fs::create_dir(&similar).unwrap();
    std::fs::copy(path, similar.join("one.png")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(&secret, folder.join("link.png")).unwrap();
    let others = [secret, folder.join("../secret.png"), similar.join("one.png"), folder.join("link.png")];
    for other in others.iter().filter(|other| other.exists()) {
        assert!(!scope.is_allowed(other), "{}", other.display());
    }
}

#[test]
fn a_cancel_that_is_sent_right_behind_its_call_is_never_lost() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let window = host.window("main");
    host.pid(); // it runs
    for turn in 0..100 {
        let call = send(&window, "generate", long(slow(), turn));
        let cancel = send(&window, "cancel_request", json!({"requestId": format!("call-{turn}")}));
        cancel.recv().unwrap().unwrap();
        let answer = call.recv_timeout(std::time::Duration::from_secs(50));
        assert_eq!(answer.expect("the cancel was lost").unwrap_err()["kind"], "RequestCancelled");
    }
    assert!(host.diffusion().calls.is_empty());
}

#[test]
fn a_call_is_cancelled_by_its_id_in_its_own_window_alone() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let (window, other) = (host.window("main"), host.window("other"));
    let call = start(&window, "generate", long(slow(), 7));
    until("it draws", || host.messages(7).iter().any(|step| step["phase"] == "denoising"));
    let cancel = json!({"requestId": "call-7"});
    assert_eq!(invoke(&other, "cancel_request", cancel.clone()).unwrap(), Value::Null);
    let jobs = invoke(&window, "jobs_list", json!({"params": {}})).unwrap();
    assert_eq!(jobs["jobs"][0]["state"], "running");
    invoke(&window, "cancel_request", cancel.clone()).unwrap();
    let error = call.join().unwrap().unwrap_err();
    assert_eq!((&error["kind"], &error["code"]), (&json!("RequestCancelled"), &json!(-32800)));
    assert_eq!(error["data"]["images"], json!([]));
    // its id is free again, and cancelling a call that has ended does nothing
    invoke(&window, "cancel_request", cancel).unwrap();
    invoke(&window, "generate", long(quick(2), 7)).unwrap();
}

#[test]
fn a_call_that_is_cancelled_before_there_is_a_sidecar_is_answered_as_cancelled() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let window = host.window("main");
    let call = start(&window, "generate", long(slow(), 7));
    until("it is known", || host.diffusion().calls.len() == 1);
    invoke(&window, "cancel_request", json!({"requestId": "call-7"})).unwrap();
    assert_eq!(call.join().unwrap().unwrap_err()["kind"], "RequestCancelled");
    assert!(host.diffusion().calls.is_empty());
}

#[test]
fn after_a_reload_the_job_is_found_with_its_preview_followed_and_answered() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let window = host.window("main");
    let lost = start(&window, "generate", long(steady(8), 7));
    until("two steps are finished", || host.messages(7).iter().any(|step| step["step"] == 2));

    let jobs = invoke(&window, "jobs_list", json!({"params": {}})).unwrap();
    let job = &jobs["jobs"][0];
    assert_eq!(job["state"], "running");
    assert!(job["last"]["preview"]["data"].is_string());
    let attached = invoke(&window, "jobs_attach", long(json!({"jobId": job["jobId"]}), 8)).unwrap();
    let steps = host.messages(8);
    assert_eq!(attached["messages"], steps.len());
    assert!(steps[0]["step"].as_u64().unwrap() >= 2 && steps[0]["preview"]["data"].is_string(), "{}", steps[0]);
    assert_eq!(steps.last().unwrap()["progress"], 1.0);
    assert_eq!(attached["result"], lost.join().unwrap().unwrap()["result"]);
    let result = invoke(&window, "jobs_result", json!({"params": {"jobId": job["jobId"]}})).unwrap();
    assert_eq!(result, attached["result"]);
}

#[test]
fn a_job_is_cancelled_by_the_call_that_follows_it_and_by_its_id() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let window = host.window("main");
    for (channel, way) in [(10, "cancel_request"), (20, "cancel")] {
        let lost = start(&window, "generate", long(slow(), channel));
        until("it draws", || host.messages(channel).iter().any(|step| step["phase"] == "denoising"));
        let job = host.messages(channel)[0]["jobId"].clone();
        let attached = start(&window, "jobs_attach", long(json!({"jobId": job}), channel + 1));
        until("it is followed", || !host.messages(channel + 1).is_empty());
        let body = match way {
            "cancel" => json!({"params": {"jobId": job}}),
            _ => json!({"requestId": format!("call-{}", channel + 1)}),
        };
        invoke(&window, way, body).unwrap();
        assert_eq!(attached.join().unwrap().unwrap_err()["kind"], "RequestCancelled");
        assert_eq!(lost.join().unwrap().unwrap_err()["kind"], "RequestCancelled");
    }
}

#[test]
fn models_are_listed_and_loaded_with_progress() {
    let host = host(&["locara-diffusion:default"], |builder| builder);
    let window = host.window("main");
    let models = invoke(&window, "models_list", json!({"params": {}})).unwrap();
    assert_eq!(models["models"][0]["id"], "pocket");
    let model = invoke(&window, "models_get", json!({"params": {"model": "pocket"}})).unwrap();
    assert_eq!(model["digest"], models["models"][0]["digest"]);
    let loaded = invoke(&window, "models_load", long(json!({"model": "pocket"}), 7)).unwrap();
    assert_eq!(loaded["result"]["model"], "pocket");
    assert!(host.messages(7).iter().any(|progress| progress["phase"] == "loading"));
    assert_eq!(invoke(&window, "models_unload", json!({"params": {}})).unwrap(), json!({"unloaded": true}));
}
