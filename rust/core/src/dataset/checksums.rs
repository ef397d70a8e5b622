//! checksums.json: the hashes of the files of a prepared folder that are not shards, whose hashes the manifest has.

use crate::error::{Error, Result};
use crate::regular_file;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksums {
    /// Size and hash of each file, by its name.
    pub files: BTreeMap<String, Checksum>,
}

/// Size and hash of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// Its size.
    pub bytes: u64,
    /// Its hash.
    pub blake3: String,
}

impl Checksums {
    /// The name of the file.
    pub const FILE: &str = "checksums.json";

    /// The hashes of those files that there are.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn of(folder: &Path, names: &[&str]) -> Result<Self> {
        let mut files = BTreeMap::new();
        for name in names {
            if let Some(checksum) = checksum(&folder.join(name))? {
                files.insert((*name).to_owned(), checksum);
            }
        }
        Ok(Self { files })
    }

    /// Adds a file that has this content.
    pub fn add(&mut self, name: &str, content: &[u8]) {
        let checksum = Checksum { bytes: content.len() as u64, blake3: blake3::hash(content).to_hex().to_string() };
        self.files.insert(name.to_owned(), checksum);
    }

    /// The file.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // A map of names, numbers and hexadecimal digits always has a form in JSON.
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// Compares a file with its hash. `None`: it is as it was written, or the folder was made before there were hashes;
    /// else what is wrong, in words.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn problem(folder: &Path, name: &str) -> Result<Option<String>> {
        let path = folder.join(Self::FILE);
        let json = match regular_file::read(&path) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
            Err(Error::File { .. }) => Vec::new(),
            read => read?,
        };
        let Ok(stored) = serde_json::from_slice::<Self>(&json) else {
            return Ok(Some(format!("{} cannot be read", Self::FILE)));
        };
        let found = checksum(&folder.join(name))?;
        let same = stored.files.get(name) == found.as_ref();
        Ok((!same).then(|| format!("its bytes do not have the hash that {} names", Self::FILE)))
    }
}

fn checksum(path: &Path) -> Result<Option<Checksum>> {
    let mut hasher = blake3::Hasher::new();
    let mut file = match regular_file::open(path, path) {
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
        // Something else under its name: it does not have the hash.
        Err(Error::File { .. }) => return Ok(None),
        file => file?,
    };
    let bytes = std::io::copy(&mut file, &mut hasher).map_err(Error::io("read", path))?;
    Ok(Some(Checksum { bytes, blake3: hasher.finalize().to_hex().to_string() }))
}
