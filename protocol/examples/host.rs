// A host in Rust with its standard library: rustc --edition 2021 host.rs && ./host FOLDER [COMMAND …]
// It has no JSON parser: `member` returns the first member of that name, which is enough for this program.
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

const MANIFEST: &str = r#"{"schema": "locara/v1", "name": "example", "publisher": "example", "version": "1.0.0",
  "modalities": ["text-to-image"], "capabilities": {"models": ["pocket"], "fs": {"user-folder": "write"}}}"#;
const CLIENT: &str = r#""protocolVersion": 1, "clientInfo": {"name": "example", "version": "1.0.0"}"#;
const CANCEL: &str = r#"{"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 3}}"#;
const PROMPT: &str = "a large yellow star in the center of a blue background";

fn member<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let value = line.split_once(&format!("\"{name}\":"))?.1;
    match value.strip_prefix('"') {
        Some(text) => text.split('"').next(),
        None => value.split([',', '}']).next(),
    }
}

fn main() -> std::io::Result<()> {
    let mut command: Vec<String> = std::env::args().skip(1).collect();
    let folder = command.remove(0);
    command.extend(["locara-sidecar", "serve"].map(String::from)); // cut off if the user named a command
    command.truncate(2.max(command.len() - 2));
    let mut sidecar = Command::new(&command[0]).args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = sidecar.stdin.take().expect("piped");
    let mut send = |message: String| writeln!(stdin, "{}", message.replace('\n', " ")); // one line
    let generate = |id: u32, channel: &str, options: &str| {
        let params = format!(r#"{{"prompt": {PROMPT:?}, "channel": {channel}, "options": {options}}}"#);
        format!(r#"{{"jsonrpc": "2.0", "id": {id}, "method": "image.generate", "params": {params}}}"#)
    };
    let session = format!(r#"{{{CLIENT}, "manifest": {MANIFEST}, "grants": {{"user-folder": {folder:?}}}}}"#);
    send(format!(r#"{{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {session}}}"#))?;
    for line in BufReader::new(sidecar.stdout.take().expect("piped")).lines().map_while(Result::ok) {
        let of = |name| member(&line, name).unwrap_or("");
        match (of("channel"), of("phase"), of("step"), of("id")) {
            ("1", "denoising", step, _) if step != "0" => {
                let size = of("data").trim_end_matches('=').len() * 3 / 4; // of base64
                println!("step {step} of {}, preview of {size} bytes", of("steps"));
            }
            ("2", "denoising", "1", _) => send(CANCEL.into())?,
            ("", _, _, "1") => send(generate(2, "1", r#"{"steps": 4, "output": {"path": "star.png"}}"#))?,
            ("", _, _, "2") => {
                println!("saved {}", of("path"));
                send(generate(3, "2", r#"{"steps": 200}"#))?;
            }
            ("", _, _, "3") => {
                println!("cancelled: {}", of("kind"));
                send(generate(4, "null", r#"{"steps": 0}"#))?;
            }
            ("", _, _, "4") => {
                println!("error: {} at {}", of("kind"), of("path"));
                break;
            }
            _ => {}
        }
    }
    drop(stdin); // this ends the sidecar
    sidecar.wait().map(|_| ())
}
