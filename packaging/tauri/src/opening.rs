//! Picked files that the app itself opens, because the sidecar may not: those of macOS's App Sandbox.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use locara_diffusion::{FileAccess, PickFileResult, Sidecar};
use tauri::async_runtime::spawn_blocking;

use crate::error::Error;

struct Opened {
    name: String,
    file: File,
    /// It was not there before.
    made: bool,
}

/// Opens what the user picked, and hands it over; a file that was made for that goes again if the sidecar refuses it.
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
        let reason = "The contract has no names of files that are not Unicode.".to_owned();
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
    // to open a pipe would wait for its other end; what else is no file is told by the sidecar
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok((options.open(path)?, false))
}

/// Removes a file that was made to save into, unless somebody has written into it.
fn unmake(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.len() == 0 { fs::remove_file(path) } else { Ok(()) }
}
