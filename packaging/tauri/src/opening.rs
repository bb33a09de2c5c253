//! Picked files that the app itself opens because the sidecar may not: in macOS's App Sandbox.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use locara_diffusion::{FileAccess, PickFileResult, Sidecar};
use tauri::async_runtime::spawn_blocking;

use crate::error::Error;

struct Opened {
    name: String,
    file: File,
    /// The file was created for this.
    made: bool,
}

/// Opens the picked file and passes it to the sidecar; removes a file created for this if the sidecar refuses it.
pub(crate) async fn hand(sidecar: &Sidecar, path: PathBuf, access: FileAccess) -> Result<PickFileResult, Error> {
    let place = path.clone();
    let saves = matches!(access, FileAccess::Write);
    let Opened { name, file, made } = spawn_blocking(move || open(&path, saves)).await.map_err(|_| Error::Ending)??;
    let picked = sidecar.pick_open_file(&name, file, access).await;
    if made && picked.is_err() {
        let _ = spawn_blocking(move || unmake(&place)).await;
    }
    Ok(picked?)
}

fn open(path: &Path, saves: bool) -> Result<Opened, Error> {
    let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned).ok_or_else(|| {
        let reason = "The contract cannot express file names that are not Unicode.".to_owned();
        Error::Params { path: "$.name", reason }
    })?;
    match opened(path, saves) {
        Ok((file, made)) => Ok(Opened { name, file, made }),
        Err(source) => Err(Error::Open { name, source }),
    }
}

fn opened(path: &Path, saves: bool) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).write(saves);
    if saves {
        match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return Ok((made?, true)),
        }
    }
    // opening a pipe would wait for its other end; the sidecar reports anything else that is not a file
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok((options.open(path)?, false))
}

/// Removes a file that was created for saving, unless somebody has written to it.
fn unmake(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.len() == 0 { fs::remove_file(path) } else { Ok(()) }
}
