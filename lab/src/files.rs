//! Files and folders, with the path in every error.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::error::{Error, Result};

/// The text of a file.
pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::file("read", path))
}

/// Writes a file and the folders above it. Readable by root alone: half of what the lab writes are keys.
pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
    }
    fs::write(path, text).map_err(Error::file("write", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(Error::file("protect", path))
}

/// Makes a folder and those above it.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::file("make folder", path))
}

/// Makes a symbolic link, in place of what was there.
pub(crate) fn link(target: &Path, link: &Path) -> Result<()> {
    remove(link)?;
    std::os::unix::fs::symlink(target, link).map_err(Error::file("make link", link))
}

/// Removes a file, if there is one.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The names in a folder, sorted; none where there is no folder.
pub(crate) fn list(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::file("list", folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(Error::file("list", folder))?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The last lines of a log; empty where there is none.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    last_lines(&text, lines)
}

/// The last lines of a text.
pub(crate) fn last_lines(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_a_shorter_text_are_all_of_it() {
        assert_eq!(last_lines("a\nb\n", 5), "a\nb");
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("", 2), "");
    }
}
