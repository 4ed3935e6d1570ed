//! Small files that are read again and again.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// The content of a file of at most `max_bytes`. The error names the file.
pub(super) fn read(path: &Path, max_bytes: usize) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let mut content = Vec::new();
    let file = File::open(path).map_err(cannot)?;
    let read = file.take(max_bytes as u64 + 1).read_to_end(&mut content).map_err(cannot)?;
    if read > max_bytes {
        return Err(format!("{} is larger than {max_bytes} bytes", path.display()));
    }
    Ok(content)
}
