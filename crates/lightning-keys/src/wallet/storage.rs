//! Reading and writing of small secret files.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Read, Write};
use std::path::Path;

use zeroize::Zeroizing;

use super::WalletError;

/// A file and what its owner allows others.
pub(super) struct SecretFile {
    /// The content.
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// The nine permission bits, where the platform has them.
    pub(super) mode: Option<u32>,
}

/// Reads a file of at most [`MAX_FILE_LEN`] bytes.
pub(super) fn read(path: &Path) -> Result<SecretFile, WalletError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => WalletError::NotFound {
            path: path.to_owned(),
        },
        _ => WalletError::Read {
            path: path.to_owned(),
            source,
        },
    };
    let malformed = |reason| WalletError::Malformed {
        path: path.to_owned(),
        reason,
    };

    // Looked at before it is opened: opening a named pipe would wait for a writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(malformed("not a regular file"));
    }
    let file = File::open(path).map_err(failed)?;
    let mode = mode(&file.metadata().map_err(failed)?);
    // Reserved in full: a buffer that grows leaves copies of the secret in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE_LEN + 1));
    file.take(MAX_FILE_LEN as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > MAX_FILE_LEN {
        return Err(malformed("larger than 64 KiB"));
    }
    Ok(SecretFile { bytes, mode })
}

/// Writes a file that only its owner can read and that is never seen half written.
pub(super) fn write(path: &Path, bytes: &[u8], overwrite: bool) -> Result<(), WalletError> {
    let failed = |source| WalletError::Write {
        path: path.to_owned(),
        source,
    };
    let folder = path
        .parent()
        .ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    make_folders(folder).map_err(|source| WalletError::Write {
        path: folder.to_owned(),
        source,
    })?;

    // The temporary file is made with mode 0600, so the secret is never readable by others.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    let moved = if overwrite {
        file.persist(path)
    } else {
        file.persist_noclobber(path)
    };
    moved.map_err(|failure| match failure.error.kind() {
        io::ErrorKind::AlreadyExists => WalletError::Exists {
            path: path.to_owned(),
        },
        _ => failed(failure.error),
    })?;
    sync_folder(folder).map_err(failed)
}

#[cfg(unix)]
fn mode(metadata: &Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    Some(metadata.permissions().mode() & 0o777)
}

#[cfg(not(unix))]
fn mode(_: &Metadata) -> Option<u32> {
    None
}

fn make_folders(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Makes the new name itself survive a loss of power: a lost hotkey cannot be made again.
fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// Real files have a few hundred bytes.
const MAX_FILE_LEN: usize = 64 * 1024;
