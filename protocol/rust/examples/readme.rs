//! The program in the repository's README: `cargo run --example readme -- FOLDER`, run where `locara.json` is.

use locara_diffusion::{GenerateParams, Sidecar};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let manifest = serde_json::from_str(&std::fs::read_to_string("locara.json")?)?;
    let folder = std::env::args().nth(1).ok_or("name the folder for pictures, from the root")?;
    let sidecar = Sidecar::builder().manifest(manifest).grant("user-folder", folder).spawn().await?;
    let (mut steps, picture) = sidecar.generate(GenerateParams::new("a smiling sun on a purple background"));
    while let Some(step) = steps.next().await {
        println!("{} of {}, preview: {}", step.step, step.steps, step.preview.is_some());
    }
    for image in picture.await?.images {
        println!("{}", image.path.unwrap_or_default());
    }
    sidecar.close().await;
    Ok(())
}
