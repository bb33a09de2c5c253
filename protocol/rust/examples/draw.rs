//! Draws a picture with live previews, cancels a second one, and shows what an error looks like:
//! `cargo run --example draw -- FOLDER [COMMAND …]`

use locara_diffusion::{Error, GenerateOptions, GenerateParams, OutputOptions, Phase, Sidecar};
use serde_json::json;

const PROMPT: &str = "a large yellow star in the center of a blue background";

fn params(options: GenerateOptions) -> GenerateParams {
    GenerateParams { options: Some(options), ..GenerateParams::new(PROMPT) }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let folder = words.next().ok_or("name the folder to draw into")?;
    let mut builder = Sidecar::builder().client_info("example", "1.0.0").grant("user-folder", folder).manifest(json!({
        "schema": "locara/v1", "name": "example", "publisher": "example", "version": "1.0.0",
        "modalities": ["text-to-image"],
        "capabilities": {"models": ["pocket"], "fs": {"user-folder": "write"}},
    }));
    if let Some(program) = words.next() {
        builder = builder.command(program, words);
    }
    let sidecar = builder.on_log(|line| eprintln!("{line}")).spawn().await?;

    let output = OutputOptions { path: Some("star.png".into()), ..Default::default() };
    let options = GenerateOptions { steps: Some(4), output: Some(output), ..Default::default() };
    let (mut steps, picture) = sidecar.generate(params(options));
    while let Some(step) = steps.next().await {
        if let (Phase::Denoising, Some(preview)) = (&step.phase, &step.preview) {
            println!("step {} of {}, preview of {} bytes", step.step, step.steps, preview.bytes()?.len());
        }
    }
    for image in picture.await?.images {
        println!("saved {}", image.path.unwrap_or_default());
    }

    let (mut steps, picture) = sidecar.generate(params(GenerateOptions { steps: Some(200), ..Default::default() }));
    while let Some(step) = steps.next().await {
        if step.step == 1 {
            picture.cancel(); // dropping it would cancel, too, but then the answer would be lost
        }
    }
    if let Err(error) = picture.await {
        println!("cancelled: {}", error.kind().map_or("not an error from the sidecar", |kind| kind.as_str()));
    }

    let (_, picture) = sidecar.generate(params(GenerateOptions { steps: Some(0), ..Default::default() }));
    if let Err(Error::Remote(error)) = picture.await {
        println!("error: {} at {}", error.kind.as_str(), error.path().unwrap_or("no path"));
    }
    sidecar.close().await;
    Ok(())
}
