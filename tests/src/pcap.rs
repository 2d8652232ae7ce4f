//! Classic pcap files of Ethernet frames, in this machine's byte order.

use crate::cmd::Result;
use std::path::Path;

/// The file's header: magic number, version 2.4, no time zone, the longest frame, Ethernet.
fn header() -> Vec<u8> {
    let words = [0xa1b2_c3d4_u32, u32::from_ne_bytes([2, 0, 4, 0]), 0, 0, 262_144, 1];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Writes a file of these frames.
pub fn write(path: &Path, frames: &[Vec<u8>]) -> Result<()> {
    let mut file = header();
    for frame in frames {
        let length = u32::try_from(frame.len())?;
        file.extend([0, 0, length, length].iter().flat_map(|word| word.to_ne_bytes()));
        file.extend(frame);
    }
    Ok(std::fs::write(path, file)?)
}

/// Reads a whole file.
pub fn read(path: &Path) -> Result<Vec<Vec<u8>>> {
    Ok(frames(&std::fs::read(path)?).map(<[u8]>::to_vec).collect())
}

/// The frames of a file's octets; a record that is not complete yet ends them.
pub fn frames(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = file.get(24..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(rest.get(8..12)?.try_into().ok()?) as usize;
        let frame = rest.get(16..16 + length)?;
        rest = &rest[16 + length..];
        Some(frame)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let frames = [vec![1, 2, 3], vec![], vec![9; 1514]];
        write(file.path(), &frames).unwrap();
        assert_eq!(read(file.path()).unwrap(), frames);
    }
}
