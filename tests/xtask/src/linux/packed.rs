//! Files that Debian packs, and the kernel in its image.

use crate::{Outcome, need};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// A way of packing: its name, what its files begin with, the program that unpacks them and the
/// package that brings the program.
const FORMATS: [(&[u8], &str, &str); 2] = [
    (b"\xfd7zXZ\0", "xz", "xz-utils"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd"),
];

/// The bytes, unpacked if they are packed in a way that we know. `work` is a folder for a moment.
pub fn unpacked(bytes: Vec<u8>, work: &Path) -> Outcome<Vec<u8>> {
    let format = FORMATS
        .into_iter()
        .find(|(magic, _, _)| bytes.starts_with(magic));
    let Some((_, program, package)) = format else {
        return Ok(bytes);
    };
    need::tool(program, package)?;
    let file = work.join("packed");
    fs::write(&file, bytes).map_err(|error| format!("{}: {error}", file.display()))?;
    let output = Command::new(program)
        .args(["--decompress", "--stdout", "--quiet"])
        .arg(&file)
        .stderr(Stdio::inherit())
        .output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(format!("{program} does not unpack {}", file.display()))
    }
}

/// The packed kernel in an image.
///
/// Source: the kernel's documentation, "The Linux/x86 Boot Protocol", `payload_offset` and
/// `payload_length`.
pub fn kernel(image: &[u8]) -> Option<&[u8]> {
    const SECTORS: usize = 0x1f1;
    const OFFSET: usize = 0x248;
    const LENGTH: usize = 0x24c;
    // Behind the packed kernel stands how long it is when it is unpacked.
    const SIZE: usize = 4;
    let number = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes) as usize)
    };
    let start = (usize::from(*image.get(SECTORS)?) + 1) * 512 + number(OFFSET)?;
    image.get(start..start + number(LENGTH)?.checked_sub(SIZE)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_in_an_image_is_found() {
        let mut image = vec![0; 1024 + 32];
        image[0x1f1] = 1;
        image[0x248] = 8;
        image[0x24c] = 7;
        image[1032..1039].copy_from_slice(b"abc\x03\0\0\0");
        assert_eq!(kernel(&image), Some(&b"abc"[..]));
        image[0x24c] = 200;
        assert_eq!(kernel(&image), None);
        assert_eq!(kernel(b""), None);
    }

    #[test]
    fn what_is_not_packed_stays() {
        let bytes = b"\x7fELF".to_vec();
        assert_eq!(unpacked(bytes.clone(), Path::new("")), Ok(bytes));
    }
}
